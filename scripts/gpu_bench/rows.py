"""What is measured, most valuable first. A later row is a function, and a line here."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scripts.gpu_bench.context import Context, Mode

__all__ = ["NEEDED", "ROWS", "Row", "chosen"]

NEEDED = (
    *("numpy", "array_api_compat", "click", "rich", "pydantic", "safetensors", "PIL"),
    *("matplotlib", "jinja2", "tomli_w"),
)
"""Modules that the toolkit itself imports: every row needs them."""

MODELS = ("diffusers", "requests", "transformers", "accelerate")
TESTS = ("pytest", "hypothesis")


@dataclass(frozen=True)
class Row:
    """One row: a function in this package, and what it needs.

    number: what `--rows` calls a whole block of rows. work: "module:function" of `package`, which
    takes a Context. seconds: expected of a full, a smoke and a tiny run, with the start of the
    process. gigabytes: device memory that the full run needs. modules: that it imports beside
    NEEDED. alone: it measures time, so in a full run nothing runs beside it.
    """

    number: int
    name: str
    title: str
    work: str
    seconds: tuple[float, float, float]
    gigabytes: float = 2.0
    modules: tuple[str, ...] = ()
    alone: bool = True
    package: str = "scripts.gpu_bench"

    def expected(self, mode: Mode) -> float:
        """Seconds that the row is expected to take."""
        return self.seconds[("full", "smoke", "tiny").index(mode)]

    @property
    def function(self) -> Callable[[Context], dict[str, Any]]:
        """The function that measures; importing its module may take seconds."""
        module, _, name = self.work.partition(":")
        return getattr(importlib.import_module(f"{self.package}.{module}"), name)


ROWS = (
    Row(1, "rates", "matrix products and copies", "rates:rates", (15, 8, 4)),
    Row(
        2,
        "parity-golden",
        "golden tests on the card",
        "tests:golden",
        (40, 25, 16),
        modules=TESTS,
        alone=False,
    ),
    Row(2, "parity-emoji", "emoji model", "parity:emoji", (40, 20, 8), alone=False),
    Row(2, "parity-sd15", "tiny SD 1.5", "parity:sd15", (40, 25, 12), modules=MODELS, alone=False),
    Row(2, "parity-sd3", "tiny SD 3.5", "parity:sd3", (40, 25, 12), modules=MODELS, alone=False),
    Row(
        2,
        "parity-flux",
        "tiny FLUX.1-dev",
        "parity:flux",
        (40, 25, 12),
        modules=MODELS,
        alone=False,
    ),
    Row(
        3,
        "sd3-fast",
        "SD 3.5 medium, fast",
        "models:sd3_fast",
        (40, 15, 9),
        gigabytes=60,
        modules=MODELS,
    ),
    Row(
        3,
        "sd3-grpo",
        "SD 3.5 medium, Flow-GRPO",
        "models:sd3_grpo",
        (60, 15, 9),
        gigabytes=60,
        modules=MODELS,
    ),
    Row(
        3,
        "sd3-fast-compiled",
        "SD 3.5 medium, fast, compiled",
        "models:sd3_fast_compiled",
        (90, 40, 9),
        gigabytes=60,
        modules=MODELS,
    ),
    Row(
        4,
        "straight-sd3-fast",
        "SD 3.5 medium, fast",
        "straight:sd3_fast",
        (60, 20, 10),
        gigabytes=70,
        modules=(*MODELS, "peft"),
    ),
    Row(
        4,
        "straight-sd3-grpo",
        "SD 3.5 medium, Flow-GRPO",
        "straight:sd3_grpo",
        (100, 20, 10),
        gigabytes=75,
        modules=(*MODELS, "peft"),
    ),
    Row(5, "study", "the emoji study", "study:study", (150, 25, 25), gigabytes=12),
    Row(
        3,
        "sd3-grpo-compiled",
        "SD 3.5 medium, Flow-GRPO, compiled",
        "models:sd3_grpo_compiled",
        (150, 40, 9),
        gigabytes=60,
        modules=MODELS,
    ),
    Row(
        6,
        "sd15-24gb",
        "SD 1.5, 24 GB",
        "models:sd15_24gb",
        (60, 15, 9),
        gigabytes=22,
        modules=MODELS,
    ),
    Row(
        6,
        "sd3-24gb",
        "SD 3.5 medium, 24 GB",
        "models:sd3_24gb",
        (60, 15, 9),
        gigabytes=22,
        modules=MODELS,
    ),
    Row(
        6,
        "flux",
        "FLUX.1-dev, Flow-GRPO",
        "models:flux",
        (120, 25, 9),
        gigabytes=70,
        modules=MODELS,
    ),
    Row(
        7,
        "trace",
        "a profile of one update",
        "trace:trace",
        (60, 25, 10),
        gigabytes=60,
        modules=MODELS,
    ),
    Row(
        8,
        "tests",
        "tests that need a GPU",
        "tests:marked",
        (60, 40, 20),
        modules=TESTS,
        alone=False,
    ),
    Row(9, "resume", "killed and resumed", "resume:resume", (60, 45, 25), alone=False),
    Row(10, "mlx", "MLX on CUDA", "mlx_cuda:mlx", (60, 30, 16), modules=("mlx",)),
)
"""Compiling Flow-GRPO's recipe comes after the study: it takes longer and says less."""


def chosen(names: str | None) -> list[Row]:
    """The rows of a list such as "2,sd3-fast", in the order of ROWS; None is all of them.

    Raises ValueError naming what is no row.
    """
    if names is None:
        return list(ROWS)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {str(row.number) for row in ROWS} | {row.name for row in ROWS}
    if strange := [name for name in wanted if name not in known] or ([""] if not wanted else []):
        valid = ", ".join(row.name for row in ROWS)
        raise ValueError(f"--rows: no row '{strange[0]}'; valid: 1 to {ROWS[-1].number}, {valid}")
    return [row for row in ROWS if row.name in wanted or str(row.number) in wanted]
