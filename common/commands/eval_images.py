"""`drift eval [RUN] --folder DIR --name NAME`: images that another program made, as a method."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from common.commands import eval_table, given
from common.errors import RequestError

SAMPLING = ("prompts", "images", "steps", "seed", "wanted", "scales", "strengths", "aig", "keep")
"""Parameters that have no effect on images that are there."""

FROM_RUN = ("scorers", "features")
"""Parameters that have no effect where RUN's measurements say what is measured."""


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

    values = context.params
    if values["folder"] is None or values["name"] is None:
        raise RequestError("--folder and --name go together: images, and the name of the method")
    if len(directories) > 1:
        raise RequestError("--folder takes one RUN, which the images are measured like, or none")
    like = directories[0] if directories else None
    said = "the images are there" if like is None else "RUN's measurements say it"
    refused = SAMPLING if like is None else (*SAMPLING, *FROM_RUN)
    given.refuse(context, refused, f"has no effect with --folder: {said}")
    chosen = options.checked(
        workflow.ImagesOptions,
        name=values["name"],
        splits=values["splits"] if given.was_given(context, "splits") else (),
        real=values["real"],
        scorers=values["scorers"],
        features=values["features"],
    )
    request = workflow.plan(like, values["folder"], chosen, backend, cache)
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
        prompts = f"{len(how.prompts)} {f'{how.split} ' if how.has_base else ''}prompts"
        say(f"\n{method.path}: {prompts}, {how.images} images of each\n")
        eval_table.show(measured)
    for remark in request.remarks:
        say(f"\n{remark}")
    say(f"\nrecords  {method.path / FILE}")
