"""`drift prompts`: the sets of prompts that ship, and the prompts of one set."""

import json
from typing import TYPE_CHECKING, Any

import click

from common.choices import SPLITS
from common.errors import RequestError

if TYPE_CHECKING:
    from common.prompts import PromptSet

EMOJI = {
    "emoji": "names of emoji: the embedded model's words",
    "emoji-animals": "names of animals among them",
}


@click.command(short_help="List the sets of prompts, or print one of them.")
@click.argument("source", metavar="SET", required=False)
@click.option(
    "--split",
    type=click.Choice(("all", *SPLITS)),
    default="all",
    show_default=True,
    help="Only the prompts of this split.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="At most so many, the first by a hash of their text; 0: all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prompts(source: str | None, split: str, limit: int, as_json: bool) -> None:
    """List the sets of prompts, or print those of SET, as a run with these settings gets them.

    SET is a name of the list, or a .txt, .jsonl or .csv file; a recipe names it as prompts.source.
    Each prompt is shown with its id, its split and its metadata, which rewards read. The text of a
    prompt alone decides its split: 80 % train, 10 % validation and 10 % test, unless a recipe sets
    prompts.held_out.
    """
    from common.config import PromptsConfig
    from common.prompts import load

    if source:
        config = PromptsConfig.model_validate({"source": source, "split": split, "limit": limit})
        _print_set(load(config), as_json)
        return
    if split != "all" or limit:
        raise RequestError("--split and --limit choose from a SET, and none is named")
    sets = [_about(name) for name in _names()]
    if as_json:
        click.echo(json.dumps({"sets": sets}, indent=2))
        return
    from common.console import table

    table(sets, right=("prompts", *SPLITS))


def _names() -> tuple[str, ...]:
    from common.prompts import NAMED

    return NAMED


def _about(name: str) -> dict[str, Any]:
    """A set's name, its number of prompts in each split, an example and a description."""
    from common.config import PromptsConfig
    from common.prompts import load, split
    from common.prompts.generated import GENERATED

    prompts = load(PromptsConfig(source=name))
    splits = [split(prompt.text) for prompt in prompts]
    known = GENERATED.get(name)
    return {
        "name": name,
        "prompts": len(prompts),
        **{each: splits.count(each) for each in SPLITS},
        "example": prompts[len(prompts) // 2].text,
        "metadata": list(known.metadata) if known else [],
        "description": known.description if known else EMOJI[name],
    }


def _print_set(prompts: "PromptSet", as_json: bool) -> None:
    from common.prompts import split

    rows = [
        {
            "id": prompt.id,
            "split": split(prompt.text),
            "prompt": prompt.text,
            "metadata": dict(prompt.metadata),
        }
        for prompt in prompts
    ]
    if as_json:
        click.echo(json.dumps({"source": prompts.source, "prompts": rows}, indent=2))
        return
    from common.console import table

    has_metadata = any(row["metadata"] for row in rows)
    for row in rows:
        row["id"] = str(row["id"])
        about = row.pop("metadata")
        if has_metadata:
            row["metadata"] = ", ".join(f"{key}={value}" for key, value in about.items())
    table(rows, right=("id",))
