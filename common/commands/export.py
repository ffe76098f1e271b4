"""`drift export`: a run's adapter in a form that other programs load."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.errors import RequestError, preparing

if TYPE_CHECKING:
    from common.runs.directory import RunDirectory


@click.command(short_help="Write the adapter for diffusers.")
@click.argument("directory", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    type=click.Choice(["diffusers"]),
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
    help="Folder to write into.  [default: RUN/diffusers]",
)
def export(directory: Path, target: str, which: str, out: Path | None) -> None:
    """Write the adapter of a checkpoint of RUN as a file that plain diffusers loads.

    `pipe.load_lora_weights(DIR)` then gives the images that `drift sample` draws: the file has
    the strength at which the adapter was trained. It has the moving average where there is one.
    """
    from common.adapters import diffusers_file
    from common.runs import checkpoint, files
    from common.runs.directory import RunDirectory
    from common.workflows.sample import checkpoint_path

    with preparing():
        run = RunDirectory.open(directory)
        component = _component(run)
        if which == "base":
            raise RequestError("--checkpoint base: the model before tuning has no adapter")
        path = checkpoint_path(run, which)
        weights = checkpoint.load(path).weights
    arrays, metadata = diffusers_file.encode(weights, run.config.adapter, component)
    file = (out or run.path / target) / diffusers_file.FILE
    with files.os_errors_as(f"write {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(file, b"".join(checkpoint.safetensors_bytes(arrays, metadata)))
    click.echo(file)


def _component(run: "RunDirectory") -> str:
    """The part of a pipeline that the run tuned. RequestError where there is nothing to export."""
    from common.adapters.diffusers_file import COMPONENTS

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
    return COMPONENTS[family]
