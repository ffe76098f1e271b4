"""Predicts the time of an update on many processes from parts that were measured on one.

python -m scripts.scale_model sd35m-pickscore-grpo --processes 8,64,512 --parts FILE.json
python -m scripts.scale_model --check 1,2,4

A rollout batch, a call of a reward and a micro-batch take the same time wherever they are computed;
what changes is how many a process has, and what is sent. The parts are those of a document of
`scripts/gpu_bench.sh`, or numbers that you give: none is assumed. `--check` measures a tiny run on
this machine, by the processor's time, and compares.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from common import config as configuration, reading
from common.backends import Policy
from common.backends.lanes import kept_by, lane_of, lanes_of
from common.config import Config
from common.learning import footprint, footprint_several, shares
from common.learning.footprint import FLOAT
from common.learning.shares import number_of_lanes
from common.rewards.registry import REWARDS

RECIPES = ("sd35m-pickscore-grpo", "flux-dev-pickscore")

LATENT = {"sd3": (16, 8), "flux": (16, 8), "sd15": (4, 8), "embedded": (3, 1)}
"""Family -> channels of a latent, and pixels of a side for one of its."""

TINY = (
    "rollout.prompts=4", "rollout.group_size=16", "rollout.steps=4", "rollout.window=0",
    "rollout.batch_size=8", "objective.micro_batch=8", "evaluate.images=2", "evaluate.steps=1",
    "run.updates=2", "checkpoint.every=100", "objective.kl_every=0", "drift.subset.rule=none",
)  # fmt: skip
"""The run of `--check`."""

TIMED = ("sampling", "training")
"""The parts that `--check` compares."""


@dataclass(frozen=True)
class Parts:
    """Seconds of one unit of work; rest: of what every process does in an update, as the credit."""

    rollout_batch: float
    micro_batch: float
    scoring_call: float
    rest: float = 0.0


@dataclass(frozen=True)
class Links:
    """Bytes a second that a process sends and gets at once, and that it copies on its host.

    inside: between processes of one node, of `per_node`. between: between nodes, for each process.
    """

    per_node: int
    inside: float
    between: float
    copied: float

    def between_all(self, size: int) -> float:
        """Those of the slowest way between so many processes."""
        return self.inside if size <= self.per_node else self.between


@dataclass(frozen=True)
class Work:
    """The units of an update and the bytes that processes exchange.

    calls: of rewards. micro_batches: of each optimizer step. image: bytes of a sample that all get.
    latents: bytes of a sample that those get who train on it. trained: bytes of a gradient.
    """

    config: Config
    images: int
    rollout_batches: int
    calls: int
    micro_batches: tuple[int, ...]
    lanes: int
    image: int
    latents: int
    trained: int


def work(config: Config, trained: int, lanes: int = 0) -> Work:
    """The work of an update; trained: numbers that are trained; lanes: 0 = those of the recipe.

    Rules that keep a part of a group by its rewards are counted as if they kept all.
    """
    rollout, objective = config.rollout, config.objective
    if config.model.family not in LATENT:
        raise ValueError(f"the latents of model.family = '{config.model.family}' are not known")
    channels, scale = LATENT[config.model.family]
    pixels = config.model.resolution or 32  # those of the emoji model
    policy = cast(
        Policy, SimpleNamespace(latent_shape=(channels, pixels // scale, pixels // scale))
    )
    images = rollout.prompts * rollout.group_size
    latents = footprint.latent_bytes(config, policy)
    kept = rollout.prompts * (config.drift.subset.keep or rollout.group_size)
    pairs, steps = kept * footprint.stored_steps(config), objective.optimizer_steps
    in_step = [pairs // steps + (n < pairs % steps) for n in range(steps)]
    return Work(
        config,
        images,
        -(-images // rollout.batch_size),
        sum(-(-images // (_batch_size(config, name) or images)) for name in config.reward.terms),
        tuple(-(-count // objective.micro_batch) for count in in_step),
        lanes or number_of_lanes(config),
        footprint.sample_bytes(config, policy, 3 * pixels**2) - latents,
        latents,
        trained * FLOAT,
    )


def predict(units: Work, parts: Parts, links: Links, size: int) -> dict[str, float]:
    """Seconds of an update by part, on the process that has most of it.

    Raises ValueError for more processes than lanes.
    """
    if size > units.lanes:
        raise ValueError(f"{size} processes, but {units.lanes} lanes")
    speed, others = links.between_all(size), (size - 1) / size
    moved = footprint_several.sent_samples(units.config, size) * units.latents
    rows = max(len(kept_by(r, size, units.lanes, range(units.lanes))) for r in range(size))
    gathered = units.images * units.image
    copies = 0 if size == 1 else 1
    gradients = len(units.micro_batches) * units.trained
    return {
        "sampling": -(-units.rollout_batches // size) * parts.rollout_batch,
        "sending images": gathered * others / speed + copies * 4 * gathered / links.copied,
        "scoring": -(-units.calls // size) * parts.scoring_call,
        "on every process": parts.rest,
        "sending latents": moved / speed + copies * 5 * moved / links.copied,
        "training": sum(_most(count, size, units.lanes) for count in units.micro_batches)
        * parts.micro_batch,
        # Slices of its sums go to all, then the two halves of the total come from all.
        "adding gradients": gradients * (rows + 2) * others / speed
        + copies * 3 * gradients / links.copied,
    }


def bound(units: Work, parts: Parts, links: Links, size: int) -> str:
    """The part that costs most beside an equal share of what one process takes; "" for none."""
    alone, shared = (predict(units, parts, links, count) for count in (1, size))
    lost = {name: shared[name] - alone[name] / size for name in shared}
    worst = max(lost, key=lambda name: lost[name])
    return worst if lost[worst] > 0.01 * sum(shared.values()) else ""


def efficiency(units: Work, parts: Parts, links: Links, size: int) -> float:
    """The share of the time of `size` processes that one process alone would have needed."""
    alone, shared = (sum(predict(units, parts, links, n).values()) for n in (1, size))
    return alone / (size * shared)


def measured_parts(row: Mapping[str, float], units: Work) -> Parts:
    """The parts of a run of one process, from a row of its `metrics.jsonl`.

    What is not in a part, as the credit, is done by every process.
    """
    rollout, update = row["time/rollout"], row["time/update"]
    scored = sum(value for name, value in row.items() if name.startswith("time/reward/"))
    return Parts(
        rollout / units.rollout_batches,
        update / sum(units.micro_batches),
        scored / units.calls,
        max(row["seconds"] - rollout - scored - update, 0.0),
    )


def parts_of_document(path: Path, recipe: str) -> tuple[Parts, int]:
    """The parts of a recipe and its trained numbers, of a document of `scripts/gpu_bench.sh`.

    ValueError where it has not measured that recipe.
    """
    names = {
        "seconds": "update_s",
        "time/rollout": "rollout_s",
        "time/reward/all": "scored_s",
        "time/update": "trained_s",
    }
    try:
        rows = reading.json_document(reading.content(path))["rows"].values()
        for row in (row.get("figures", {}) for row in rows):
            if row.get("recipe") == recipe and set(names.values()) <= row.keys():
                trained = int(row["trained_parameters"])
                units = work(configuration.load(recipe, row["settings"]), trained)
                times = {key: float(row[name]["median"]) for key, name in names.items()}
                return measured_parts(times, units), trained
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no document of scripts/gpu_bench.sh: {error}") from None
    raise ValueError(f"{path} has no times of {recipe}")


def table(recipe: str, sizes: Sequence[int], parts: Parts, links: Links, trained: int) -> str:
    """A Markdown table: a row for each number of processes."""
    lines = ["| processes | lanes | update | of one | efficiency | bound by |"]
    lines.append("|--:|--:|--:|--:|--:|---|")
    config = configuration.load(recipe)
    alone = work(config, trained)
    first = sum(predict(alone, parts, links, 1).values())
    for size in sizes:
        lanes = max(alone.lanes, 1 << (size - 1).bit_length())
        if lanes > shares.MOST:
            lines.append(f"| {size} | - | refused: at most {shares.MOST} share an update | | | |")
            continue
        units = replace(alone, lanes=lanes)
        seconds = sum(predict(units, parts, links, size).values())
        share = efficiency(units, parts, links, size)
        worst = bound(units, parts, links, size) or "nothing above 1 %"
        lines.append(
            f"| {size} | {lanes} | {seconds:.1f} s | {first / seconds:.1f} x | {share:.0%} "
            f"| {worst} |"
        )
    return "\n".join(lines)


# --- on this machine ------------------------------------------------------------------------------

DRIVER = """
import sys, time
from types import SimpleNamespace
import common.clock, common.rewards.suite
sys.modules["drift_mlx"] = sys.modules["mlx"] = None
own = SimpleNamespace(perf_counter=time.process_time)
common.clock.time = common.rewards.suite.time = own
from common import report
report.build = lambda run: run.report
from common.sweep import jobs
jobs.DRIFT = (sys.executable, "-c", sys.argv[1], sys.argv[1])
sys.argv = ["drift", *sys.argv[2:]]
from common.cli import main
main()
"""
"""`drift` whose clocks count the time of the processor, in each of its processes."""


def check(sizes: Sequence[int]) -> str:
    """A Markdown table: seconds of the processor of a tiny update, predicted from one and measured.

    They are those of process 0, which has the most batches; the second update counts.
    """
    units = work(configuration.load("emoji", TINY), trained=98_304)
    parts: Parts | None = None
    lines = ["| processes | sampling: predicted, measured | training | both |"]
    lines.append("|--:|--:|--:|--:|")
    free = Links(1, 1e15, 1e15, 1e15)  # what is sent is waited for, and takes no processor
    for size in sizes:
        row = _measured(size)
        parts = parts or measured_parts(row, units)
        sampling, training = (predict(units, parts, free, size)[name] for name in TIMED)
        sampled, trained = row["time/rollout"], row["time/update"]
        lines.append(
            f"| {size} | {sampling:.2f} s, {sampled:.2f} s | {training:.2f} s, {trained:.2f} s "
            f"| {sampling + training:.2f} s, {sampled + trained:.2f} s |"
        )
    return "\n".join(lines)


def _measured(size: int) -> dict[str, float]:
    """The row of the second update of a tiny run on so many processes of this machine."""
    sets = [word for change in TINY for word in ("--set", change)]
    with tempfile.TemporaryDirectory(prefix="drift-scale-") as folder:
        words = ["run", "emoji", "--backend", "cpu", "--out", f"{folder}/run", *sets]
        subprocess.run(
            [sys.executable, "-c", DRIVER, DRIVER, *words, "--processes", str(size)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return json.loads((Path(folder) / "run/metrics.jsonl").read_text().splitlines()[-1])


# --- the command ----------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> int:
    """Print a table; 2 where a number is missing or wrong."""
    options = _parse(words)
    try:
        if options.check:
            print(check(options.check))
            return 0
        parts, trained = _given(options)
        links = Links(options.per_node, *(1e9 * _above_0(options, n) for n in LINKS))
        print(table(options.recipe, options.processes, parts, links, trained))
        if options.plot:
            draw(options.plot, options.recipe, options.processes, parts, links, trained)
    except (ValueError, OSError) as error:
        print(f"scale_model: {error}", file=sys.stderr)
        return 2
    return 0


LINKS = ("inside", "between", "copied")


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    def counts(text: str) -> list[int]:
        values = [int(word) for word in text.split(",")]
        if min(values) < 1:
            raise ValueError(text)
        return values

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("recipe", nargs="?", default=RECIPES[0])
    parser.add_argument("--processes", type=counts, default=[8, 64, 512], metavar="N,N")
    parser.add_argument("--check", type=counts, metavar="N,N", help="measure a tiny run here")
    parser.add_argument("--parts", type=Path, help="a document of scripts/gpu_bench.sh")
    for field in fields(Parts):
        name = field.name.replace("_", "-")
        parser.add_argument(f"--{name}", type=float, metavar="S", help="seconds, without --parts")
    parser.add_argument("--trained", type=int, metavar="N", help="trained numbers, without --parts")
    parser.add_argument("--per-node", type=int, default=8, help="GPUs of a node (%(default)s)")
    for name, what in zip(LINKS, ("GPUs of a node", "nodes, each GPU", "the host"), strict=True):
        parser.add_argument(f"--{name}", type=float, metavar="GB", help=f"GB a second: {what}")
    parser.add_argument("--plot", type=Path, help="with --parts: a figure of the parts")
    return parser.parse_args(words)


def _given(options: argparse.Namespace) -> tuple[Parts, int]:
    """The parts and the trained numbers that the user names."""
    if options.parts is not None:
        return parts_of_document(options.parts, options.recipe)
    if options.plot:
        raise ValueError("--plot draws measured parts: give their document with --parts")
    values = {field.name: getattr(options, field.name) for field in fields(Parts)}
    values["rest"] = values["rest"] or 0.0
    missing = [name for name, value in values.items() if value is None]
    if missing or not options.trained:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in missing or ["trained"])
        raise ValueError(f"nothing is assumed: give {names}, or a document with --parts")
    if any(not 0 <= value < 1e9 for value in values.values()):
        raise ValueError("seconds are valid from 0 on")
    return Parts(**values), options.trained


def _above_0(options: argparse.Namespace, name: str) -> float:
    value = getattr(options, name)
    if value is None or not 0 < value < 1e9:
        raise ValueError(f"--{name}: give the GB a second that were measured, above 0")
    return value


def draw(
    path: Path, recipe: str, sizes: Sequence[int], parts: Parts, links: Links, trained: int
) -> None:
    """A bar of seconds by part for each number of processes that can share an update."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    units = work(configuration.load(recipe), trained)
    lanes = {size: max(units.lanes, 1 << (size - 1).bit_length()) for size in sizes}
    possible = [size for size in sizes if lanes[size] <= shares.MOST]
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    bottom = [0.0] * len(possible)
    by_size = [predict(replace(units, lanes=lanes[n]), parts, links, n) for n in possible]
    for name in by_size[0] if by_size else ():
        heights = [each[name] for each in by_size]
        axes.bar([str(n) for n in possible], heights, bottom=bottom, label=name)
        bottom = [low + high for low, high in zip(bottom, heights, strict=True)]
    axes.set(xlabel="processes", ylabel="seconds of an update", title=recipe)
    axes.legend(fontsize="small")
    figure.savefig(path)
    plt.close(figure)


def _most(count: int, size: int, lanes: int) -> int:
    """The most micro-batches of an optimizer step that one of the processes computes."""
    places = [lane_of(n, count, lanes) for n in range(count)]
    return max(
        sum(place in lanes_of(rank, size, lanes) for place in places) for rank in range(size)
    )


def _batch_size(config: Config, name: str) -> int | None:
    """Images of one call of a reward; None where it gets all at once."""
    own = config.reward.options.get(name, {}).get("batch_size")
    REWARDS.available()  # registers those of other packages
    declared = REWARDS.entries.get(name)
    default = declared[0].batch_size if declared else None
    return int(own) if own else default


if __name__ == "__main__":
    sys.exit(main())
