"""`drift rewards`: what can be maximised here."""

import json
from dataclasses import asdict

import click


@click.command(short_help="List what can be maximised.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rewards(as_json: bool) -> None:
    """List the rewards by name, with their range and what is missing where one does not work.

    A recipe names them under [reward.terms], with a weight; so does
    --set reward.terms.NAME=WEIGHT. A reward may also be any importable module:function.
    """
    from common.rewards import available

    found = available()
    if as_json:
        click.echo(json.dumps({"rewards": [asdict(info) for info in found]}, indent=2))
        return
    from common.console import table

    table(
        [
            {
                "name": info.name,
                "range": info.range,
                "description": info.description,
                "works": "yes" if info.works else info.needs,
            }
            for info in found
        ]
    )
