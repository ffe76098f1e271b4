"""The option `--processes` of commands whose work is shared."""

import sys

import click

from common import launched

__all__ = ["processes_option", "run"]

processes_option = click.option(
    "--processes",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Share the work among N processes on this machine: the same bytes, sooner.",
)


def run(context: click.Context, processes: int | None) -> None:
    """Start the command in so many processes, and exit; returns in one of them, and for one."""
    if processes is None:
        return
    from common.workflows.processes import check_count, start

    check_count(processes)
    if processes > 1 and launched.size() == 1:
        context.exit(start(processes, sys.argv[1:]))
