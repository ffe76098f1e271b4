"""`drift eval --attainable`: how much diversity is possible at equal reward, by any method."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.commands import given

if TYPE_CHECKING:
    from common.workflows.options import AttainableOptions

ONLY_ATTAINABLE = ("samples", "ratio")
NOT_ATTAINABLE = (
    "images", "wanted", "scales", "strengths", "aig", "keep", "real", "folder", "name",
)  # fmt: skip
"""Parameters that have an effect only with --attainable, and only without it."""


def refuse_without_effect(context: click.Context, *, attainable: bool) -> None:
    """Raise RequestError for an option that was given and would be ignored."""
    if attainable:
        given.refuse(context, NOT_ATTAINABLE, "has no effect with --attainable")
    else:
        given.refuse(context, ONLY_ATTAINABLE, "has no effect without --attainable")


def run(
    directories: Collection[Path],
    how: "AttainableOptions",
    backend: str | None,
    cache: Path | None,
    *,
    as_json: bool,
    trust: bool,
) -> None:
    """Make the fronts of each run's base model, and print them."""
    from common.console import say, table
    from common.evaluation.attainable_records import FILE
    from common.report import attainable as words
    from common.workflows import attainable as workflow

    planned = workflow.plan(directories, how, backend)
    counts = workflow.make_all(planned, cache, quiet=as_json, trust=trust)
    if as_json:
        made = [
            {"run": str(each.run.path), "new": new, "levels": workflow.rows(each)}
            for each, new in zip(planned, counts, strict=True)
        ]
        click.echo(json.dumps({"runs": made}))
        return
    for each in planned:
        for protocol, front in workflow.solved(each):
            prompts = f"{len(protocol.prompts)} {protocol.split} prompts"
            say(f"\n{each.run.path}: {prompts}{words.in_features(front.features)}\n")
            if rows := words.rows(front, front.rewards):
                table(rows, right=rows[0])
            say(f"\n{words.sentence(front, front.rewards)}")
            say(words.basis(front))
        say(f"\nfronts  {each.run.path / FILE}")
