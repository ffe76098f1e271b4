"""Straight-line loops of reinforcement learning, as a researcher would write them.

Diffusers' denoiser, PEFT's LoRA under autocast, latents kept on the device, PPO step by step in
the manner of public code, written from scratch: sample with guidance as one batch of two halves,
decode, score, normalise rewards by group, then a backward pass for every trained step. Images,
trained steps, batch sizes and dtypes are those of a configuration.
"""

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.config import Config
from common.pipelines.architectures import Size
from common.sampling.process import DDIMProcess, Process
from common.sampling.rollout import plan_steps
from drift_torch import full_size

__all__ = ["DiffusionLoop", "FlowLoop", "StraightLoop", "straight_loop"]

DECODED = 8
"""Images that the VAE decodes at once."""

PROMPT = "a photo of a cat"


def straight_loop(config: Config, policy: Any, process: Process, size: Size) -> Any:
    """The loop for a configuration: DDPO's for a diffusion, Flow-GRPO's for a flow.

    policy: that of the toolkit, which lends its VAE and the embeddings of two prompts; the
    denoiser is a new one. process: with the noise levels of the steps.
    """
    kind = DiffusionLoop if isinstance(process, DDIMProcess) else FlowLoop
    denoiser = full_size.denoiser(config.model, policy.device, size)
    return kind(config, policy, process, denoiser)


