"""Fixtures of every test: one array namespace after the other, and arrays made in it.

`xp` runs a test once under each of numpy (the reference), array_api_strict with its optional
features off (which refuses what MLX refuses), torch and mlx. A library that is missing here is
skipped, unless DRIFT_REQUIRE_BACKENDS names it ("torch,mlx"): then its absence is an error.
DRIFT_TEST_DEVICE=cuda puts PyTorch's arrays on that device. `checkpoint` makes tiny checkpoints of
the real model families.
"""

import ctypes
import importlib
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads a threaded library
# What a test trusts is not trusted by the person who runs it.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="drift-tests-")

import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import settings

import drift_mlx  # before MLX: it loads OpenBLAS first where there is one
from tests.skips import (  # noqa: F401  # pytest finds hooks by their names
    pytest_make_collect_report,
    pytest_runtest_makereport,
)
from tests.slow import leave_out, pytest_addoption  # noqa: F401  # found by its name too

# A shell that starts the tests in the background ignores these signals, and so would every run.
for name in ("SIGINT", "SIGHUP"):
    number = getattr(signal, name, None)  # Windows has no SIGHUP
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
        signal.signal(number, usual)

MODULES = {
    "numpy": "numpy",
    "strict": "array_api_strict",
    "torch": "torch",
    "mlx": "mlx.core",
}

LONGEST = (
    "test_gpu_bench.py", "test_trainer.py", "test_kill.py", "test_parity.py", "test_pipelines.py",
    "test_variants.py", "test_hand_over.py", "test_signals.py", "test_recipes.py",
)  # fmt: skip
"""Of the test files, in seconds."""

settings.register_profile("drift", derandomize=True, deadline=None)
settings.load_profile("drift")


def _required() -> set[str]:
    listed = os.environ.get("DRIFT_REQUIRE_BACKENDS", "").split(",")
    return {name.strip() for name in listed if name.strip()}


def pytest_configure() -> None:
    if unknown := _required() - MODULES.keys():
        raise pytest.UsageError(
            f"DRIFT_REQUIRE_BACKENDS: unknown {sorted(unknown)}; valid: {', '.join(MODULES)}"
        )


def pytest_sessionstart(session: pytest.Session) -> None:
    if sys.platform != "linux" or hasattr(session.config, "workerinput"):
        return
    try:
        ctypes.CDLL(drift_mlx.OPENBLAS)
    except OSError:
        print("OpenBLAS is missing, so the tests of MLX are slow: apt install libopenblas0-pthread")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The files that take longest begin: a worker that begins one late would end alone."""
    leave_out(config, items)
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else 99)


def pytest_collection_finish() -> None:
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(scope="session", params=MODULES)
def xp(request: pytest.FixtureRequest) -> Any:
    """One array namespace after the other, as `array_namespace` gives it."""
    module = MODULES[request.param]
    if request.param in _required():
        library = importlib.import_module(module)
    else:
        library = pytest.importorskip(module)
    if request.param == "strict":
        library.set_array_api_strict_flags(
            boolean_indexing=False,
            data_dependent_shapes=False,
            enabled_extensions=("linalg",),  # for the eigenvalues of the Vendi score, nothing else
        )
    if request.param == "torch":
        library.set_num_threads(1)
        if device := os.environ.get("DRIFT_TEST_DEVICE"):
            library.set_default_device(device)
    return array_namespace(library.asarray([0.0]))


@pytest.fixture(scope="session")
def f32(xp: Any) -> Callable[[Any], Any]:
    """Makes a float32 array of `xp` from nested lists or a numpy array."""
    return lambda values: xp.asarray(np.array(values, dtype=np.float32), dtype=xp.float32)


@pytest.fixture(scope="session")
def f64(xp: Any) -> Callable[[Any], Any]:
    """Makes a float64 array of `xp`; float32 on MLX, whose float64 is no reference."""
    dtype = xp.float32 if _is_mlx(xp) else xp.float64
    return lambda values: xp.asarray(np.array(values, dtype=np.float64), dtype=dtype)


@pytest.fixture(scope="session")
def bools(xp: Any) -> Callable[[Any], Any]:
    """Makes a boolean array of `xp`."""
    dtype = xp.bool_ if _is_mlx(xp) else xp.bool
    return lambda values: xp.asarray(np.array(values, dtype=bool), dtype=dtype)


@pytest.fixture(scope="session")
def rtol() -> Callable[[Any], float]:
    """`rtol(xp)`: relative tolerance of a short computation on what `f64` makes."""
    return lambda xp: 2e-5 if _is_mlx(xp) else 1e-11


@pytest.fixture(scope="session")
def to_np() -> Callable[[Any], np.ndarray]:
    """An array of any of the four libraries as a numpy array of the same dtype."""
    return lambda array: np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(family, **shape) -> a tiny checkpoint's folder, made when first asked for: `tiny.py`."""
    made, builders = {}, {}

    def path(family: str, **shape: Any) -> Path:
        key = (family, *sorted(shape.items()))
        if key not in made:
            if not builders:
                torch = pytest.importorskip("torch")
                tiny = Path(__file__).with_name("torch") / "tiny.py"
                builders.update(runpy.run_path(str(tiny))["BUILDERS"])
                torch.manual_seed(0)
            made[key] = builders[family](tmp_path_factory.mktemp(family) / "model", **shape)
        return made[key]

    return path


def _is_mlx(xp: Any) -> bool:
    return xp.__name__.startswith("mlx")
