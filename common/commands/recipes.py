"""`drift recipes`: the recipes that ship, and one of them with every key resolved."""

import json

import click

from common.commands import complete


@click.command(short_help="List the recipes, or print one of them.")
@click.argument("name", required=False, shell_complete=complete.recipes)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def recipes(name: str | None, as_json: bool) -> None:
    """List the recipes, or print the one called NAME with every key resolved.

    NAME may also be a TOML file of your own. A recipe may extend another one: its name is printed
    first, and its settings are among those printed.
    """
    from common import config

    if name:
        import tomli_w

        tables = config.to_tables(config.load(name))
        text = json.dumps(tables, indent=2) if as_json else _heading(name) + tomli_w.dumps(tables)
        click.echo(text, nl=as_json)
        return
    rows = [describe(name) for name in config.recipe_names()]
    if as_json:
        click.echo(json.dumps({"recipes": rows}, indent=2))
        return
    from common.console import table

    table(rows, right=("images_per_update", "updates"))


def describe(name: str) -> dict[str, str | int]:
    """A recipe's name, description, source and size."""
    from common import config

    recipe, settings = config.read_recipe(name), config.load(name)
    return {
        "name": name,
        "description": recipe.description,
        "source": recipe.source,
        "extends": recipe.extends[0] if recipe.extends else "",
        "images_per_update": settings.rollout.prompts * settings.rollout.group_size,
        "updates": settings.run.updates,
    }


def _heading(name: str) -> str:
    """Description, source and parents of a recipe, as comments above its tables."""
    from common import config

    recipe = config.read_recipe(name)
    lines = [recipe.description, recipe.source and f"source: {recipe.source}"]
    if recipe.extends:
        lines.append(f"extends {', which extends '.join(recipe.extends)}")
    return "".join(f"# {' '.join(line.split())}\n" for line in lines if line)