class StraightLoop(ABC):
    """Reinforcement learning without a toolkit: one object, one `step`.

    denoiser: its adapter is made here. trained: the parameters of the adapter.
    """

    EACH_GROUP: ClassVar[bool]
    """Whether advantages are divided by the deviation of their group, or by that of all."""

    def __init__(self, config: Config, policy: Any, process: Process, denoiser: Any):
        self.config, self.device, self.dtype = config, policy.device, policy.dtype
        self.latent_shape, self._vae = policy.latent_shape, policy._vae
        self.levels = [float(level) for level in process.table]
        self.following = [float(level) for level in process.next_levels]
        self.times = [float(time) for time in process.timesteps]
        self.images = config.rollout.prompts * config.rollout.group_size
        self.update = 0
        self.denoiser = self._adapted(denoiser)
        self.trained = [p for p in self.denoiser.parameters() if p.requires_grad]
        settings = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.trained, settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        with torch.no_grad():
            self.prompted, self.null = policy.encode([PROMPT]), policy.encode([""])

    def step(self) -> None:
        """Sample, score, and train: one update, with PyTorch's own choice of kernels."""
        before = torch.get_deterministic_debug_mode(), torch.backends.cudnn.allow_tf32
        torch.set_deterministic_debug_mode("default")
        torch.backends.cudnn.allow_tf32 = True
        try:
            plan = plan_steps(self.config.rollout, seed=0, update=self.update)
            latents, log_probs, pixels = self.sample(plan.stochastic)
            advantages = self._advantages(pixels)
            self.train(latents, log_probs, advantages, [int(step) for step in plan.trained])
        finally:
            torch.set_deterministic_debug_mode(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]
        self.update += 1

    # --- what a method says ----------------------------------------------------------------------

    @abstractmethod
    def _call(self, x: Tensor, time: float, tokens: Tensor, pooled: Tensor | None) -> Tensor:
        """The denoiser's output for x at a time of its scheduler."""

    @abstractmethod
    def moments(self, x: Tensor, output: Tensor, step: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of the next latents."""

    @abstractmethod
    def deterministic(self, x: Tensor, output: Tensor, step: int) -> Tensor:
        """The next latents of a step without noise."""

    def log_prob(self, sample: Tensor, mean: Tensor, std: float) -> Tensor:
        """The mean of the Gaussian's log-density over the numbers of each sample."""
        density = -((sample - mean) ** 2) / (2 * std**2)
        density = density - math.log(std) - 0.5 * math.log(2 * math.pi)
        return density.flatten(1).mean(1)

    # --- one update ------------------------------------------------------------------------------

    def output(self, x: Tensor, step: int) -> Tensor:
        """The denoiser's output, guided where the recipe says so: one batch of both branches."""
        count, rollout = len(x), self.config.rollout
        tokens, pooled = self._rows(self.prompted, count)
        guided = rollout.guidance != 1.0
        if guided:
            null_tokens, null_pooled = self._rows(self.null, count)
            x, tokens = torch.cat([x, x]), torch.cat([null_tokens, tokens])
            pooled = None if pooled is None else torch.cat([null_pooled, pooled])
        with self._cast():
            output = self._call(x.to(self.dtype), self.times[step], tokens, pooled).float()
        if not guided:
            return output
        null, conditional = output.chunk(2)
        if rollout.guidance_gradient == "conditional":
            null = null.detach()
        return null + rollout.guidance * (conditional - null)

    @torch.no_grad()
    def sample(self, stochastic: np.ndarray) -> tuple[Tensor, Tensor, np.ndarray]:
        """All latents [N, T + 1, ...] and log-probs [N, T] on the device, and the pixels."""
        latents, log_probs, pixels = [], [], []
        for count in _sizes(self.images, self.config.rollout.batch_size):
            x = torch.randn(count, *self.latent_shape, device=self.device)
            states, densities = [x], []
            for step in range(self.config.rollout.steps):
                output = self.output(x, step)
                if stochastic[step]:
                    mean, std = self.moments(x, output, step)
                    x = mean + std * torch.randn_like(mean)
                    densities.append(self.log_prob(x, mean, std))
                else:
                    x = self.deterministic(x, output, step)
                    densities.append(torch.zeros(count, device=self.device))
                states.append(x)
            latents.append(torch.stack(states, 1))
            log_probs.append(torch.stack(densities, 1))
            pixels.append(self._decoded(x))
        return torch.cat(latents), torch.cat(log_probs), np.concatenate(pixels)

    def train(
        self, latents: Tensor, log_probs: Tensor, advantages: Tensor, trained: list[int]
    ) -> None:
        """PPO's steps over all samples: a backward pass for each micro-batch and trained step."""
        settings = self.config.objective
        order = torch.randperm(self.images, device=self.device)
        for part in order.chunk(settings.optimizer_steps):
            for rows in part.split(settings.micro_batch):
                for step in trained:
                    x, sample = latents[rows, step], latents[rows, step + 1]
                    loss = self.loss(x, sample, log_probs[rows, step], advantages[rows], step)
                    weight = len(rows) / (len(part) * len(trained))
                    self.scaler.scale(loss * weight).backward()
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.trained, self.config.optimizer.max_grad_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()

    def loss(
        self, x: Tensor, sample: Tensor, before: Tensor, advantage: Tensor, step: int
    ) -> Tensor:
        """The clipped surrogate of some samples at one step, and the KL where it has a weight."""
        settings = self.config.objective
        mean, std = self.moments(x, self.output(x, step), step)
        ratio = torch.exp(self.log_prob(sample, mean, std) - before)
        clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
        loss = torch.maximum(-advantage * ratio, -advantage * clipped).mean()
        if settings.kl_weight == 0:
            return loss
        with torch.no_grad(), self.denoiser.disable_adapter():
            reference, _ = self.moments(x, self.output(x, step), step)
        scale = std**2
        if settings.kl_form == "flow_grpo" and self.config.rollout.kernel == "flow_sde":
            scale /= self.levels[step] - self.following[step]  # the code's std lacks this width
        kl = ((mean - reference) ** 2).flatten(1).mean(1) / (2 * scale)
        return loss + settings.kl_weight * kl.mean()

    # --- helpers ---------------------------------------------------------------------------------

    def _adapted(self, denoiser: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        if self.config.model.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
        settings = self.config.adapter
        lora = LoraConfig(
            r=settings.rank,
            lora_alpha=int(settings.alpha),
            init_lora_weights=True if settings.init == "kaiming" else "gaussian",
            target_modules=list(settings.targets),
        )
        return get_peft_model(denoiser.requires_grad_(False), lora)

    def _rows(self, conditioning: Any, count: int) -> tuple[Tensor, Any]:
        pooled = conditioning.pooled
        pooled = None if pooled is None else pooled.expand(count, -1)
        return conditioning.tokens.expand(count, -1, -1), pooled

    def _cast(self) -> Any:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _decoded(self, x: Tensor) -> np.ndarray:
        vae, images = self._vae, []
        for part in x.split(DECODED):
            scaled = part / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
            image = (vae.decode(scaled.to(vae.dtype)).sample / 2 + 0.5).clamp(0, 1)
            images.append((255 * image).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(images)

    def _advantages(self, pixels: np.ndarray) -> Tensor:
        """Rewards by JPEG size, less their group's mean, over a standard deviation."""
        rewards = -torch.tensor([_jpeg_kilobytes(image) for image in pixels])
        groups = rewards.reshape(self.config.rollout.prompts, -1)
        std = groups.std(1, keepdim=True) if self.EACH_GROUP else groups.std()
        advantages = (groups - groups.mean(1, keepdim=True)) / (std + 1e-4)
        bound = self.config.objective.advantage_clip
        return advantages.flatten().clamp(-bound, bound).to(self.device)


class FlowLoop(StraightLoop):
    """Flow-GRPO on SD 3 (arXiv:2505.05470), with Flow-SDE or CPS (arXiv:2509.05952)."""

    EACH_GROUP = False

    def _call(self, x: Tensor, time: float, tokens: Tensor, pooled: Tensor | None) -> Tensor:
        return self.denoiser(
            hidden_states=x,
            timestep=torch.full((len(x),), time, device=self.device),
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            return_dict=False,
        )[0]

    def moments(self, x: Tensor, output: Tensor, step: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of the next latents, from a velocity."""
        s, following = self.levels[step], self.following[step]
        level = self.config.rollout.noise_level
        if self.config.rollout.kernel == "cps":
            std = following * math.sin(level * math.pi / 2)
            clean, noise = x - s * output, x + (1 - s) * output
            mean = (1 - following) * clean + math.sqrt(max(following**2 - std**2, 0.0)) * noise
            return mean, std
        ds = following - s
        weight = level * math.sqrt(s / (1 - (self.levels[1] if s == 1 else s)))
        drift = weight**2 / (2 * s) * ds
        mean = x * (1 + drift) + output * (1 + weight**2 * (1 - s) / (2 * s)) * ds
        return mean, weight * math.sqrt(-ds)

    def deterministic(self, x: Tensor, output: Tensor, step: int) -> Tensor:
        """Euler's step along the velocity."""
        return x + output * (self.following[step] - self.levels[step])

    def log_prob(self, sample: Tensor, mean: Tensor, std: float) -> Tensor:
        """CPS leaves out the constants and the deviation."""
        if self.config.rollout.kernel == "cps":
            return -((sample - mean) ** 2).flatten(1).mean(1)
        return super().log_prob(sample, mean, std)


class DiffusionLoop(StraightLoop):
    """DDPO on Stable Diffusion 1 (arXiv:2305.13301): DDIM with eta, both branches trained."""

    EACH_GROUP = True

    def _call(self, x: Tensor, time: float, tokens: Tensor, pooled: Tensor | None) -> Tensor:
        return self.denoiser(x, time, encoder_hidden_states=tokens, return_dict=False)[0]

    def moments(self, x: Tensor, output: Tensor, step: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of DDIM (arXiv:2010.02502, eq. 12 and 16), from epsilon."""
        return self._ddim(x, output, step, self.config.rollout.noise_level)

    def deterministic(self, x: Tensor, output: Tensor, step: int) -> Tensor:
        """DDIM with eta = 0."""
        return self._ddim(x, output, step, 0.0)[0]

    def _ddim(self, x: Tensor, epsilon: Tensor, step: int, eta: float) -> tuple[Tensor, float]:
        signal, following = self.levels[step], self.following[step]
        std = eta * math.sqrt((1 - following) / (1 - signal) * (1 - signal / following))
        clean = (x - math.sqrt(1 - signal) * epsilon) / math.sqrt(signal)
        direction = math.sqrt(1 - following - std**2) * epsilon
        return math.sqrt(following) * clean + direction, std


def _sizes(total: int, most: int) -> Iterator[int]:
    for start in range(0, total, most):
        yield min(most, total - start)


def _jpeg_kilobytes(image: np.ndarray) -> float:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=95)
    return buffer.tell() / 1000
