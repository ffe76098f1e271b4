"""`drift report`: the page of a run, at any time."""

from pathlib import Path

import click

from common.commands.path_type import FilePath
from common.errors import preparing


@click.command(short_help="Write the report of a run, also of one that goes on.")
@click.argument("directory", metavar="RUN", type=FilePath())
def report(directory: Path) -> None:
    """Write RUN/report.html: results, pictures and curves so far, and the command of the run.

    RUN may be training, stopped, failed or finished. A run that finishes writes its report itself.
    """
    from common.report import build
    from common.runs.directory import RunDirectory

    with preparing():
        run = RunDirectory.open(directory)
    click.echo(build(run))
