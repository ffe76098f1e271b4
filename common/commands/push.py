"""`drift push`: a run's adapter on the Hugging Face hub."""

from pathlib import Path

import click

from common.choices import Program
from common.commands.errors import warn
from common.commands.export import checkpoint_option, program_option
from common.commands.path_type import FilePath


@click.command(short_help="Upload the adapter and its model card to the hub.")
@click.argument("directory", metavar="RUN", type=FilePath())
@click.argument("repository", metavar="REPO")
@program_option
@checkpoint_option
@click.option("--yes", is_flag=True, help="Upload.  [default: print the files and send nothing]")
@click.option(
    "--private/--public",
    default=True,
    show_default=True,
    help="Of a repository that is made; one that is there stays what it is.",
)
def push(
    directory: Path, repository: str, program: Program, which: str, yes: bool, private: bool
) -> None:
    """Export the adapter of RUN into RUN/PROGRAM, and upload it to the repository REPO.

    REPO is OWNER/NAME on the Hugging Face hub, with the login of `hf auth login`. Without --yes the
    files are written and listed, and nothing is sent. Files of that name in REPO are replaced.
    """
    from common.console import say, table
    from common.workflows.push import plan, upload

    planned = plan(directory, repository, program, which)
    sizes = planned.sizes
    table([{"file": name, "bytes": size} for name, size in sizes.items()], right=("bytes",))
    for note in planned.exported.notes:
        warn(note)
    say("")
    if not yes:
        say(f"from {planned.exported.folder} to {repository}; look at the card, then add --yes")
        return
    say(f"uploaded: {upload(planned, private=private)}")
