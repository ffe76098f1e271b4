"""`drift recipes`: what can be run, and a recipe with every key resolved."""

import json
from pathlib import Path

import click


@click.command(short_help="List the recipes, or print one of them.")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recipes(name: str | None, as_json: bool) -> None:
    """List the recipes, or print the one called NAME with every key resolved.

    NAME may also be a TOML file of your own.
    """
    from common import config

    if name:
        import tomli_w

        tables = config.to_tables(config.load(name))
        click.echo(json.dumps(tables, indent=2) if as_json else tomli_w.dumps(tables), nl=as_json)
        return
    found = [describe(config.RECIPES / f"{name}.toml") for name in config.recipe_names()]
    if as_json:
        click.echo(json.dumps({"recipes": found}, indent=2))
        return
    from common.console import table

    table(found, right=("images_per_update", "updates"))


def describe(path: Path) -> dict[str, str | int]:
    """A recipe's name, what its first comment says, and its size."""
    from common import config

    first = path.read_text(encoding="utf-8").splitlines()[0]
    settings = config.load(str(path))
    return {
        "name": path.stem,
        "description": first.removeprefix("#").strip() if first.startswith("#") else "",
        "images_per_update": settings.rollout.prompts * settings.rollout.group_size,
        "updates": settings.run.updates,
    }
