"""`drift prompts`: the sets of prompts that ship, and what one of them holds."""

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
    help="Only the first so many, in the order of a hash of their text; 0: all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def prompts(source: str | None, split: str, limit: int, as_json: bool) -> None:
    """List the sets of prompts, or print those of SET, as a run with these settings gets them.

    SET is a name of the list, or a .txt or .jsonl file; a recipe names it as prompts.source. Each
    prompt is shown with its id, its split and what it tells rewards. The text of a prompt alone
    decides its split: 80 % train, 10 % validation, 10 % test, as long as a recipe's
    prompts.held_out says nothing else.
    """
    from common.config import PromptsConfig
    from common.prompts import load

    if source:
        config = PromptsConfig.model_validate({"source": source, "split": split, "limit": limit})
        _tell(load(config), as_json)
        return
    if split != "all" or limit:
        raise RequestError("--split and --limit choose from a SET, and none is named")
    found = [_about(name) for name in _names()]
    if as_json:
        click.echo(json.dumps({"sets": found}, indent=2))
        return
    from common.console import table

    table(found, right=("prompts", *SPLITS))


def _names() -> tuple[str, ...]:
    from common.prompts import NAMED

    return NAMED


def _about(name: str) -> dict[str, Any]:
    """A set's name, how many prompts each split holds, and what they are for."""
    from common.config import PromptsConfig
    from common.prompts import load, split
    from common.prompts.generated import GENERATED

    found = load(PromptsConfig(source=name))
    splits = [split(prompt.text) for prompt in found]
    known = GENERATED.get(name)
    return {
        "name": name,
        "prompts": len(found),
        **{each: splits.count(each) for each in SPLITS},
        "example": found[len(found) // 2].text,
        "metadata": list(known.metadata) if known else [],
        "description": known.description if known else EMOJI[name],
    }


def _tell(found: "PromptSet", as_json: bool) -> None:
    from common.prompts import split

    rows = [
        {
            "id": prompt.id,
            "split": split(prompt.text),
            "prompt": prompt.text,
            "metadata": dict(prompt.metadata),
        }
        for prompt in found
    ]
    if as_json:
        click.echo(json.dumps({"source": found.source, "prompts": rows}, indent=2))
        return
    from common.console import table

    told = any(row["metadata"] for row in rows)
    for row in rows:
        row["id"] = str(row["id"])
        about = row.pop("metadata")
        if told:
            row["metadata"] = ", ".join(f"{key}={value}" for key, value in about.items())
    table(rows, right=("id",))
