"""Import a user's class or function from its `module:name` in the configuration."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from common.config.errors import closest

__all__ = ["error_text", "resolve", "resolve_class"]


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
    """
    module, _, path = name.partition(":")
    if not module or not path:
        raise ValueError(f"{where}: write module:{what}")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # Python adds it for `python -m`, not for a console script
    try:
        target: Any = importlib.import_module(module)
    except Exception as error:
        raise ValueError(f"{where}: cannot import '{module}': {error_text(error)}") from error
    for part in path.split("."):
        if not hasattr(target, part):
            others = [key for key, value in vars(target).items() if likely(value)]
            hint = closest(part, others) if others else ""
            raise ValueError(f"{where}: '{module}' has no '{part}'{hint}")
        target = getattr(target, part)
    return target


def resolve_class(key: str, name: str) -> Any:
    """The class `module:Class` in a key of the configuration; errors as in `resolve`."""
    where = f"{key} = '{name}'"
    return resolve(where, name, what="Class", likely=lambda value: isinstance(value, type))


def error_text(error: BaseException) -> str:
    """The type of an error and its message, in one line."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
