"""`drift rewards`: what can be maximised here, and serving it to others."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from common.commands.errors import RequestError

if TYPE_CHECKING:
    from common.rewards import RewardInfo


@click.command(short_help="List what can be maximised.")
@click.argument("name", required=False)
@click.option("--features", is_flag=True, help="List features for diversity instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rewards(name: str | None, features: bool, as_json: bool) -> None:
    """List the rewards by name, with their range and what is missing where one does not work.

    With a NAME: all about that one: its scalings, options, weights and their licence. A recipe
    names rewards under [reward.terms], with a weight; so does --set reward.terms.NAME=WEIGHT. A
    reward may also be any importable module:function.
    """
    from common.config import closest
    from common.rewards import FEATURES, REWARDS

    registry = FEATURES if features else REWARDS
    found = {info.name: info for info in registry.available()}
    if name is not None and name not in found:
        raise RequestError(f"no {registry.kind} '{name}'{closest(name, found)}")
    chosen = [*found.values()] if name is None else [found[name]]
    if as_json:
        click.echo(json.dumps({"rewards": [asdict(info) for info in chosen]}, indent=2))
    elif name is not None:
        _tell_all(found[name])
    else:
        _tell(chosen)


def _tell(infos: "list[RewardInfo]") -> None:
    from common.console import table

    table(
        [
            {
                "name": info.name,
                "range": info.range,
                "description": info.description,
                "works": "yes" if info.works else info.needs,
            }
            for info in infos
        ]
    )


def _tell_all(info: "RewardInfo") -> None:
    from common.console import pairs, say, table

    pairs(
        {
            "name": info.name,
            "description": info.description,
            "range": info.range,
            "works": "yes" if info.works else info.needs,
            "computes on": info.device,
            "batch": "all at once" if info.batch_size is None else info.batch_size,
            "scores": "a group at once" if info.groupwise else "each image",
            "weights": info.weights or "none",
            "licence of weights": info.licence or "-",
            "version": info.version or "unknown, so nothing is cached",
        }
    )
    if info.scalings:
        say("")
        table([{"scaling": name, "of the raw score s": text} for name, text in info.scalings])
    if info.options:
        say("")
        table([{"option": k, "default": d, "meaning": m} for k, d, m in info.options])
