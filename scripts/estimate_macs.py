"""Estimates of the unified memory that the recipes for Macs need on Metal; nothing is computed.

    python scripts/estimate_macs.py

Prints a Markdown table. Weights are exact; activations are right within a factor of two (see
`drift_mlx.estimate`). The reward's own weights, and what macOS needs, come on top.
"""

from common import config as configuration
from drift_mlx import estimate, full_size

RECIPES = ("sd15-mac16-ddpo", "sd35m-mac32-grpo", "flux-schnell-mac64-grpo")
CHANGES = ((), ("model.quantize=8",), ("model.quantize=4",))


def main() -> None:
    """Print a row for each recipe, plain and quantised."""
    print("| recipe | `model.quantize` | encoding | rollout | decoding | update |")
    print("|---|---|---|---|---|---|")
    for recipe in RECIPES:
        for changes in CHANGES:
            config = configuration.load(recipe, changes)
            policy = full_size.policy(config.model, config.adapter)
            stages = estimate.stages(policy, config, on_cpu=False)
            cells = " | ".join(f"{size / 1e9:.1f} GB" for size in stages.values())
            print(f"| `{recipe}` | {config.model.quantize or '-'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
