"""The same work by a straight-line loop, as a researcher would write it, in turn with ours.

Diffusers' transformer, PEFT's LoRA under autocast, latents kept on the device, PPO step by step in
the manner of Flow-GRPO's public code (arXiv 2505.05470), written from scratch: sample with guidance
as one batch of two halves, decode, score, normalise rewards by group, then a backward pass for
every trained step. Images, trained steps, batch sizes and dtypes are those of the recipe.
"""

import io
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.config import Config
from common.pipelines.architectures import documents
from common.sampling.rollout import plan_steps
from scripts.gpu_bench.context import Context, spread
from scripts.gpu_bench.models import configured, peak, reset_peak_memory, trained

__all__ = ["StraightLoop", "sd3_fast", "sd3_grpo"]

DECODED = 8
"""Images that the VAE decodes at once."""


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
    seconds: dict[str, list[float]] = {"ours": [], "straight": []}
    with trained(context, config) as trainer:
        process: Any = trainer.process
        loop = StraightLoop(config, trainer.policy, process.sigmas, context)
        peaks = {}
        for count in range(context.pick(3, 2, 2)):
            for name, step in (("ours", trainer.step), ("straight", loop.step)):
                reset_peak_memory(context)
                start = time.perf_counter()
                step()
                if context.backend == "cuda":
                    torch.cuda.synchronize()
                if count:
                    seconds[name].append(time.perf_counter() - start)
                peaks[name] = peak(context)
            if count:
                ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
                figures |= {name: spread(values) for name, values in seconds.items()}
                figures |= {"speed_of_ours": spread(ratios), "peak_bytes": peaks}
                figures["images_per_update"] = loop.images
                context.keep(figures)
    return figures


