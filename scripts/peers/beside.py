"""The toolkit beside a straight-line loop: gradients, network calls, time, and peak memory."""

import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from common.backends import Conditioning, load
from common.config import Config
from common.learning.update import surrogate_loss
from common.pipelines.architectures import Size
from scripts.gpu_bench.models import clocked
from scripts.peers.loop import PROMPT, StraightLoop, straight_loop
from scripts.peers.setup import case, trained
from scripts.peers.turns import Cost, Phase, costs, in_turn, ratios

__all__ = ["Calls", "beside", "gradient_error", "peak_alone", "same_weights"]

NAMES = ("ours", "straight")


def beside(name: str, size: Size, pairs: int) -> dict[str, Any]:
    """Both loops in turn on one case: see the keys of the result."""
    config, backend = case(name, size), load("cpu")
    with trained(config, backend, size) as trainer:
        loop = straight_loop(config, trainer.policy, trainer.process, size)
        policy: Any = trainer.policy
        same_weights(policy.module, loop.denoiser)
        figures: dict[str, Any] = {"gradient_error": gradient_error(trainer, loop)}
        networks = {"ours": policy.module, "straight": loop.denoiser.base_model.model}
        calls = {name: Calls(network) for name, network in networks.items()}
        phases = {"ours": Phase(trainer.learner, "update"), "straight": Phase(loop, "train")}
        whole: dict[str, list[Cost]] = {name: [] for name in NAMES}
        training: dict[str, list[Cost]] = {name: [] for name in NAMES}
        for number, pair in enumerate(in_turn({"ours": trainer.step, "straight": loop.step})):
            taken = {key: phase.taken() for key, phase in phases.items()}
            if not number:
                figures["calls"] = {key: dict(count.counts) for key, count in calls.items()}
                continue
            for key in NAMES:
                whole[key].append(pair[key])
                training[key].append(taken[key])
            if number == pairs:
                break
        sampling = {
            name: [a - b for a, b in zip(whole[name], training[name], strict=True)]
            for name in NAMES
        }
        parts = {"whole": whole, "sampling": sampling, "training": training}
        for part, both in parts.items():
            figures[part] = {key: costs(both[key]) for key in NAMES}
            figures[part]["speed"] = ratios(both["straight"], both["ours"])
        figures |= {"images": loop.images, "threads": torch.get_num_threads()}
        figures["outside"] = outside(trainer)
    figures["peak_bytes"] = {key: peak_of(key, name, size) for key in NAMES}
    return figures


def outside(trainer: Any) -> float:
    """The share of an update's processor time outside the networks and their gradients."""
    inside = clocked(trainer, "cpu", lambda: Cost.now().cpu)
    start = Cost.now()
    trainer.step()
    return 1 - inside[0] / (Cost.now() - start).cpu


# --- the same work -------------------------------------------------------------------------------


class Calls:
    """Counts a network's calls and their images, with and without gradients."""

    def __init__(self, network: nn.Module):
        self.counts: Counter[str] = Counter()
        network.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = arguments[0] if arguments else named["hidden_states"]
        kind = "with gradients" if torch.is_grad_enabled() else "without"
        self.counts[f"calls {kind}"] += 1
        self.counts[f"images {kind}"] += len(x)


def same_weights(ours: nn.Module, peft: Any) -> None:
    """Give a denoiser that PEFT adapted the weights of ours; the adapter's B is drawn first."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.endswith("lora_B.weight"):
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    theirs = {_in_peft(name): value for name, value in ours.state_dict().items()}
    peft.base_model.model.load_state_dict(theirs)


def gradient_error(trainer: Any, loop: StraightLoop) -> float:
    """The relative difference of the gradients as one vector, on the same transitions."""
    config: Config = loop.config
    count = min(config.objective.micro_batch, loop.images)
    step = config.rollout.window_steps.start if config.rollout.window else 1
    draws = torch.Generator().manual_seed(1)
    x, noise = torch.randn(2, count, *loop.latent_shape, generator=draws)
    advantage = torch.randn(count, generator=draws)
    with torch.no_grad():
        mean, std = loop.moments(x, loop.output(x, step), step)
        sample = mean + std * noise
        before = loop.log_prob(sample, mean, std)
    loop.loss(x, sample, before, advantage, step).backward()
    theirs = {
        name: parameter.grad
        for name, parameter in loop.denoiser.base_model.model.named_parameters()
        if parameter.grad is not None
    }
    loop.optimizer.zero_grad()
    batch = {"x": x, "x_next": sample, "log_prob": before, "advantage": advantage}
    own = ours_gradients(trainer, config, batch, step)
    assert len(own) == len(theirs) > 0
    expected = torch.cat([theirs[_in_peft(name)].flatten() for name in own])
    given = torch.cat([value.flatten() for value in own.values()])
    return float((given - expected).norm() / expected.norm())


def ours_gradients(
    trainer: Any, config: Config, batch: dict[str, Any], step: int
) -> dict[str, Any]:
    """The toolkit's gradients of a batch of transitions at one step."""
    backend, policy, process = load("cpu"), trainer.policy, trainer.process
    count = len(batch["x"])
    levels = process.levels(backend, policy, np.full(count, step))
    encoded = policy.encode([PROMPT] * count)
    conditioning = Conditioning(encoded.tokens, encoded.pooled)
    batch = batch | {"weight": torch.full((count,), 1 / count), **levels._asdict()}
    batch["tokens"] = encoded.tokens
    if encoded.pooled is not None:
        batch["pooled"] = encoded.pooled
    if config.objective.kl_weight:
        with torch.no_grad(), policy.reference():
            prediction = process.predict(policy, batch["x"], levels, conditioning)
            batch["reference_mean"] = process.transition(batch["x"], prediction, levels).mean
    compute = backend.value_and_grad(policy, surrogate_loss(policy, process, config))
    return compute(batch)[2]


def _in_peft(name: str) -> str:
    for own, theirs in ((".base.", ".base_layer."), ("lora_A.", "lora_A.default.")):
        name = name.replace(own, theirs)
    return name.replace("lora_B.", "lora_B.default.")


# --- memory --------------------------------------------------------------------------------------


def peak_of(loop: str, name: str, size: Size) -> int:
    """Peak bytes of two updates of a loop, in a process of its own."""
    code = f"from scripts.peers.beside import peak_alone; peak_alone({loop!r}, {name!r}, {size!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    return int(done.stdout.split()[-1])


def peak_alone(loop: str, name: str, size: Size) -> None:
    """Do two updates, and print the peak of this process in bytes."""
    config = case(name, size)
    with trained(config, load("cpu"), size) as trainer:
        step = trainer.step
        if loop == "straight":
            alone = straight_loop(config, trainer.policy, trainer.process, size)
            step = alone.step
            del trainer
        for _ in range(2):
            step()
    print(peak_bytes())


def peak_bytes() -> int:
    """The most memory that this process has had.

    Linux's `ru_maxrss` begins with that of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
