"""Each setting that costs or saves time, on beside off: two trainers in turn."""

from dataclasses import dataclass
from typing import Any

from common.backends import load
from common.pipelines.architectures import Size
from scripts.peers.setup import case, trained
from scripts.peers.turns import Cost, in_turn, ratios

__all__ = ["SWITCHES", "Switch", "switch"]


@dataclass(frozen=True)
class Switch:
    """name: of the case in `setup.CASES`. off, on: the settings of both sides."""

    name: str
    size: Size
    off: str
    on: str
    more: tuple[str, ...] = ()


SWITCHES = {
    "guidance-gradient": Switch(
        "sd3-guided",
        "middle",
        "rollout.guidance_gradient=both",
        "rollout.guidance_gradient=conditional",
    ),
    "guidance-batch": Switch(
        "sd15-guided", "middle", "rollout.guidance_batch=split", "rollout.guidance_batch=joined"
    ),
    "compile": Switch("sd3", "middle", "model.compile=false", "model.compile=true"),
    "bfloat16": Switch("sd3", "middle", "model.dtype=float32", "model.dtype=bfloat16"),
    "checkpointing": Switch(
        "sd3",
        "middle",
        "model.gradient_checkpointing=false",
        "model.gradient_checkpointing=true",
    ),
    "kl": Switch("sd3-guided", "middle", "objective.kl_weight=0.01", "objective.kl_weight=0"),
    "measured-kl": Switch("sd3", "middle", "objective.kl_every=1", "objective.kl_every=0"),
    "decoding": Switch("sd3", "middle", "model.vae_slicing=true", "model.vae_slicing=false"),
    "prompt-noise": Switch("sd3", "middle", "drift.noise.strength=0.15", "drift.noise.strength=0"),
}


def switch(name: str, pairs: int, backend: str = "cpu") -> dict[str, Any]:
    """How many times as fast `on` is, in whole updates and in sampling alone."""
    chosen, engine = SWITCHES[name], load(backend)
    size, sides = chosen.size, {"off": chosen.off, "on": chosen.on}
    spent: dict[str, list[Cost]] = {side: [] for side in sides}
    configs = {
        side: case(chosen.name, size, [*chosen.more, setting]) for side, setting in sides.items()
    }
    with trained(configs["off"], engine, size) as off, trained(configs["on"], engine, size) as on:
        turns = in_turn({"off": off.step, "on": on.step})
        next(turns)  # a warm-up
        for _ in range(pairs):
            for side, cost in next(turns).items():
                spent[side].append(cost)
    return {
        "case": f"{chosen.name}, {size}",
        "off": chosen.off,
        "on": chosen.on,
        "speed": ratios(spent["off"], spent["on"]),
    }
