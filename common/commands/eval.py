"""`drift eval`: measure the checkpoints of runs, and of their base model, on chosen prompts."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common import launched
from common.choices import EXPONENT, SCALE, SPLITS, STRENGTH
from common.commands import attainable as attainable_command, eval_images, eval_table, several
from common.commands.path_type import FilePath
from common.commands.trust import trust_option
from common.errors import RequestError

if TYPE_CHECKING:
    from common.evaluation.records import Split
    from common.workflows.evaluate import Measurement


steps_option = click.option(
    "--steps", type=click.IntRange(min=1), default=20, show_default=True, help="Of the ODE."
)

noise_option = click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of the initial noise, the same for every run.",
)


@click.command(name="eval", short_help="Measure alignment and diversity of checkpoints.")
@click.argument("directories", metavar="RUN...", nargs=-1, type=FilePath())
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
@steps_option
@noise_option
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
    type=click.FloatRange(*SCALE),
    default=(1.0,),
    show_default=True,
    help="Factor on what was trained, for every checkpoint; more than once for more.",
)
@click.option(
    "--prompt-noise",
    "strengths",
    multiple=True,
    type=click.FloatRange(*STRENGTH),
    default=(0.0,),
    show_default=True,
    help="Strength of CADS at inference, for the base and every checkpoint; more than once.",
)
@click.option(
    "--aig",
    multiple=True,
    type=click.FloatRange(*EXPONENT),
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
    type=FilePath(file_okay=False),
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
    help="Instead of checkpoints: how much diversity is possible at most, at equal reward.",
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
@click.option(
    "--folder",
    type=FilePath(),
    metavar="DIR",
    help="Instead of checkpoints: images made elsewhere, DIR/PROMPT/*.png or a .jsonl, like RUN's "
    "or, without RUN, alone.",
)
@click.option(
    "--name",
    metavar="NAME",
    help="With --folder: the method in `drift compare`, beside RUN or DIR.",
)
@several.processes_option
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
    folder: Path | None,
    name: str | None,
    processes: int | None,
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

    With --folder and --name: images of another program are measured as RUN was, with the same
    prompts and equally many of each; without RUN alone, with no base model and no reward.
    """
    from common.workflows import evaluate as workflow, options

    attainable_command.refuse_without_effect(context, attainable=attainable)
    shared: dict[str, Any] = {
        "splits": splits,
        "prompts": prompts,
        "steps": steps,
        "seed": seed,
        "scorers": scorers,
        "features": features,
    }
    alone = attainable or folder is not None or name is not None
    if alone and (processes or launched.size()) > 1:
        raise RequestError("--attainable and --folder are work for one process")
    several.run(context, processes)
    if folder is not None or name is not None:
        eval_images.run(context, directories, backend, cache, as_json=as_json, trust=trust)
        return
    if not directories:
        raise click.MissingParameter(ctx=context, param=context.command.params[0])
    if attainable:
        how = options.checked(options.AttainableOptions, samples=samples, ratio=ratio, **shared)
        attainable_command.run(
            dict.fromkeys(directories), how, backend, cache, as_json=as_json, trust=trust
        )
        return
    _check_finite("--scale", scales)
    _check_finite("--prompt-noise", strengths)
    _check_finite("--aig", aig)
    chosen = options.checked(
        options.EvaluateOptions,
        images=images,
        scales=scales,
        prompt_noise=strengths,
        aig=aig,
        real=real,
        **shared,
    )
    planned = workflow.plan(dict.fromkeys(directories), chosen, wanted, backend)
    counts = workflow.measure_all(planned, cache, keep=keep, quiet=as_json, trust=trust)
    if launched.rank():
        return
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
    from common.console import say
    from common.evaluation.records import FILE
    from common.workflows.evaluate import features_note
    from common.workflows.run import records_under

    run = measurement.run
    for how in measurement.protocols:
        say(f"\n{run.path}: {len(how.prompts)} {how.split} prompts, {how.images} images of each\n")
        if note := features_note(run.config, how):
            say(f"{note}\n")
        eval_table.show(records_under(run, how))
    say(f"\nrecords  {run.path / FILE}")
