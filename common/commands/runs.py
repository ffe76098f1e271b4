"""`drift runs`: a table of runs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.choices import RUN_COLUMNS, RunColumn
from common.commands.errors import warn
from common.commands.path_type import FilePath

if TYPE_CHECKING:
    from common.workflows.listing import Row


@click.command(short_help="List runs: how far they are, what they reached, which goes on.")
@click.argument("folders", metavar="[DIR]...", nargs=-1, type=FilePath())
@click.option(
    "--sort",
    type=click.Choice(RUN_COLUMNS),
    default=RUN_COLUMNS[0],
    show_default=True,
    help="The newest first, or the highest value first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(folders: tuple[Path, ...], sort: RunColumn, as_json: bool) -> None:
    """List the runs in each DIR, and in the folders below it.

    Without DIR it is the folder `runs`. Reward, alignment (held out) and diversity are those of
    the last evaluation; age is the time since the last start. A folder that is damaged has a row
    that says so. A run that was killed is stopped: `drift run --resume` goes on with it.
    """
    from common.console import say, table
    from common.workflows.listing import list_runs

    usual = Path("runs")
    rows = list_runs(folders or ([usual] if usual.exists() else []), sort)
    if as_json:
        click.echo(json.dumps({"runs": [asdict(row) for row in rows]}, indent=2))
        return
    if not rows:
        say(f"no runs in {', '.join(map(str, folders or [usual]))}: `drift run` starts one")
        return
    numbers = ("updates", "reward", "alignment", "diversity", "age")
    table([_cells(row) for row in rows], right=numbers)
    for row in rows:
        if row.error:
            warn(f"{row.run}: {row.error}")


def _cells(row: "Row") -> dict[str, str]:
    def measure(value: float | None, places: int) -> str:
        return "-" if value is None else f"{value:.{places}f}"

    return {
        "run": row.run,
        "recipe": row.recipe or "-",
        "backend": row.backend or "-",
        "updates": "-" if row.updates is None else f"{row.done}/{row.updates}",
        "reward": measure(row.reward, 2),
        "alignment": measure(row.alignment, 2),
        "diversity": measure(row.diversity, 3),
        "state": row.state,
        "age": "-" if row.age is None else _age(row.age),
    }


def _age(seconds: float) -> str:
    """The largest unit that is not 0: 12 s, 5 min, 3 h, 9 d."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
