"""`drift config`: every key of a configuration, its default, its valid values and its meaning."""

import json
from dataclasses import asdict

import click

from common.commands import complete


@click.command(short_help="List the keys of a configuration, or explain one.")
@click.argument("key", required=False, default="", shell_complete=complete.keys)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config(key: str, as_json: bool) -> None:
    """List the keys that a recipe and --set may have, with default, valid values and meaning.

    KEY chooses some: a key as rollout.steps, a table as drift.noise, the beginning of keys, or the
    last part of keys, as seed. `drift recipes NAME` prints the values of a recipe.
    """
    from common.config.reference import reference
    from common.console import pairs, table

    rows = [asdict(row) for row in reference(key)]
    if as_json:
        click.echo(json.dumps({"keys": rows}, indent=2))
    elif len(rows) == 1:
        pairs(rows[0])
    else:
        table(rows)
