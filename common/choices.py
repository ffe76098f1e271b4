"""Choices that the command line offers too. No imports: `drift --help` loads them at once."""

from typing import Literal, get_args

__all__ = [
    "ALIGNMENTS",
    "DIVERSITIES",
    "EXPONENT",
    "PROGRAMS",
    "READINGS",
    "RUN_COLUMNS",
    "SCALE",
    "SPLITS",
    "STANDING",
    "STRENGTH",
    "Alignment",
    "Diversity",
    "Program",
    "Reading",
    "RunColumn",
    "Split",
    "Standing",
]

Split = Literal["train", "validation", "test"]
"""The part of a prompt set that a prompt belongs to."""

SPLITS: tuple[Split, ...] = get_args(Split)

Reading = Literal["front", "path"]
"""The curve that gains are measured on: see `common.comparison.gains`."""

READINGS: tuple[Reading, ...] = get_args(Reading)

Alignment = Literal["reward", "alignment_heldout", "alignment_train"]
"""The measure of alignment that methods are compared by; the reward is that of the run."""

ALIGNMENTS: tuple[Alignment, ...] = get_args(Alignment)

Diversity = Literal["diversity", "vendi", "pixel_distance", "modes"]
"""The measure of diversity that methods are compared by, in the first features."""

DIVERSITIES: tuple[Diversity, ...] = get_args(Diversity)

Standing = Literal["scale", "aig", "cads"]
"""A standing baseline at inference: see `common.comparison.standing`."""

STANDING: tuple[Standing, ...] = get_args(Standing)

SCALE, STRENGTH, EXPONENT = (0.0, 2.0), (0.0, 10.0), (0.0, 100.0)
"""Least and most of a factor on trained weights, of CADS at inference, and of AIG."""

Program = Literal["diffusers", "peft", "comfyui", "kohya", "mlx"]
"""What an adapter is exported for; kohya: sd-scripts and what reads its files; mlx: mflux."""

PROGRAMS: tuple[Program, ...] = get_args(Program)

RunColumn = Literal[
    "age", "run", "recipe", "backend", "updates", "reward", "alignment", "diversity", "state"
]
"""What the list of runs can be sorted by."""

RUN_COLUMNS: tuple[RunColumn, ...] = get_args(RunColumn)
