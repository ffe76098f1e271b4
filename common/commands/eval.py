"""`drift eval`: measure the checkpoints of runs, and of their base model, on chosen prompts."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from common.choices import SPLITS
from common.commands.sample import backend_of
from common.errors import RequestError, preparing

if TYPE_CHECKING:
    from common.evaluation.records import Protocol, Record, Split, Variant
    from common.runs.directory import RunDirectory

SCALES = click.FloatRange(0.0, 2.0)
STRENGTHS = click.FloatRange(0.0, 10.0)


@click.command(name="eval", short_help="Measure alignment and diversity of checkpoints.")
@click.argument(
    "directories", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(SPLITS),
    default=("train", "test"),
    show_default=True,
    help="Which prompts: the run's own, or held-out ones of its source; more than once for more.",
)
@click.option(
    "--prompts",
    type=click.IntRange(min=0),
    default=24,
    show_default=True,
    help="Of each split, at most; 0 for all.",
)
@click.option(
    "--images", type=click.IntRange(min=2), default=16, show_default=True, help="Of each prompt."
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Of the ODE."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of the initial noise, the same for every run.",
)
@click.option(
    "--checkpoint",
    "wanted",
    multiple=True,
    metavar="N|base|latest",
    help="After which update; more than once for more.  [default: all; the base is always there]",
)
@click.option(
    "--scale",
    "scales",
    multiple=True,
    type=SCALES,
    default=(1.0,),
    show_default=True,
    help="Factor on what was trained, for every checkpoint; more than once for more.",
)
@click.option(
    "--prompt-noise",
    "strengths",
    multiple=True,
    type=STRENGTHS,
    default=(0.0,),
    show_default=True,
    help="Strength of CADS at inference, for the base and every checkpoint; more than once.",
)
@click.option(
    "--backend",
    metavar="auto|mlx|cuda|cpu",
    help="Where to draw; auto: the best here.  [default: the run's if it works here, else auto]",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where runs share their base model's images.  [default: evaluation-cache beside RUN]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def evaluate(
    directories: tuple[Path, ...],
    splits: tuple["Split", ...],
    prompts: int,
    images: int,
    steps: int,
    seed: int,
    wanted: tuple[str, ...],
    scales: tuple[float, ...],
    strengths: tuple[float, ...],
    backend: str | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Measure checkpoints of each RUN: alignment, diversity and degradation.

    Every run gets the same initial noise. What was measured goes to RUN/evaluation, one JSON line
    for each checkpoint and split, with a picture; the same command again measures only what is
    missing. A run may still be training: its complete checkpoints are read, nothing else.
    """
    from common.evaluation import measure

    with preparing():
        _check_finite("--scale", scales)
        _check_finite("--prompt-noise", strengths)
        jobs = []
        for directory in dict.fromkeys(directories):
            run, variants = _variants(directory, wanted, scales, strengths)
            protocols = [
                measure.protocol(run, split, prompts=prompts, images=images, steps=steps, seed=seed)
                for split in dict.fromkeys(splits)
            ]
            jobs.append((run, protocols, variants, backend_of(backend, run)))
    counts = []
    for run, protocols, variants, engine in jobs:
        with _Progress(run, len(protocols) * len(variants), quiet=as_json) as progress:
            folder = cache or run.path.absolute().parent / measure.CACHE
            measure.evaluate(
                run, engine, protocols, variants, cache=folder, measured=progress.measured
            )
        counts.append(progress.new)
    if as_json:
        found = [
            _as_json(run, protocols, new)
            for (run, protocols, *_), new in zip(jobs, counts, strict=True)
        ]
        click.echo(json.dumps({"runs": found}))
    else:
        for run, protocols, *_ in jobs:
            _print_tables(run, protocols)


def _variants(
    directory: Path, wanted: Sequence[str], scales: Sequence[float], strengths: Sequence[float]
) -> tuple["RunDirectory", list["Variant"]]:
    """The run, and what to measure of it in order; the base as it is always comes first."""
    from common.evaluation.records import Variant, load
    from common.runs.directory import RunDirectory

    run = RunDirectory.open(directory)
    load(run)  # damage shows before the work, not after it
    chosen = {
        Variant(update, scale if update else 1.0, strength)
        for update in _updates(run, wanted)
        for scale in scales
        for strength in strengths
    }
    return run, sorted({Variant(0), *chosen})


def _updates(run: "RunDirectory", wanted: Sequence[str]) -> list[int]:
    """The updates asked for, 0 for the base; all there are without a wish."""
    from common.evaluation import measure

    there = measure.checkpoints(run)
    if not there and set(wanted) != {"base"}:
        raise RequestError(
            f"{run.path} has no checkpoint yet; --checkpoint base measures the model before tuning"
        )
    known = f"; there are base, {', '.join(map(str, there))}"
    updates = []
    for which in wanted:
        if which not in ("base", "latest") and not which.isdecimal():
            raise RequestError(
                f"--checkpoint {which}: write the number of an update, base or latest"
            )
        update = {"base": 0, "latest": max(there, default=0)}.get(which)
        update = int(which) if update is None else update
        if update and update not in there:
            raise RequestError(f"no checkpoint after update {update} in {run.path}{known}")
        updates.append(update)
    return updates or [0, *there]


