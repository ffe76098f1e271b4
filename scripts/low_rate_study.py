"""Two parts of the study that have a length of one's choice: `neutral` and `low-rate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.study_commands import OFTEN, SCALED, changes, drift, store


@dataclass(frozen=True)
class Method:
    """A recipe of the part low-rate. longer: its updates, as a multiple of plain GRPO's."""

    longer: int
    settings: Sequence[str]


@dataclass(frozen=True)
class Length:
    """How long the parts neutral and low-rate are. updates: of plain GRPO. rate: of neutral."""

    seeds: tuple[int, ...]
    updates: int
    rate: float = 1e-3


AVERAGED = ("optimizer.ema_decay=0.9", "optimizer.ema_every=1")

BRIEF = ("checkpoint.every=4", "evaluate.every=1000", "evaluate.prompts=4")

LOW_RATE = (*OFTEN, *AVERAGED, "optimizer.learning_rate=2.5e-4")
"""The recipes' own eight prompts and their adapter of low rank, at a quarter of their rate."""

SHAPED = ("drift.shaping.weight=0.8", "objective.statistics=global")

LOW_RATE_METHODS = {
    "emoji-grpo": Method(1, LOW_RATE),
    "emoji-shaping": Method(2, (*LOW_RATE, *SHAPED)),
    "emoji": Method(2, (*LOW_RATE, *SHAPED)),
}
"""DRIFT with shaping alone and with all three mechanisms; it needs about twice the updates for the
reward that plain GRPO has."""

LOW_RATE_SPLITS = {
    "train": ("--prompts", 8, "--images", 24),
    "test": ("--prompts", 12, "--images", 16),
}
"""Prompts that are trained on, which are the main ones, and unseen ones."""

TRAINED = {"train": LOW_RATE_SPLITS["train"]}

GUIDED = ("--checkpoint", "latest", "--aig", 1.0, "--aig", 2.0, "--aig", 4.0)
"""Annealed importance guidance, at the exponents of its authors' program."""

LOW_RATE_LEVELS = ("--level", "0.5,0.75,0.9", "--diversity-level", "0.95,0.9,0.8")

LOW_RATE_COMPARISONS = {
    "low-rate": ("--split", "train", "--axis", "reward"),
    "low-rate-heldout": ("--split", "train", "--axis", "alignment_heldout"),
    "low-rate-unseen": ("--split", "test", "--axis", "reward"),
}

COINS = "0,1,2"
"""Seeds of the neutral runs' coins. Each is another reward; the seed of the run is always 0."""


def low_rate(runs: Path, backend: str, jobs: int, results: Path, length: Length) -> None:
    """Plain GRPO, DRIFT, all three mechanisms and coins at a quarter of the rate.

    So many seeds at a time as there are jobs; then the comparisons are made of all seeds until
    then.
    """
    folder, machine = runs / "low-rate", ("--backend", backend, "--jobs", jobs)
    done: list[Path] = []
    alone: list[Path] = []
    for start in range(0, len(length.seeds), jobs):
        seeds = length.seeds[start : start + jobs]
        for recipe, method in LOW_RATE_METHODS.items():
            settings = (*method.settings, f"run.updates={method.longer * length.updates}")
            options = ["--seeds", ",".join(map(str, seeds)), "--out", folder, *machine]
            drift("sweep", recipe, *options, *changes(*settings))
            trained = [folder / f"{recipe}-seed{seed}" for seed in seeds]
            measure(trained, LOW_RATE_SPLITS)
            done += trained
        plain = [folder / f"emoji-grpo-seed{seed}" for seed in seeds]
        measure(plain, LOW_RATE_SPLITS, SCALED)
        measure(plain, TRAINED, GUIDED)
        measure(done, {"train": ("--prompts", 8)}, ("--attainable",))
        if start == 0:
            alone = coins(folder, machine, (*LOW_RATE, f"run.updates={length.updates}"))
        for name, options in LOW_RATE_COMPARISONS.items():
            out = runs / f"compare-{name}"
            compared = done + (alone if "train" in options else [])
            drift("compare", *compared, *options, *LOW_RATE_LEVELS, "--out", out)
            store(out / "compare.json", results, name)


def neutral(runs: Path, backend: str, jobs: int, results: Path, length: Length) -> None:
    """Plain GRPO of the default recipe beside coins of the same length, at one learning rate."""
    folder, machine = runs / f"neutral-{length.rate:g}", ("--backend", backend, "--jobs", jobs)
    rate = f"optimizer.learning_rate={length.rate!r}"
    settings = (*BRIEF, rate, f"run.updates={length.updates}")
    options = ["--seeds", ",".join(map(str, length.seeds)), "--out", folder, *machine]
    drift("sweep", "emoji-grpo", *options, *changes(*settings))
    trained = [folder / f"emoji-grpo-seed{seed}" for seed in length.seeds]
    measure(trained, TRAINED)
    alone = coins(folder, machine, settings)
    out = folder / "compare"
    drift("compare", *trained, *alone, "--split", "train", "--out", out)
    store(out / "compare.json", results, f"noise-{length.rate:g}")


def coins(folder: Path, machine: Sequence[object], settings: Sequence[str]) -> list[Path]:
    """Train and measure the neutral runs; the task's reward scores their images too."""
    over = ("--seeds", 0, "--over", f"reward.options.coin.seed={COINS}")
    drift("sweep", "emoji-neutral", *over, "--out", folder, *machine, *changes(*settings))
    paths = sorted(file.parent for file in folder.glob("emoji-neutral-*/config.toml"))
    measure(paths, TRAINED, ("--scorer", "embedded"))
    return paths


def measure(
    paths: Sequence[Path],
    splits: Mapping[str, Sequence[object]],
    options: Sequence[object] = (),
) -> None:
    """Measure runs on each split."""
    for split, extent in splits.items():
        drift("eval", *paths, "--split", split, *extent, *options)


VARIABLE = {
    "neutral": (neutral, Length((0, 1, 2), 24)),
    "low-rate": (low_rate, Length((0, 1, 2, 3, 4), 200)),
}
"""The parts, with the length they have unless another is asked for."""
