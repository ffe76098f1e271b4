"""`drift eval RUN --folder DIR --name NAME`: images that another program made, as a method."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from common.commands import eval_table, given
from common.errors import RequestError

FROM_RUN = (
    "prompts", "images", "steps", "seed", "wanted", "scales", "strengths", "aig", "keep", "scorers",
    "features",
)  # fmt: skip
"""Parameters that have no effect: RUN's measurements say what is measured."""


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
    if len(directories) != 1:
        raise RequestError("--folder takes one RUN, which the images are measured like")
    given.refuse(context, FROM_RUN, "has no effect with --folder: RUN's measurements say it")
    chosen = options.checked(
        workflow.ImagesOptions,
        name=values["name"],
        splits=values["splits"] if given.was_given(context, "splits") else (),
        real=values["real"],
    )
    request = workflow.plan(directories[0], values["folder"], chosen, backend)
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
