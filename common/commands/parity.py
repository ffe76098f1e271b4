"""`drift parity`: the same work on several backends, and how far each is from float64."""

import json
import os
from dataclasses import asdict

import click

from common.commands.errors import FAILED


@click.command(short_help="Compare backends with float64, stage by stage.")
@click.option(
    "--backends",
    default="cpu,mlx",
    show_default=True,
    metavar="NAME,NAME",
    help="Which backends to compare.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def parity(ctx: click.Context, backends: str, as_json: bool) -> None:
    """Run every stage of an update on each backend and print its error against float64.

    The exit code is 1 when a stage is over its tolerance.
    """
    # MLX reads it when it loads; with TF32 a matrix product is a thousand times less exact.
    os.environ["MLX_ENABLE_TF32"] = "0"
    from common.parity import compare

    names = [name.strip() for name in backends.split(",") if name.strip()]
    stages = compare(names)
    if as_json:
        click.echo(json.dumps({"stages": [asdict(stage) for stage in stages]}, indent=2))
    else:
        from common.console import say, table

        table(
            [
                {
                    "stage": stage.stage,
                    "backends": " ".join(stage.backends),
                    "relative_error": f"{stage.relative_error:.1e}",
                    "max_abs_error": f"{stage.max_abs_error:.1e}",
                    "tolerance": f"{stage.tolerance:.0e}",
                    "": "ok" if stage.ok else "OVER",
                }
                for stage in stages
            ],
            right=("relative_error", "max_abs_error", "tolerance"),
        )
        over = sum(not stage.ok for stage in stages)
        say(f"{over} of {len(stages)} stages over tolerance" if over else "all within tolerance")
    ctx.exit(0 if all(stage.ok for stage in stages) else FAILED)
