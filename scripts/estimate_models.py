"""Parameters, arithmetic and memory of the recipes of real models, without a GPU.

    python scripts/estimate_models.py [RECIPE]... [--json FILE]

Prints a Markdown table; --json stores the arithmetic for docs/performance.md.
Nothing is measured: the steps of a recipe run on tensors without content, in the shapes of the
published models, while operations and storages are counted. Memory is that of the tensors; the
allocator and the CUDA context need more.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from common import config as configuration
from common.config import Config
from common.runs import files
from common.sampling.process import make_process
from common.sampling.rollout import plan_steps
from drift_torch import estimate
from drift_torch.diffusion import DiffusersPolicy
from drift_torch.full_size import without_content

PROMPT = "a prompt"


@dataclass(frozen=True)
class Needs:
    """parameters, trained: numbers of the denoiser's parameters. flops: of one image, by stage.

    forward: of one unguided forward pass of one image. memory: bytes by stage.
    """

    parameters: int
    trained: int
    forward: float
    flops: dict[str, float]
    memory: dict[str, int]


def needs(config: Config) -> Needs:
    """The needs of a recipe for one image that is sampled and trained on, and memory by stage."""
    policy = without_content(config.model, config.adapter)
    rollout = config.rollout.model_copy(update={"guidance": 1.0})
    unguided = make_process(policy, rollout)
    return Needs(
        parameters=sum(value.numel() for value in policy.module.parameters()),
        trained=sum(value.numel() for value in policy.parameters().values()),
        forward=_counted(lambda: estimate.inference(policy, unguided, 1, PROMPT)),
        flops=flops(policy, config),
        memory=estimate.stages(policy, config, PROMPT),
    )


def flops(policy: DiffusersPolicy, config: Config) -> dict[str, float]:
    """Floating-point operations of the denoiser for one image, sampled and then learned from."""
    process = make_process(policy, config.rollout)
    steps = len(plan_steps(config.rollout, seed=0, update=0).trained)
    sampled = _counted(lambda: estimate.inference(policy, process, 1, PROMPT))
    learned = _counted(lambda: estimate.training(policy, process, 1, PROMPT))
    references = 1 if config.objective.kl_weight > 0 else 0
    return {
        "sampling": sampled * config.rollout.steps,
        "learning": (learned + references * sampled) * steps,
    }


def _counted(work: Callable[[], Any]) -> float:
    # The fused attention kernel of a CPU has no formula, so the plain one is counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


@click.command()
@click.argument("recipes", nargs=-1)
@click.option(
    "--json", "out", type=click.Path(path_type=Path), help="Store the arithmetic in this file."
)
def main(recipes: tuple[str, ...], out: Path | None) -> None:
    """Print the needs of each recipe as a Markdown table; without names, of all models."""
    names = recipes or configuration.recipe_names()
    print("| recipe | trained | one forward | an image | memory by stage, at its peak |")
    print("|---|---|---|---|---|")
    counted = {}
    for name in names:
        config = configuration.load(name)
        if config.model.family == "embedded":
            continue
        counts = needs(config)
        print(row(name, counts), flush=True)
        counted[name] = {"forward": counts.forward, "image": sum(counts.flops.values())}
    if out:
        files.write_whole(out, (json.dumps(counted, indent=1) + "\n").encode())


def row(name: str, counts: Needs) -> str:
    """A row of the table: millions of parameters, 10^12 operations, 10^9 bytes."""
    total = sum(counts.flops.values()) / 1e12
    peak = max(counts.memory.values())
    stages = ", ".join(f"{stage} {size / 1e9:.1f}" for stage, size in counts.memory.items())
    return (
        f"| `{name}` | {counts.trained / 1e6:.1f} of {counts.parameters / 1e6:,.0f} M | "
        f"{counts.forward / 1e12:.2f} TFLOP | {total:,.0f} TFLOP | "
        f"{stages}: **{peak / 1e9:.1f} GB** |"
    )


if __name__ == "__main__":
    main()
