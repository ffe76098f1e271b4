"""Every command that a page shows has the options, keys and recipes that there are."""

import re
import shlex
from pathlib import Path

import click
import pytest

from common.cli import drift
from common.config import known_keys

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\S*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELLS = ("", "sh", "bash")
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OPEN_KEYS = (
    "reward.terms.",
    "reward.options.",
    "reward.floors",
    "reward.limits",
    "evaluate.options",
)
"""What names of rewards and features follow."""


def commands(page):
    """The commands of the page's blocks as lists of words, without comments and pipes."""
    for language, block in FENCED.findall(page.read_text(encoding="utf-8")):
        if language not in SHELLS:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
            lexer.whitespace_split = True
            words = []
            for word in [*lexer, ";"]:
                if set(word) <= set(";|&<>"):
                    if words:
                        yield words
                    words = []
                else:
                    words.append(word)


def checked(words):
    """Parse the words of a `drift` command. Raises click.UsageError as the command would."""
    command, words = drift, list(words)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        _, command, words = command.resolve_command(click.Context(command), words)
    with command.make_context("drift", words) as context:
        return context.params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_can_be_given(page):
    for words in commands(page):
        while words and re.fullmatch(r"[A-Z_]+=.*|srun|torchrun|accelerate|mlx.launch", words[0]):
            words = words[words.index("common") :] if "common" in words else words[1:]
        if not words:
            continue
        if words[0] == "make":
            named = [word for word in words[1:] if "=" not in word]
            assert set(named) <= TARGETS, words
        elif words[0] in ("drift", "common"):
            parameters = checked(words[1:])
            for change in parameters.get("overrides") or ():
                key = change.partition("=")[0]
                assert key in known_keys() or key.startswith(OPEN_KEYS), words
        elif words[:2] == ["python", "-m"]:
            module = ROOT.joinpath(*words[2].split("."))
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), words
        elif words[0] == "python" and words[1].startswith("scripts/"):
            assert (ROOT / words[1]).exists(), words


def test_an_option_that_is_not_there_would_be_noticed():
    with pytest.raises(click.UsageError, match="No such option"):
        checked(["run", "emoji", "--no-such-option"])
    with pytest.raises(click.UsageError, match="No such command"):
        checked(["runn"])
