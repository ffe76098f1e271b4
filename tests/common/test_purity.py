"""The mathematics stands alone: importing it loads no tensor library, and `__all__` is its API."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import common.algorithm

MODULES = sorted(
    f"common.algorithm.{module.name}" for module in pkgutil.iter_modules(common.algorithm.__path__)
)


def test_importing_the_algorithm_loads_no_tensor_library():
    program = f"""
import importlib, sys
import common
for name in {MODULES!r}:
    importlib.import_module(name)
print(sorted({{"torch", "mlx", "drift_torch", "drift_mlx"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", MODULES)
def test_all_lists_the_public_names(name):
    module = importlib.import_module(name)
    made = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) or inspect.isclass(value)
    }
    here = {key for key, value in made.items() if value.__module__ == name}
    listed = made.keys() & set(module.__all__)  # beside them, constants and lists of choices
    assert all(hasattr(module, key) for key in module.__all__)
    assert listed == {key for key in here if not key.startswith("_")}
    assert list(module.__all__) == sorted(module.__all__, key=_as_ruff_sorts)


def _as_ruff_sorts(name):
    """Constants first, then classes and lists of choices, then functions."""
    return not name.isupper(), not name[0].isupper(), name
