"""Prompt noise of an update, computed from keys when it is needed.

The rollout and the update get the same arrays for the same (sample, step) pair, because the key of
a pair is the address of its noise (`common.random`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from common.algorithm import annealing, prompt_noise
from common.backends import Array, Backend, Block, Conditioning, Policy
from common.clock import Clock
from common.config import Config, NoiseConfig
from common.prompts import Prompt
from common.random import Key, Purpose
from common.sampling.draws import Draws
from common.sampling.process import Process


class Conditioner:
    """Clean and perturbed conditioning of the P G samples of one update.

    Sample n belongs to prompt n // G. Every sample has its own noise: noise that a group shares
    would move the whole group and add no diversity inside it. The first samples of each group
    have noise, as many as `drift.noise.share` says; nothing else depends on a sample's number.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        policy: Policy,
        process: Process,
        prompts: list[Prompt],
        update: int,
        clock: Clock,
        texts: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """texts: the text of each sample, [P][G]; None is the prompt of its group."""
        self._config, self._backend, self._clock = config, backend, clock
        self._ids = np.array([prompt.id for prompt in prompts])
        self._update = update
        settings = config.drift.noise
        texts = texts or [[prompt.text] * config.rollout.group_size for prompt in prompts]
        by_sample = [text for group in texts for text in group]
        rows = {text: row for row, text in enumerate(dict.fromkeys(by_sample))}
        self._row = np.array([rows[text] for text in by_sample])
        with backend.inference():
            self._clean = policy.encode(list(rows))
        backend.evaluate(self._clean.tokens)
        self._intensity = intensities(settings, process)
        self._noisy = round(settings.share * config.rollout.group_size)
        self._draws_by_key = Draws()
        self._last_draws: dict[Purpose, tuple[list[Key], Array]] = {}
        self._multiplier = annealing.training_multiplier(
            settings.training_schedule, update / config.run.updates
        )

    def conditioning(self, samples: np.ndarray, steps: np.ndarray) -> Conditioning:
        """Perturbed conditioning of samples (int [B]) at denoising steps (int [B])."""
        settings, size = self._config.drift.noise, self._config.rollout.group_size
        clean = self._clean.rows(self._backend.asarray(self._row[samples]))
        intensity = np.where(samples % size < self._noisy, self._intensity[steps], 0.0)

        def draws(purpose: Purpose, count: int) -> Array:
            return self._draws(self._keys(purpose, samples, steps), count)

        return perturbed(
            clean,
            draws,
            strength=settings.strength * self._multiplier,
            pooled_strength=settings.pooled_strength * self._multiplier,
            intensity=self._backend.asarray(intensity),
            form=settings.form,
            mix=settings.mix,
        )

    def draw_ahead(self, samples: np.ndarray, steps: np.ndarray) -> None:
        """Begin to draw the noise that `conditioning` will be asked for next."""
        settings = self._config.drift.noise
        strengths = {Purpose.PROMPT: settings.strength, Purpose.POOLED: settings.pooled_strength}
        for purpose, count in counts(self._clean).items():
            if strengths[purpose] * self._multiplier > 0:
                keys = self._keys(purpose, samples, steps)
                if self._last_draws.get(purpose, ([],))[0] != keys:
                    self._draws_by_key.draw_ahead(keys, count)

    def _draws(self, keys: list[Key], count: int) -> Array:
        """Normal draws [B, count] on the device; the last ones of each purpose stay in memory.

        Noise that is drawn once per trajectory is the same at each step of a rollout, and large.
        """
        purpose = keys[0].purpose
        if purpose not in self._last_draws or self._last_draws[purpose][0] != keys:
            with self._clock("noise"):
                draws = self._backend.asarray(self._draws_by_key.take(keys, count))
            self._last_draws[purpose] = keys, draws
        return self._last_draws[purpose][1]

    def _keys(self, purpose: Purpose, samples: np.ndarray, steps: np.ndarray) -> list[Key]:
        root = Key(self._config.run.seed, purpose, update=self._update)
        size = self._config.rollout.group_size
        per_step = self._config.drift.noise.draw == "step"
        return [
            root.at(
                prompt=int(self._ids[n // size]),
                sample=int(n % size),
                step=int(k) + 1 if per_step else 0,
            )
            for n, k in zip(samples, steps, strict=True)
        ]


def noise_count(settings: NoiseConfig, clean: Conditioning) -> int:
    """Normal draws that a sample's noise consists of at one time; 0 without noise."""
    strengths = {Purpose.PROMPT: settings.strength, Purpose.POOLED: settings.pooled_strength}
    return sum(count for purpose, count in counts(clean).items() if strengths[purpose] > 0)


def counts(clean: Conditioning) -> dict[Purpose, int]:
    """Normal draws that the noise of one sample consists of; 0 is left out."""
    blocks = _blocks(clean)
    numbers = {Purpose.PROMPT: sum(block.length * block.channels for block in blocks)}
    if clean.pooled is not None:
        numbers[Purpose.POOLED] = clean.pooled.shape[1]
    return {purpose: number for purpose, number in numbers.items() if number}


def _blocks(clean: Conditioning) -> tuple[Block, ...]:
    return clean.blocks or (Block(*clean.tokens.shape[1:]),)


def perturbed(
    clean: Conditioning,
    draws: Callable[[Purpose, int], Array],
    *,
    strength: float,
    pooled_strength: float,
    **how: Any,
) -> Conditioning:
    """A conditioning with noise on its tokens and on its pooled embedding.

    Mean and standard deviation are those of each block of tokens: the scales of text encoders
    differ by orders of magnitude. Zero padding beyond a block's channels stays zero.

    Args:
        clean: the conditioning of B samples.
        draws: (purpose, n) -> standard normal [B, n], the noise of those samples.
        strength: s of the tokens; 0 leaves them unchanged.
        pooled_strength: s of the pooled embedding; 0 leaves it unchanged.
        how: the other arguments of `prompt_noise.perturb`.

    Returns:
        A conditioning with the same shapes, dtypes and blocks.
    """
    tokens, pooled = clean.tokens, clean.pooled
    if strength > 0:
        noise_of = draws(Purpose.PROMPT, counts(clean)[Purpose.PROMPT])
        tokens = _by_block(tokens, _blocks(clean), noise_of, strength=strength, **how)
    if pooled is not None and pooled_strength > 0:
        noise_of = draws(Purpose.POOLED, counts(clean)[Purpose.POOLED])
        pooled = prompt_noise.perturb(pooled, noise_of, strength=pooled_strength, **how)
    return replace(clean, tokens=tokens, pooled=pooled)


def _by_block(tokens: Array, blocks: tuple[Block, ...], draws: Array, **how: Any) -> Array:
    """Tokens [B, L, D] with noise on each block; draws: [B, channels of all tokens]."""
    xp, start, used, parts = array_namespace(tokens), 0, 0, []
    for block in blocks:
        part = tokens[:, start : start + block.length]
        start += block.length
        if count := block.length * block.channels:
            live = part[:, :, : block.channels]
            noise_of = xp.reshape(draws[:, used : used + count], live.shape)
            used += count
            noisy = prompt_noise.perturb(live, noise_of, **how)
            padding = part[:, :, block.channels :]
            part = xp.concat([noisy, padding], axis=2) if padding.shape[2] else noisy
        parts.append(part)
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=1)


def intensities(settings: NoiseConfig, process: Process) -> np.ndarray:
    """The noise intensity u = 1 - g(tau) of every denoising step: float64 [T]."""
    taus = annealing.taus(
        settings.axis,
        sigmas=process.noise_shares,
        timesteps=process.timesteps.tolist(),
    )
    levels = [
        annealing.anneal(
            settings.schedule, tau, tau1=settings.tau1, tau2=settings.tau2, rate=settings.rate
        )
        for tau in taus
    ]
    return 1.0 - np.array(levels)
