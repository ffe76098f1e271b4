"""`drift eval`: measure the checkpoints of runs, and of their base model, on chosen prompts."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.choices import SPLITS
from common.commands import attainable as attainable_command
from common.commands.trust import trust_option
from common.errors import RequestError

if TYPE_CHECKING:
    from common.evaluation.records import Record, Split
    from common.workflows.evaluate import Measurement

SCALES = click.FloatRange(0.0, 2.0)
STRENGTHS = click.FloatRange(0.0, 10.0)
EXPONENTS = click.FloatRange(0.0, 100.0)

COLUMNS = {
    "alignment_heldout": ("held-out", 2),
    "reward": ("reward", 2),
    "diversity": ("diversity", 3),
    "vendi": ("Vendi", 2),
    "modes": ("modes", 2),
    "frechet": ("Frechet", 3),
    "frechet_real": ("to real", 3),
    "high_frequency": ("high freq.", 4),
    "recall": ("recall", 2),
    "coverage": ("coverage", 2),
}
"""Measures of the table, those that a record has: head and least decimals."""


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
    "--aig",
    multiple=True,
    type=EXPONENTS,
    default=(0.0,),
    show_default=True,
    help="Exponent of annealed importance guidance, for every checkpoint; more than once for more.",
)
@click.option(
    "--scorer",
    "scorers",
    multiple=True,
    metavar="NAME",
    help="A reward that the run does not maximise; more than once.  [default: evaluate.scorers]",
)
@click.option(
    "--feature",
    "features",
    multiple=True,
    metavar="NAME",
    help="Image features to measure diversity in; more than once.  [default: evaluate.features]",
)
@click.option(
    "--real",
    metavar="DIR",
    help="Folder of real images to measure the Frechet distance to.  [default: evaluate.real]",
)
@click.option(
    "--backend",
    metavar="auto|mlx|cuda|cpu",
    help="Where to compute; auto: the best here.  [default: the run's if it works here, else auto]",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of images that runs share.  [default: evaluation-cache beside RUN]",
)
@click.option(
    "--keep/--no-keep",
    default=True,
    show_default=True,
    help="Keep the images of checkpoints, so that a further scorer or feature samples nothing.",
)
@click.option(
    "--attainable",
    is_flag=True,
    help="Instead of checkpoints: how much diversity can be had at most, at equal reward.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="With --attainable: images of each prompt, a multiple of 16.",
)
@click.option(
    "--ratio",
    type=float,
    metavar="C",
    help="With --attainable: how much more likely an image may become.  [default: samples/8]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@trust_option
@click.pass_context
def evaluate(
    context: click.Context,
    directories: tuple[Path, ...],
    splits: tuple["Split", ...],
    prompts: int,
    images: int,
    steps: int,
    seed: int,
    wanted: tuple[str, ...],
    scales: tuple[float, ...],
    strengths: tuple[float, ...],
    aig: tuple[float, ...],
    scorers: tuple[str, ...],
    features: tuple[str, ...],
    real: str | None,
    backend: str | None,
    cache: Path | None,
    keep: bool,
    attainable: bool,
    samples: int,
    ratio: float | None,
    as_json: bool,
    trust: bool,
) -> None:
    """Measure checkpoints of each RUN: alignment, diversity and degradation.

    For every model: the reward of the run, diversity, and what the base model's images are to the
    tuned ones', in the features evaluate.features. The emoji model has a held-out alignment too.
    Every run gets the same initial noise. The results go to RUN/evaluation: one JSON line and one
    picture for each checkpoint and split. The same command again measures only what is missing. A
    run may still be training: only its complete checkpoints are read.

    With --attainable: both fronts of the base model's images, the most diversity at equal reward
    that KL regularisation and that any method can have, go to RUN/evaluation/attainable.json.
    """
    from common.workflows import evaluate as workflow, options

    attainable_command.refuse_without_effect(context, attainable=attainable)
    if attainable:
        how = options.checked(
            options.AttainableOptions,
            splits=splits,
            prompts=prompts,
            samples=samples,
            ratio=ratio,
            steps=steps,
            seed=seed,
            scorers=scorers,
            features=features,
        )
        attainable_command.run(
            dict.fromkeys(directories), how, backend, cache, as_json=as_json, trust=trust
        )
        return
    _check_finite("--scale", scales)
    _check_finite("--prompt-noise", strengths)
    _check_finite("--aig", aig)
    chosen = options.checked(
        options.EvaluateOptions,
        splits=splits,
        prompts=prompts,
        images=images,
        steps=steps,
        seed=seed,
        scales=scales,
        prompt_noise=strengths,
        aig=aig,
        scorers=scorers,
        features=features,
        real=real,
    )
    planned = workflow.plan(dict.fromkeys(directories), chosen, wanted, backend)
    counts = workflow.measure_all(planned, cache, keep=keep, quiet=as_json, trust=trust)
    if as_json:
        rows = [_as_json(each, new) for each, new in zip(planned, counts, strict=True)]
        click.echo(json.dumps({"runs": rows}))
    else:
        for each in planned:
            _print_tables(each)


def _check_finite(option: str, values: Sequence[float]) -> None:
    for value in values:  # a range of click refuses infinity, but not NaN
        if not math.isfinite(value):
            raise RequestError(f"{option} {value}: write a number")


def _as_json(measurement: "Measurement", new: int) -> dict[str, Any]:
    from common.evaluation.records import FILE
    from common.workflows.evaluate import mean_rows

    run = measurement.run
    means = mean_rows(measurement)
    return {"run": str(run.path), "records": str(run.path / FILE), "new": new, "means": means}


def _print_tables(measurement: "Measurement") -> None:
    from common.console import say, table
    from common.evaluation.records import FILE
    from common.workflows.evaluate import features_note
    from common.workflows.run import records_under

    run = measurement.run
    for how in measurement.protocols:
        say(f"\n{run.path}: {len(how.prompts)} {how.split} prompts, {how.images} images of each\n")
        if note := features_note(run.config, how):
            say(f"{note}\n")
        measured = records_under(run, how)
        for rows in _fitting([_row(record, measured[0]) for record in measured]):
            table(rows, right=rows[0])
        for name in how.more_names:
            say(f"\nin the features {name}:\n")
            for rows in _fitting([_features_row(record, measured[0], name) for record in measured]):
                table(rows, right=rows[0])
    say(f"\nrecords  {run.path / FILE}")


def _fitting(rows: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """The rows as one table, or as two where a terminal is too narrow for all columns.

    Scale, noise and AIG are left out where every row has the default.
    """
    from common.console import console

    usual = {"scale": "1", "noise": "0", "AIG": "0"}
    plain = [key for key, value in usual.items() if all(row[key] == value for row in rows)]
    names = [key for key in ("update", *usual) if key not in plain]
    measures = [key for key in rows[0] if key not in ("update", *usual)]
    width = sum(3 + max(len(key), *(len(row[key]) for row in rows)) for key in [*names, *measures])
    parts = [measures]
    if console.is_terminal and width - 3 > console.width:
        parts = [measures[: len(measures) // 2 + 1], measures[len(measures) // 2 + 1 :]]
    return [[{key: row[key] for key in [*names, *part]} for row in rows] for part in parts]


def _row(record: "Record", base: "Record") -> dict[str, str]:
    from common.evaluation.records import HELD_OUT

    row = _variant(record)
    for name, (head, decimals) in COLUMNS.items():
        if name not in record.measures:
            continue
        places = _places(base.mean(name), decimals) if name == "reward" else decimals
        row[head] = f"{record.mean(name):.{places}f}"
        if name == "diversity":
            row["of base"] = _share(record, base, name)
        for scorer in record.protocol.scorers if name == "reward" else ():
            value, start = (each.mean(HELD_OUT + scorer) for each in (record, base))
            row[scorer] = f"{value:.{_places(start, decimals)}f}"
    return row


def _features_row(record: "Record", base: "Record", features: str) -> dict[str, str]:
    """What was measured in further features."""
    from common.evaluation.records import in_features

    row = _variant(record)
    for name, (head, decimals) in COLUMNS.items():
        measure = in_features(name, features)
        if measure in record.measures:
            row[head] = f"{record.mean(measure):.{decimals}f}"
        if name == "diversity":
            row["of base"] = _share(record, base, measure)
    return row


def _variant(record: "Record") -> dict[str, str]:
    variant = record.variant
    return {
        "update": str(variant.update) if variant.update else "base",
        "scale": f"{variant.scale:g}",
        "noise": f"{variant.prompt_noise:g}",
        "AIG": f"{variant.aig:g}",
    }


def _share(record: "Record", base: "Record", measure: str) -> str:
    """A measure as a share of the base model's."""
    start = base.mean(measure)
    return f"{record.mean(measure) / start:.0%}" if start else "-"


def _places(value: float, least: int) -> int:
    """Decimals that show three digits of a value, and at least so many."""
    if value == 0 or not math.isfinite(value):
        return least
    return max(least, min(2 - math.floor(math.log10(abs(value))), 6))
