"""Finding a user's own class by `module:Class`, as a configuration names it."""

import importlib
import os
import sys
from typing import Any

from common.config_errors import closest

__all__ = ["named"]


def named(where: str, name: str) -> Any:
    """What `module:Class` is; a module is looked for on the import path, then in this folder.

    Args:
        where: the key of the configuration, for messages.
        name: the module, a colon, and the name of what it holds.

    Raises:
        ValueError: in one line, for a module that does not import, or has no such name.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"{where} = '{name}': write module:Class")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # a console script, unlike `python -m`, does not look here
    try:
        found = importlib.import_module(module)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where} = '{name}': cannot import '{module}': {what}") from error
    if not hasattr(found, attribute):
        classes = [key for key, value in vars(found).items() if isinstance(value, type)]
        hint = closest(attribute, classes) if classes else ""
        raise ValueError(f"{where} = '{name}': '{module}' has no '{attribute}'{hint}")
    return getattr(found, attribute)
