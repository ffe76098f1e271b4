"""`drift showcase`: plain GRPO beside DRIFT, from adapters that are part of the toolkit."""

from pathlib import Path

import click

from common.commands.eval import noise_option, steps_option
from common.commands.path_type import FilePath


@click.command(short_help="Plain GRPO beside DRIFT at equal reward, in a minute.")
@click.option(
    "--images",
    type=click.IntRange(min=2),
    default=12,
    show_default=True,
    help="Of each prompt and adapter.",
)
@steps_option
@noise_option
@click.option(
    "--out",
    type=FilePath(),
    default=Path("runs/showcase"),
    show_default=True,
    help="The folder of the page and the measurements.",
)
@click.option("--backend", metavar="auto|mlx|cuda|cpu", default="auto", show_default=True)
def showcase(images: int, steps: int, seed: int, out: Path, backend: str) -> None:
    """Sample adapters of the study, measure them, and compare them at equal reward.

    Nothing is trained: checkpoints of plain GRPO and of DRIFT for the emoji model are part of the
    toolkit. The page has the fronts and pictures from the same initial noise.
    """
    from common.commands.compare import show
    from common.console import say
    from common.workflows import showcase as workflow

    say("sampling and measuring adapters of plain GRPO and DRIFT")
    done = workflow.showcase(out, images=images, steps=steps, seed=seed, backend=backend)
    show(done.tables[:2])
    say(str(done.page))
