"""`drift export`: a run's adapter in a form that other programs load."""

from pathlib import Path

import click

from common.choices import PROGRAMS, Program
from common.commands.errors import warn
from common.commands.path_type import FilePath

program_option = click.option(
    "--to",
    "program",
    type=click.Choice(PROGRAMS),
    default="diffusers",
    show_default=True,
    help="The program that will load it.",
)

checkpoint_option = click.option(
    "--checkpoint",
    "which",
    default="latest",
    show_default=True,
    metavar="N|latest",
    help="After which update.",
)


@click.command(short_help="Write the adapter for diffusers, PEFT, ComfyUI, kohya or MLX.")
@click.argument("directory", metavar="RUN", type=FilePath())
@program_option
@checkpoint_option
@click.option(
    "--out",
    type=FilePath(file_okay=False),
    metavar="DIR",
    help="Folder to write into.  [default: RUN/PROGRAM]",
)
@click.option(
    "--card/--no-card",
    default=None,
    help="Write a model card, README.md, with its pictures.  [default: yes, but not for comfyui, "
    "kohya and mlx with --out]",
)
def export(
    directory: Path, program: Program, which: str, out: Path | None, card: bool | None
) -> None:
    """Write the adapter of a checkpoint of RUN in the form that another program loads.

    diffusers: `pipe.load_lora_weights(DIR)`. peft: `PeftModel.from_pretrained(model, DIR)`.
    comfyui: a file for `models/loras`. kohya: for sd-scripts, Forge and what else reads its files.
    mlx: for mflux, FLUX.1 only. Each gives the images that `drift sample` draws, at strength 1. The
    file has the moving average where there is one.
    """
    from common.workflows.export import export as write

    written = write(directory, program, which, out, card=card)
    for file in written.paths:
        click.echo(file)
    for note in written.notes:
        warn(note)
