"""Prompt noise at inference: the condition-annealed diffusion sampler (CADS), on any weights.

It is what a plain model is given when one wants more diverse images without training, and so a
point that fine-tuning has to beat.
"""

from collections.abc import Sequence

from common import random
from common.algorithm import prompt_noise
from common.backends import Array, Backend, Conditioning
from common.config import NoiseConfig
from common.random import Key, Purpose
from common.sampling.conditioner import intensities
from common.sampling.ode import Perturb
from common.sampling.process import FlowProcess

SETTINGS = NoiseConfig(form="cads", schedule="cads", draw="step")
"""tau1 = 0.6, tau2 = 0.9 and psi = 1: the sampler's schedule and rescaling, noise at each step."""


def perturbation(backend: Backend, process: FlowProcess, strength: float) -> Perturb | None:
    """What `sample_images` does to the conditioning for CADS of that strength; None at 0.

    y' = sqrt(g) y + s sqrt(1 - g) n, rescaled to the mean and std of y, with new noise n at every
    step (Sadat et al. 2023, eq. 2 to 4, arXiv:2310.17347). The noise of a sample is addressed by
    its seed, its prompt's text and its number, as its initial noise is. The null branch of
    guidance stays clean.
    """
    if strength == 0.0:
        return None
    intensity = intensities(SETTINGS, process)

    def noisy(embedding: Array, keys: Sequence[Key], purpose: Purpose, step: int) -> Array:
        own = [key.at(purpose=purpose, step=step + 1) for key in keys]
        return prompt_noise.perturb(
            embedding,
            backend.asarray(random.normals(own, tuple(embedding.shape[1:]))),
            strength=strength,
            intensity=float(intensity[step]),
            form=SETTINGS.form,
            mix=SETTINGS.mix,
        )

    def perturb(clean: Conditioning, keys: Sequence[Key], step: int) -> Conditioning:
        if intensity[step] == 0.0:
            return clean
        pooled = clean.pooled
        if pooled is not None:
            pooled = noisy(pooled, keys, Purpose.POOLED, step)
        return Conditioning(noisy(clean.tokens, keys, Purpose.PROMPT, step), pooled)

    return perturb
