"""`drift export`: a run's adapter in a form that other programs load."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.choices import PROGRAMS, Program
from common.errors import RequestError, preparing

if TYPE_CHECKING:
    from common.runs.directory import RunDirectory


@click.command(short_help="Write the adapter for diffusers, ComfyUI or kohya's programs.")
@click.argument("directory", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "program",
    type=click.Choice(PROGRAMS),
    default="diffusers",
    show_default=True,
    help="The program that will load the file.",
)
@click.option(
    "--checkpoint",
    "which",
    default="latest",
    show_default=True,
    metavar="N|latest",
    help="After which update.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder to write into.  [default: RUN/PROGRAM]",
)
def export(directory: Path, program: Program, which: str, out: Path | None) -> None:
    """Write the adapter of a checkpoint of RUN as a file that another program loads.

    diffusers: `pipe.load_lora_weights(DIR)`. comfyui: a file for `models/loras`. kohya: for
    sd-scripts, Forge and what else reads its files. Each gives the images that `drift sample`
    draws, at strength 1: the tensors have the strength at which the adapter was trained. The file
    has the moving average where there is one.
    """
    from common.adapters import exports
    from common.runs import checkpoint, files
    from common.runs.directory import RunDirectory
    from common.workflows.sample import checkpoint_path

    with preparing():
        run = RunDirectory.open(directory)
        family = _family(run)
        if which == "base":
            raise RequestError("--checkpoint base: the model before tuning has no adapter")
        snapshot = checkpoint.load(checkpoint_path(run, which))
        arrays, header = exports.encode(
            snapshot.weights, run.config.adapter, family=family, program=program
        )
    name = exports.file_name(program, run.path.resolve().name, snapshot.update)
    file = (out or run.path / program) / name
    with files.os_errors_as(f"write {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(file, b"".join(checkpoint.safetensors_bytes(arrays, header)))
    click.echo(file)


def _family(run: "RunDirectory") -> str:
    """The family of the run's model. RequestError where there is nothing to export."""
    from common.adapters.exports import COMPONENTS

    family, kind = run.config.model.family, run.config.adapter.kind
    if family not in COMPONENTS:
        raise RequestError(
            f"{run.path} tunes model.family = '{family}', which diffusers does not support; "
            f"valid: {', '.join(COMPONENTS)}"
        )
    if kind != "lora":
        raise RequestError(
            f"{run.path} trained all weights (adapter.kind = '{kind}'): there is no adapter to "
            "export; its checkpoints contain the weights under the names of diffusers"
        )
    return family