class StraightLoop:
    """Flow-GRPO on SD 3 without a toolkit: one object, one `step`."""

    def __init__(self, config: Config, ours: Any, sigmas: np.ndarray, context: Context):
        self.config, self.ours = config, ours
        self.device, self.dtype = ours.device, ours.dtype
        self.images = config.rollout.prompts * config.rollout.group_size
        self.sigmas = [float(sigma) for sigma in sigmas]
        self.update = 0
        self.transformer = self._transformer(context)
        trained = [p for p in self.transformer.parameters() if p.requires_grad]
        settings = config.optimizer
        self.optimizer = torch.optim.AdamW(
            trained, settings.learning_rate, weight_decay=settings.weight_decay, eps=settings.eps
        )
        self.trained = trained
        half = self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.tokens, self.pooled = self._embedded("a photo of a cat")
        self.null_tokens, self.null_pooled = self._embedded("")

    def step(self) -> None:
        """Sample, score, and train: one update, with PyTorch's own choice of kernels."""
        before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.allow_tf32 = True
        try:
            self._update()
        finally:
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    def _update(self) -> None:
        plan = plan_steps(self.config.rollout, seed=0, update=self.update)
        trained = [int(step) for step in plan.trained]
        latents, log_probs, pixels = self._sample(plan.stochastic)
        advantages = self._advantages(pixels)
        self._train(latents, log_probs, advantages, trained)
        self.update += 1

    def _transformer(self, context: Context) -> Any:
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
        from peft import LoraConfig, get_peft_model

        size = context.pick("full", "shallow", "tiny")
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device:
                model: Any = SD3Transformer2DModel(
                    **documents("sd3", None, size=size)["transformer"]
                )
        finally:
            torch.set_default_dtype(before)
        if self.config.model.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        settings = self.config.adapter
        lora = LoraConfig(
            r=settings.rank,
            lora_alpha=int(settings.alpha),
            init_lora_weights=True if settings.init == "kaiming" else "gaussian",
            target_modules=list(settings.targets),
        )
        return get_peft_model(model.requires_grad_(False), lora)

    def _embedded(self, prompt: str) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            encoded = self.ours.encode([prompt])
        return encoded.tokens, encoded.pooled

    def _cast(self) -> Any:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def _velocity(self, x: Tensor, sigma: float) -> Tensor:
        """The model's output, guided where the recipe says so: one batch of both branches."""
        count, guidance = len(x), self.config.rollout.guidance
        tokens, pooled = self.tokens.expand(count, -1, -1), self.pooled.expand(count, -1)
        if guidance != 1.0:
            x = torch.cat([x, x])
            tokens = torch.cat([self.null_tokens.expand(count, -1, -1), tokens])
            pooled = torch.cat([self.null_pooled.expand(count, -1), pooled])
        with self._cast():
            output = self.transformer(
                hidden_states=x.to(self.dtype),
                timestep=torch.full((len(x),), 1000 * sigma, device=self.device),
                encoder_hidden_states=tokens,
                pooled_projections=pooled,
                return_dict=False,
            )[0].float()
        if guidance == 1.0:
            return output
        null, conditional = output.chunk(2)
        return null + guidance * (conditional - null)

    def _moments(self, x: Tensor, velocity: Tensor, step: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of the next latents: Flow-SDE, or CPS (arXiv 2509.05952)."""
        s, following, level = self.sigmas[step], self.sigmas[step + 1], self._level()
        if self.config.rollout.kernel == "cps":
            std = following * math.sin(level * math.pi / 2)
            clean, noise = x - s * velocity, x + (1 - s) * velocity
            mean = (1 - following) * clean + math.sqrt(max(following**2 - std**2, 0.0)) * noise
            return mean, std
        ds = following - s
        weight = level * math.sqrt(s / (1 - (self.sigmas[1] if s == 1 else s)))
        drift = weight**2 / (2 * s) * ds
        mean = x * (1 + drift) + velocity * (1 + weight**2 * (1 - s) / (2 * s)) * ds
        return mean, weight * math.sqrt(-ds)

    def _level(self) -> float:
        return self.config.rollout.noise_level

    def _log_prob(self, sample: Tensor, mean: Tensor, std: float) -> Tensor:
        distance = (sample - mean) ** 2
        if self.config.rollout.kernel == "cps":
            return -distance.flatten(1).mean(1)
        density = -distance / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
        return density.flatten(1).mean(1)

    @torch.no_grad()
    def _sample(self, stochastic: np.ndarray) -> tuple[Tensor, Tensor, np.ndarray]:
        """All latents [N, T + 1, ...] and log-probs [N, T] on the device, and the pixels."""
        latents, log_probs, pixels = [], [], []
        for count in _sizes(self.images, self.config.rollout.batch_size):
            x = torch.randn(count, *self.ours.latent_shape, device=self.device)
            states, densities = [x], []
            for step in range(self.config.rollout.steps):
                velocity = self._velocity(x, self.sigmas[step])
                if stochastic[step]:
                    mean, std = self._moments(x, velocity, step)
                    x = mean + std * torch.randn_like(mean)
                    densities.append(self._log_prob(x, mean, std))
                else:
                    x = x + velocity * (self.sigmas[step + 1] - self.sigmas[step])
                    densities.append(torch.zeros(count, device=self.device))
                states.append(x)
            latents.append(torch.stack(states, 1))
            log_probs.append(torch.stack(densities, 1))
            pixels.append(self._decoded(x))
        return torch.cat(latents), torch.cat(log_probs), np.concatenate(pixels)

    def _decoded(self, x: Tensor) -> np.ndarray:
        vae = self.ours._vae
        images = []
        for part in x.split(DECODED):
            scaled = part / vae.config.scaling_factor + vae.config.shift_factor
            image = (vae.decode(scaled.to(vae.dtype)).sample / 2 + 0.5).clamp(0, 1)
            images.append((255 * image).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(images)

    def _advantages(self, pixels: np.ndarray) -> Tensor:
        """Rewards by JPEG size, less their group's mean, over the standard deviation of all."""
        rewards = -torch.tensor([_jpeg_kilobytes(image) for image in pixels])
        groups = rewards.reshape(self.config.rollout.prompts, -1)
        advantages = (groups - groups.mean(1, keepdim=True)) / (groups.std() + 1e-4)
        bound = self.config.objective.advantage_clip
        return advantages.flatten().clamp(-bound, bound).to(self.device)

    def _train(
        self, latents: Tensor, log_probs: Tensor, advantages: Tensor, trained: list[int]
    ) -> None:
        settings = self.config.objective
        order = torch.randperm(self.images, device=self.device)
        for part in order.chunk(settings.optimizer_steps):
            micro = list(part.split(settings.micro_batch))
            for rows in micro:
                for step in trained:
                    x, sample = latents[rows, step], latents[rows, step + 1]
                    loss = self._loss(x, sample, log_probs[rows, step], advantages[rows], step)
                    weight = len(rows) / (len(part) * len(trained))
                    self.scaler.scale(loss * weight).backward()
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.trained, self.config.optimizer.max_grad_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()

    def _loss(
        self, x: Tensor, sample: Tensor, before: Tensor, advantage: Tensor, step: int
    ) -> Tensor:
        settings = self.config.objective
        mean, std = self._moments(x, self._velocity(x, self.sigmas[step]), step)
        ratio = torch.exp(self._log_prob(sample, mean, std) - before)
        clipped = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
        loss = torch.maximum(-advantage * ratio, -advantage * clipped).mean()
        if settings.kl_weight == 0:
            return loss
        with torch.no_grad(), self.transformer.disable_adapter():
            reference, _ = self._moments(x, self._velocity(x, self.sigmas[step]), step)
        kl = ((mean - reference) ** 2).flatten(1).mean(1) / (2 * std**2)
        return loss + settings.kl_weight * kl.mean()


def _sizes(total: int, most: int) -> Iterator[int]:
    for start in range(0, total, most):
        yield min(most, total - start)


def _jpeg_kilobytes(image: np.ndarray) -> float:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=95)
    return buffer.tell() / 1000
