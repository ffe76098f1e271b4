"""Finding a backend by name: entry points of the group `drift.backends`, loaded when asked for."""

import platform
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

from common.backends.backend import Backend
from common.backends.protocols import BackendUnavailableError
from common.config import closest

GROUP = "drift.backends"

LIBRARIES = {"drift_torch": "torch", "drift_mlx": "mlx"}
"""The library that each backend package needs; also the name of the extra that installs it."""

DIFFUSIONKIT = "pip install --no-deps diffusionkit==0.5.2 beartype"
"""It pins an MLX that no other package accepts; these of its other requirements are imported."""


def names() -> list[str]:
    """Names of the backends that are registered, sorted, whether they can run here or not."""
    return sorted(_entries())


def load(name: str, dtype: str = "float32") -> Backend:
    """The backend of that name.

    Raises ValueError when nothing is registered under the name, and BackendUnavailableError,
    which says what to install or why not, when it cannot run here.
    """
    entries = _entries()
    if name not in entries:
        raise ValueError(f"no backend '{name}'{closest(name, entries)}")
    entry = entries[name]
    library = _library(entry)
    if library and find_spec(library) is None:
        raise BackendUnavailableError(_missing(name, library))
    try:
        factory = entry.load()
    except ImportError as error:
        # MLX on Linux installs without its compiled half, and a library may be broken.
        hint = f"; {_missing(name, library)}" if library else ""
        raise BackendUnavailableError(f"backend {name} cannot be imported: {error}{hint}") from None
    return factory(dtype=dtype)


def probe(name: str) -> Backend | BackendUnavailableError:
    """The backend, or the reason why it cannot run here."""
    try:
        return load(name)
    except BackendUnavailableError as error:
        return error


def best() -> str:
    """The fastest backend of this machine: Metal, else CUDA, else PyTorch's CPU, else MLX's CPU.

    Imports a tensor library only to ask it for a GPU. Raises BackendUnavailableError when no
    library is installed.
    """
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    if apple and not isinstance(probe("mlx"), BackendUnavailableError):
        return "mlx"
    if find_spec("torch") is not None:
        return "cpu" if isinstance(probe("cuda"), BackendUnavailableError) else "cuda"
    if find_spec("mlx") is not None:
        return "mlx"
    raise BackendUnavailableError(
        "neither PyTorch nor MLX is installed: pip install 'drift-toolkit[torch]' or "
        "'drift-toolkit[mlx]'"
    )


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _library(entry: EntryPoint) -> str | None:
    return LIBRARIES.get(entry.module.partition(".")[0])


def _missing(name: str, library: str) -> str:
    return f"backend {name} needs {library}: pip install 'drift-toolkit[{library}]'"
