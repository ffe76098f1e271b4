"""DiffusionKit's modules, imported without what they do not need.

The package's own `__init__` imports PyTorch and, through argmaxtools' test utilities, coremltools,
which is not needed to name weights or to compute a network and takes longer to import than MLX
itself. Of argmaxtools the modules want nothing but a logger. So the two packages around them and
that logger are stood in for while they are imported, and `sys.modules` is left as it was.
"""

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from common.backends.registry import DIFFUSIONKIT

__all__ = ["UnavailableError", "load", "verdict"]

PACKAGE, LOGGERS = "diffusionkit", "argmaxtools"
MODULES = ("config", "sampler", "clip", "t5", "vae", "mmdit", "model_io")
GIVES = "model.weights, weights as argmaxinc/mlx-* publishes them"


class UnavailableError(ValueError):
    """DiffusionKit is not installed, or is broken: the rest of such a sentence, and the command."""


@cache
def load() -> Any:
    """A namespace of `diffusionkit.mlx`'s modules: config, sampler, clip, t5, vae, mmdit, model_io.

    Raises UnavailableError in one line.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError(f"not installed: {DIFFUSIONKIT}")
    folder = Path(spec.submodule_search_locations[0])
    loggers = ModuleType(f"{LOGGERS}.utils")
    loggers.get_logger = logging.getLogger  # type: ignore[attr-defined]
    standins = {
        PACKAGE: _package(PACKAGE, folder),
        f"{PACKAGE}.mlx": _package(f"{PACKAGE}.mlx", folder / "mlx"),
        LOGGERS: _package(LOGGERS),
        f"{LOGGERS}.utils": loggers,
    }
    with _in_their_place(standins):
        try:
            modules = {name: importlib.import_module(f"{PACKAGE}.mlx.{name}") for name in MODULES}
        except Exception as error:  # another release may break in any way
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UnavailableError(f"broken ({line}): {DIFFUSIONKIT}") from None
    return SimpleNamespace(**modules)


def verdict() -> str:
    """For `drift doctor`: that it works and what for, or why it does not."""
    try:
        load()
    except UnavailableError as error:
        return f"{error} (for {GIVES})"
    return f"{version(PACKAGE)} works, for {GIVES}"


def _package(name: str, *folders: Path) -> ModuleType:
    package = ModuleType(name)
    package.__path__ = [str(folder) for folder in folders]
    return package


@contextmanager
def _in_their_place(standins: dict[str, ModuleType]) -> Iterator[None]:
    """Within it, the stand-ins are what is imported; nothing of both packages remains after."""
    before = _taken_out()
    sys.modules.update(standins)
    try:
        yield
    finally:
        _taken_out()
        sys.modules.update(before)


def _taken_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in (PACKAGE, LOGGERS)]
    return {name: sys.modules.pop(name) for name in names}
