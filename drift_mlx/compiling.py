"""Whole functions compiled by MLX: traced once for each set of shapes, then only run.

To the compiler a number is a constant, and so is every array that is not an argument: what changes
from call to call has to be an array among the arguments.
"""

import platform
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

__all__ = ["Spent", "check_compiler", "compiled", "spent"]


@dataclass
class Spent:
    """The cost of compiling in this process: functions traced, and seconds."""

    traces: int = 0
    seconds: float = 0.0
    _depth: int = 0


spent = Spent()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A faster version of a pure function of arrays, and of lists and dicts of them.

    A call while another function is traced becomes a part of that function.
    """

    def traced(*arguments: Any) -> Any:
        spent.traces += 1
        spent._depth += 1
        try:
            return _unmerged(function(*arguments))
        finally:
            spent._depth -= 1

    fast = mx.compile(traced)

    def call(*arguments: Any) -> Any:
        if spent._depth:
            return function(*arguments)
        before, start, outside = spent.traces, time.perf_counter(), _compiler_seconds()
        results = fast(*arguments)
        if spent.traces > before:
            spent.seconds += time.perf_counter() - start
            mx.eval(results)  # which is when a CPU's code is generated
            spent.seconds += _compiler_seconds() - outside
        return results

    return call


def check_compiler() -> None:
    """ValueError where MLX has nothing to compile with: on a CPU it calls g++."""
    on_cpu = mx.default_device().type == mx.DeviceType.cpu
    if on_cpu and shutil.which("g++") is None:
        how = "xcode-select --install" if platform.system() == "Darwin" else "apt install g++"
        raise ValueError(
            "model.compile = true: MLX compiles on a CPU with g++, and there is none in PATH; "
            f"install it ({how}) or set model.compile = false"
        )


def _unmerged(results: Any) -> Any:
    """The same arrays, which the compiler cannot merge with others.

    What is computed twice MLX 0.32.4 merges; where one of the two is a result, as a ratio that the
    loss needs as well, it then cannot find it: IndexError.
    """
    arrays: list[mx.array] = []
    tree_map(arrays.append, results)
    behind = iter(mx.depends(arrays, arrays[:1]))
    return tree_map(lambda _: next(behind), results)


def _compiler_seconds() -> float:
    """Seconds of the programs that this process called and waited for; g++ is one of them."""
    of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return of_children.ru_utime + of_children.ru_stime
