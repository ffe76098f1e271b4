"""`drift eval RUN --folder DIR --name NAME`: images that another program made, as a method."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from common.commands import eval_table
from common.errors import RequestError

FROM_RUN = {
    "prompts": "--prompts",
    "images": "--images",
    "steps": "--steps",
    "seed": "--seed",
    "wanted": "--checkpoint",
    "scales": "--scale",
    "strengths": "--prompt-noise",
    "aig": "--aig",
    "keep": "--keep or --no-keep",
    "scorers": "--scorer",
    "features": "--feature",
}
"""Options that have no effect: RUN's measurements say what is measured."""


def run(
    context: click.Context,
    directories: Sequence[Path],
    backend: str | None,
    cache: Path | None,
    *,
    as_json: bool,
    trust: bool,
) -> None:
    """Measure the images that --folder names, and print their tables. RequestError."""
    from common.console import say
    from common.evaluation.records import FILE
    from common.workflows import evaluate_images as workflow, options
    from common.workflows.run import mean_row

    given = context.params
    if given["folder"] is None or given["name"] is None:
        raise RequestError("--folder and --name go together: images, and the name of the method")
    if len(directories) != 1:
        raise RequestError("--folder takes one RUN, which the images are measured like")
    for name, option in FROM_RUN.items():
        if _was_given(context, name):
            raise RequestError(f"{option} has no effect with --folder: RUN's measurements say it")
    chosen = options.checked(
        workflow.ImagesOptions,
        name=given["name"],
        splits=given["splits"] if _was_given(context, "splits") else (),
        real=given["real"],
    )
    request = workflow.plan(directories[0], given["folder"], chosen, backend)
    new = workflow.measure_images(request, cache, quiet=as_json, trust=trust)
    method, shown = request.method, [workflow.rows(request, how) for how in request.protocols]
    if as_json:
        rows = [mean_row(record) for measured in shown for record in measured]
        measured_run = {"run": str(method.path), "records": str(method.path / FILE), "new": new}
        click.echo(
            json.dumps({"runs": [{**measured_run, "means": rows, "remarks": request.remarks}]})
        )
        return
    for how, measured in zip(request.protocols, shown, strict=True):
        prompts = f"{len(how.prompts)} {how.split} prompts"
        say(f"\n{method.path}: {prompts}, {how.images} images of each\n")
        eval_table.show(measured)
    for remark in request.remarks:
        say(f"\n{remark}")
    say(f"\nrecords  {method.path / FILE}")


def _was_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) != ParameterSource.DEFAULT