def _check_finite(option: str, values: Sequence[float]) -> None:
    for value in values:  # a range refuses infinity, but not NaN
        if not math.isfinite(value):
            raise RequestError(f"{option} {value}: write a number")


class _Progress:
    """Tells of each record: a bar on a terminal, and a line for each new one."""

    def __init__(self, run: "RunDirectory", total: int, *, quiet: bool) -> None:
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        from common.console import console

        self.new = 0
        self._quiet = quiet
        self._bar = Progress(
            "{task.description}",
            BarColumn(24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task(
            f"measuring {escape(run.path.absolute().name)}", total=total
        )

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def measured(self, record: "Record", is_new: bool) -> None:
        """Take in a record that was made just now, or was there."""
        from common.console import say

        now = time.perf_counter()
        self._bar.advance(self._task)
        self.new += is_new
        if is_new and not self._quiet:
            say(
                f"measured {_name(record.variant)} on {record.protocol.split} prompts: "
                f"held-out {record.mean('alignment_heldout'):.2f}  "
                f"diversity {record.mean('diversity'):.3f}  ({now - self._start:.1f} s)"
            )
        self._start = now


def _name(variant: "Variant") -> str:
    name = f"update {variant.update}" if variant.update else "base model"
    if variant.scale != 1.0:
        name += f" x {variant.scale:g}"
    return name + (f" with prompt noise {variant.prompt_noise:g}" if variant.prompt_noise else "")


def _measured(run: "RunDirectory", how: "Protocol") -> list["Record"]:
    """All that the run has under a protocol, the base first."""
    from common.evaluation.records import load

    found = [record for record in load(run) if record.protocol == how]
    return sorted(found, key=lambda record: record.variant)


def _as_json(run: "RunDirectory", protocols: Sequence["Protocol"], new: int) -> dict[str, Any]:
    from common.evaluation.records import FILE, MEASURES

    rows = [
        {
            **vars(record.variant),
            "split": how.split,
            "prompts": len(how.prompts),
            **{name: record.mean(name) for name in MEASURES},
            "frechet": record.frechet,
            "grid": record.grid,
        }
        for how in protocols
        for record in _measured(run, how)
    ]
    return {"run": str(run.path), "records": str(run.path / FILE), "new": new, "means": rows}


def _print_tables(run: "RunDirectory", protocols: Sequence["Protocol"]) -> None:
    from common.console import say, table
    from common.evaluation.records import FILE

    for how in protocols:
        say(f"\n{run.path}: {len(how.prompts)} {how.split} prompts, {how.images} images of each\n")
        found = _measured(run, how)
        for rows in _fitting([_row(record, found[0]) for record in found]):
            table(rows, right=rows[0])
    say(f"\nrecords  {run.path / FILE}")


def _fitting(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """The rows as one table, or as two where a terminal is too narrow for all columns.

    Scale and noise are left out where they are the same in every row and so say nothing.
    """
    from common.console import console

    usual = {"scale": "1", "noise": "0"}
    plain = [key for key, value in usual.items() if all(row[key] == value for row in rows)]
    names = [key for key in ("update", *usual) if key not in plain]
    measures = [key for key in rows[0] if key not in ("update", *usual)]
    width = sum(3 + max(len(key), *(len(row[key]) for row in rows)) for key in [*names, *measures])
    parts = [measures]
    if console.is_terminal and width - 3 > console.width:
        parts = [measures[: len(measures) // 2 + 1], measures[len(measures) // 2 + 1 :]]
    return [[{key: row[key] for key in [*names, *part]} for row in rows] for part in parts]


def _row(record: "Record", base: "Record") -> dict[str, str]:
    mean, variant = record.mean, record.variant
    return {
        "update": str(variant.update) if variant.update else "base",
        "scale": f"{variant.scale:g}",
        "noise": f"{variant.prompt_noise:g}",
        "held-out": f"{mean('alignment_heldout'):.2f}",
        "reward": f"{mean('reward'):.2f}",
        "diversity": f"{mean('diversity'):.3f}",
        "of base": f"{mean('diversity') / of:.0%}" if (of := base.mean("diversity")) else "-",
        "Vendi": f"{mean('vendi'):.2f}",
        "modes": f"{mean('modes'):.2f}",
        "Frechet": f"{record.frechet:.3f}",
        "high freq.": f"{mean('high_frequency'):.4f}",
        "recall": f"{mean('recall'):.2f}",
        "coverage": f"{mean('coverage'):.2f}",
    }
