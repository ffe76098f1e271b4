"""Import a user's class or function from its `module:name` in the configuration."""

import ast
import importlib
import itertools
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import consent, reading
from common.config.errors import closest

__all__ = ["check", "error_text", "place", "resolve", "resolve_class"]

OURS = Path(__file__).parent
"""The toolkit's package `common`."""

_OUR_FOLDERS = tuple(
    f"{OURS.with_name(name)}{os.sep}" for name in ("common", "drift", "drift_torch", "drift_mlx")
)
_LIBRARIES = (
    *_OUR_FOLDERS,
    "<frozen",
    *(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib")),
)

_RENAME = "{} has the name of the toolkit's package 'common', which is imported instead: rename it"


def resolve(where: str, name: str, *, what: str, likely: Callable[[Any], bool]) -> Any:
    """The object that `module:name` refers to.

    The module is looked for on the import path, then in the working folder.

    Args:
        where: the first words of an error message.
        name: `module:name`; the name may have dots, as in `module:Class.method`.
        what: "function" or "Class", the kind of object, for error messages.
        likely: whether an object is of that kind; an error suggests names of such objects only.

    Raises:
        ValueError: one line; the module cannot be imported or has no such name.
        RequestError: a file names it, and the user has not consented: see `common.consent`.
    """
    module, path = check(where, name, what=what)
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # Python adds it for `python -m`, not for a console script
    try:
        if hidden := _hidden_by_ours(module):
            raise ImportError(_RENAME.format(hidden))
        target: Any = importlib.import_module(module)
    except Exception as error:
        reason = f"{error_text(error)}{place(error, (__file__,))}"
        raise ValueError(f"{where}: cannot import '{module}': {reason}") from error
    for part in path.split("."):
        if not hasattr(target, part):
            others = [key for key, value in vars(target).items() if likely(value)]
            hint = closest(part, others) if others else ""
            raise ValueError(f"{where}: '{module}' has no '{part}'{hint}")
        target = getattr(target, part)
    return target


def check(where: str, name: str, *, what: str) -> tuple[str, str]:
    """The module and the name in `module:name`, without importing anything.

    Raises the errors of `resolve` for what is not written so, has no consent, or is in a package
    that is not there.
    """
    module, _, path = name.partition(":")
    if not module or not path:
        raise ValueError(f"{where}: write module:{what}")
    consent.require(name, f"import '{module}' and run its code ({where})")
    top = module.partition(".")[0]
    if not _is_there(top):
        error = ModuleNotFoundError(f"No module named '{top}'")
        raise ValueError(f"{where}: cannot import '{module}': {error_text(error)}")
    return module, path


def _is_there(top: str) -> bool:
    """Whether a module of that name is loaded, on the import path or in the working folder."""
    if top in sys.modules:
        return True
    try:
        return any(PathFinder.find_spec(top, path) for path in (None, [os.getcwd()])) or (
            find_spec(top) is not None
        )
    except (ImportError, ValueError):
        return True  # importing it says what is wrong


def resolve_class(key: str, name: str) -> Any:
    """The class `module:Class` in a key of the configuration; errors as in `resolve`."""
    where = f"{key} = '{name}'"
    return resolve(where, name, what="Class", likely=lambda value: isinstance(value, type))


def _hidden_by_ours(module: str) -> Path | None:
    """A file called `common` that the module needs, and that the toolkit's package hides.

    Python has one module of a name. The toolkit's is imported long before, so that `import common`
    in a user's module never gives the file beside it.
    """
    spec = None if module.partition(".")[0] == OURS.name else find_spec(module)
    file = Path(spec.origin) if spec and spec.origin else Path(os.getcwd(), module)
    beside = (file.parent / f"{OURS.name}.py", file.parent / OURS.name / "__init__.py")
    hidden = next((path for path in beside if path.is_file()), None)
    if hidden is None or hidden.parent.resolve() == OURS:
        return None
    if spec is None:
        return hidden
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # importing it says what is wrong
        return None
    return hidden if any(_is_theirs(node) for node in ast.walk(tree)) else None


def _is_theirs(node: ast.AST) -> bool:
    """Whether a statement imports of `common` what the toolkit's package does not have."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        names = [node.module]
        if node.module == OURS.name:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return False
    return any(name.split(".")[0] == OURS.name and not _is_ours(name) for name in names)


def _is_ours(name: str) -> bool:
    parts = name.split(".")[1:2]  # a bare `import common` is of no use with ours: it is theirs
    return bool(parts) and any((OURS / f"{parts[0]}{end}").exists() for end in ("", ".py"))


def error_text(error: BaseException) -> str:
    """The type of an error and its message, in one line."""
    return reading.printable(f"{type(error).__name__}: {error}").rstrip(": ")


def place(error: BaseException, above: Collection[str]) -> str:
    """The line of a user's code that an error is from, as " (my_rewards.py, line 12)".

    It is the deepest line outside of the toolkit, of Python's library and of installed packages;
    for the code of an installed package its own deepest line. "" for the toolkit's own code, and
    where the text of the error has the line already.

    above: files of the toolkit that called the user's code; "" too where it was not called.
    """
    frames = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    called = itertools.dropwhile(lambda frame: frame[0] in above or _imports(frame[0]), frames)
    lines = list(called)
    if not lines or isinstance(error, SyntaxError) or lines[0][0].startswith(_OUR_FOLDERS):
        return ""
    own = [frame for frame in lines if not frame[0].startswith(_LIBRARIES)]
    file, line = (own or [frame for frame in lines if frame[0] == lines[0][0]])[-1]
    path = Path(file)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f" ({shown}, line {line})"


def _imports(file: str) -> bool:
    """Whether a file is part of Python's import system."""
    return file.startswith(("<frozen", f"{Path(importlib.__file__).parent}{os.sep}"))
