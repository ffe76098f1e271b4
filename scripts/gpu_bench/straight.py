"""The straight-line loop of `scripts/peers` in turn with ours, on the card."""

from typing import Any

import torch

from scripts.gpu_bench.context import Context
from scripts.gpu_bench.models import configured, peak, reset_peak_memory, trained
from scripts.peers.loop import straight_loop
from scripts.peers.turns import Cost, costs, in_turn, ratios

__all__ = ["sd3_fast", "sd3_grpo"]


def sd3_fast(context: Context) -> dict[str, Any]:
    """SD 3.5 medium without guidance, three trained steps."""
    return beside(context, "sd35m-fast-grpo")


def sd3_grpo(context: Context) -> dict[str, Any]:
    """SD 3.5 medium with guidance and a KL."""
    return beside(context, "sd35m-pickscore-grpo")


def beside(context: Context, recipe: str) -> dict[str, Any]:
    """Seconds of updates of both loops, A B A B; the first of each warms up and is not counted."""
    config = configured(context, recipe)
    figures: dict[str, Any] = {"recipe": recipe, "peft": True}
    spent: dict[str, list[Cost]] = {"ours": [], "straight": []}
    peaks: dict[str, dict[str, int] | None] = {}

    def settle() -> None:
        if context.backend == "cuda":
            torch.cuda.synchronize()

    with trained(context, config) as trainer:
        loop = straight_loop(
            config, trainer.policy, trainer.process, context.pick("full", "shallow", "tiny")
        )

        def measured(name: str, step: Any) -> Any:
            def call() -> None:
                step()
                settle()
                peaks[name] = peak(context)

            return call

        steps = {
            "ours": measured("ours", trainer.step),
            "straight": measured("straight", loop.step),
        }
        turns = in_turn(steps, before=lambda: reset_peak_memory(context))
        for number in range(context.pick(3, 2, 2)):
            pair = next(turns)
            if not number:
                continue
            for name, cost in pair.items():
                spent[name].append(cost)
            figures |= {name: costs(values)["wall"] for name, values in spent.items()}
            figures["speed_of_ours"] = ratios(spent["straight"], spent["ours"])["wall"]
            figures |= {"peak_bytes": peaks, "images_per_update": loop.images}
            context.keep(figures)
    return figures
