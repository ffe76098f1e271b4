"""`drift config`: every key of a configuration, its default, its valid values and its meaning."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from common.commands import complete


@click.command(short_help="List the keys of a configuration, or explain one.")
@click.argument("key", required=False, default="", shell_complete=complete.keys)
@click.option(
    "--in",
    "source",
    metavar="RECIPE|RUN",
    shell_complete=complete.recipes,
    help="Show the values there too: in a recipe, or in the folder of a run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config(key: str, source: str | None, as_json: bool) -> None:
    """List the keys that a recipe and --set may have, with default, valid values and meaning.

    KEY chooses some: a key as rollout.steps, a table as drift.noise, the beginning of keys, or the
    last part of keys, as seed. `drift recipes NAME` prints all values of a recipe.
    """
    from common.config.reference import reference
    from common.console import pairs, table

    rows = [asdict(row) for row in reference(key)]
    if source is not None:
        values = _values(source)
        rows = [{"key": row["key"], "value": values(row["key"]), **row} for row in rows]
    if as_json:
        click.echo(json.dumps({"keys": rows}, indent=2))
    elif len(rows) == 1:
        pairs(rows[0])
    else:
        table(rows)


def _values(source: str) -> Callable[[str], str]:
    """Gives the value of a key in a recipe or a run, as TOML writes it. Raises RequestError."""
    from common import config as configuration
    from common.config import layers, toml
    from common.runs.directory import RunDirectory

    if Path(source).is_dir():
        settings = RunDirectory.open(Path(source)).config
    else:
        settings = configuration.load(source)
    tables = configuration.to_tables(settings)

    def value(key: str) -> str:
        stored = layers.value_at(tables, key)
        return "unset" if stored is None else toml.one_line(stored)

    return value
