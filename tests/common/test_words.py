"""The product has plain words: no private vocabulary in its names, docstrings and pages."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("common", "drift", "drift_torch", "drift_mlx", "scripts")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "common/report/*.j2")

NAMES = {
    "told": "on_progress, inputs, message: what it is",
    "found": "the noun that it is",
    "held": "locked, stored or nbytes",
    "apart": "measure_in_subprocess, distances: what it is",
    "explained": "os_errors_as, load_errors_in_one_line",
    "Remembered": "LastResultCache",
    "reads": "can_read",
    "of": "advantages_at, from_config, get_or_encode: what it returns",
    "who": "the noun that it is",
    "whoever": "the noun that it is",
    "passing": "transient_parts",
    "as_set": "with_memory_settings",
}
"""Names that a variable, argument, attribute, function or class must not have, and better ones."""

PHRASES = (
    r"(is|are|be|been|was|were|not|can|what) told",
    r"[Tt]old (apart|of|that|to|in|as|by|what|how|its|their|the)",
    r"tells (of|apart|how|what|whether|when|which|it|them)",
    r"tell (apart|how|what|whether)",
    r"[Ww]hoever",
    r"[Ww]ho watches",
    r"anew",
    r"(is|be|was|are) had",
    r"what time means",
    r"one draw for each",
)
"""Phrases that docstrings, comments and pages must not have."""

ALLOWED = {
    ("common/audit/measure.py", "explained"): "the key of `drift audit --json`",
    ("common/audit/verdict.py", "explained"): "the name of a rule in `drift audit --json`",
}
"""(file, name) that stays, and why."""


def python_files() -> list[Path]:
    return [path for room in CODE for path in sorted((ROOT / room).rglob("*.py"))]


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of every name that the code gives."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.ExceptHandler(name=str()):
                yield node.lineno, str(node.name)


def prose(source: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring and comment, with one space for any white space."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.lineno, " ".join(str(node.value.value).split())
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def private_names(source: str) -> list[tuple[int, str]]:
    given = names(ast.parse(source))
    return sorted({(line, name) for line, name in given if name.lstrip("_") in NAMES})


def private_phrases(text: str) -> list[str]:
    return [match[0] for pattern in PHRASES for match in re.finditer(rf"\b{pattern}\b", text)]


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_names_say_what_a_thing_is():
    wrong = [
        f"{_relative(path)}:{line}: '{name}'; better: {NAMES[name.lstrip('_')]}"
        for path in python_files()
        for line, name in private_names(path.read_text(encoding="utf-8"))
        if (_relative(path), name) not in ALLOWED
    ]
    assert not wrong, "\n".join(wrong)


def test_docstrings_and_comments_have_no_private_phrases():
    wrong = []
    for path in python_files():
        source = path.read_text(encoding="utf-8")
        for line, text in prose(source, ast.parse(source)):
            wrong += [f"{_relative(path)}:{line}: '{words}'" for words in private_phrases(text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("pattern", PAGES)
def test_pages_have_no_private_phrases(pattern):
    pages = sorted(ROOT.glob(pattern))
    assert pages, f"no page {pattern}"
    wrong = []
    for page in pages:
        text = " ".join(page.read_text(encoding="utf-8").split())
        wrong += [f"{_relative(page)}: '{words}'" for words in private_phrases(text)]
    assert not wrong, "\n".join(wrong)


def test_every_exception_is_needed():
    for file, name in ALLOWED:
        source = (ROOT / file).read_text(encoding="utf-8")
        assert name in [each for _, each in private_names(source)], (file, name)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(told): pass", ["told"]),
        ("found = 1", ["found"]),
        ("self._held = 1", ["_held"]),
        ("class C:\n    def of(self): pass", ["of"]),
        ("try: f()\nexcept E as told: pass", ["told"]),
        ("for found in x: pass", ["found"]),
        ("print(file.tell(), held_out, x.found)", []),
    ],
)
def test_names_are_recognised(source, expected):
    assert [name for _, name in private_names(source)] == expected


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Errors are told in one line, and whoever reads them starts anew.", 4),
        ("They cannot be told apart.", 2),
        ("The held-out scorer was found in the report.", 0),
    ],
)
def test_phrases_are_recognised(text, count):
    assert len(private_phrases(text)) == count
