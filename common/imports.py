"""Finding what a user wrote by `module:name`, as a configuration names it."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from common.config.errors import closest

__all__ = ["a_class", "named", "text"]


def named(where: str, name: str, *, what: str, likely: Callable[[Any], bool]) -> Any:
    """What `module:name` is; a module is looked for on the import path, then in this folder.

    Args:
        where: what an error message begins with.
        name: the module, a colon, and the name of what it holds, with dots for what that holds.
        what: "function", "Class": what is wanted.
        likely: whether a value could be meant, for the nearest name.

    Raises:
        ValueError: in one line, for a module that does not import, or has no such name.
    """
    module, _, path = name.partition(":")
    if not module or not path:
        raise ValueError(f"{where}: write module:{what}")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # a console script, unlike `python -m`, does not look here
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise ValueError(f"{where}: cannot import '{module}': {text(error)}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            others = [key for key, value in vars(found).items() if likely(value)]
            hint = closest(part, others) if others else ""
            raise ValueError(f"{where}: '{module}' has no '{part}'{hint}")
        found = getattr(found, part)
    return found


def a_class(key: str, name: str) -> Any:
    """The class `module:Class` that a key of the configuration names; errors as of `named`."""
    where = f"{key} = '{name}'"
    return named(where, name, what="Class", likely=lambda value: isinstance(value, type))


def text(error: BaseException) -> str:
    """An error in words, its type first."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
