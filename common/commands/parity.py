"""`drift parity`: the same work on several backends, and how far each is from float64."""

import json
import math
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from common.commands.errors import FAILED
from common.errors import RequestError, preparing

if TYPE_CHECKING:
    from common.parity import StageResult


@click.command(short_help="Compare backends with float64, stage by stage.")
@click.option(
    "--backends",
    "listed",
    default="cpu,mlx",
    show_default=True,
    metavar="NAME,NAME",
    help="Which backends to compare.",
)
@click.option("--model", metavar="FOLDER", help="Compare them with this diffusers pipeline.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Of --model: change one key of its settings; more than once for more.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def parity(
    ctx: click.Context, listed: str, model: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Run every stage of an update on each backend and print its error against float64.

    With --model the stages are those of a diffusers folder, and the backends are compared with
    each other; --set model.dtype=bfloat16 has tolerances of its own, as float16 and model.quantize.
    The exit code is 1 when a stage is over its tolerance.
    """
    # MLX reads the variable when it loads; with TF32 a matrix product is 1,000 times less exact.
    os.environ["MLX_ENABLE_TF32"] = "0"
    from common import backends
    from common.console import console
    from common.parity import compare
    from common.parity.model import compare_model, settings

    names = [name.strip() for name in listed.split(",") if name.strip()]
    with preparing():
        if not names:
            raise RequestError(f"--backends '{listed}': name some of {', '.join(backends.names())}")
        if overrides and not model:
            raise RequestError("--set is for --model: the emoji model's comparison has no settings")
        if model and len(set(names)) < 2:
            raise RequestError("--model compares two backends or more, such as cpu,mlx")
        for name in names:
            backends.load(name)
        if model:
            settings(model, overrides)
    with console.status("comparing") as status:
        if model:
            stages = compare_model(names, model, overrides, observer=status.update)
        else:
            stages = compare(names, observer=status.update)
    if as_json:
        click.echo(json.dumps({"stages": [_plain(stage) for stage in stages]}, indent=2))
    else:
        _show(stages)
    ctx.exit(0 if all(stage.ok for stage in stages) else FAILED)


def _plain(stage: "StageResult") -> dict[str, Any]:
    """A stage for JSON; an error that is not finite becomes null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in asdict(stage).items()
    }


def _show(stages: "list[StageResult]") -> None:
    from common.console import say, table

    rows = [
        {
            "stage": stage.stage,
            "backends": stage.backends,
            "relative_error": f"{stage.relative_error:.1e}",
            "max_abs_error": f"{stage.max_abs_error:.1e}",
            "tolerance": f"{stage.tolerance:.0e}",
            "": "ok" if stage.ok else "OVER",
        }
        for stage in stages
    ]
    table(rows, right=("relative_error", "max_abs_error", "tolerance"))
    over = sum(not stage.ok for stage in stages)
    say(
        f"{over} of {len(stages)} over tolerance" if over else f"all {len(stages)} within tolerance"
    )
