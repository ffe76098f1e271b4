"""Prompt noise at inference: the condition-annealed diffusion sampler (CADS), on any weights.

It makes the images of a plain model more diverse without training, so it is a baseline that
fine-tuning has to beat.
"""

from collections.abc import Sequence

from common import random
from common.backends import Array, Backend, Conditioning
from common.config import NoiseConfig
from common.random import Key, Purpose
from common.sampling.conditioner import intensities, perturbed
from common.sampling.ode import Perturb
from common.sampling.process import Process

SETTINGS = NoiseConfig(form="cads", schedule="cads", draw="step")
"""tau1 = 0.6, tau2 = 0.9 and psi = 1: the sampler's schedule and rescaling, noise at each step."""


def perturbation(backend: Backend, process: Process, strength: float) -> Perturb | None:
    """The argument `perturb` of `sample_images` for CADS of that strength; None at 0.

    y' = sqrt(g) y + s sqrt(1 - g) n, rescaled to the mean and std of y, with new noise n at every
    step (Sadat et al. 2023, eq. 2 to 4, arXiv:2310.17347); each block of tokens by itself, as in
    training (`conditioner.perturbed`). The address of a sample's noise is its seed, its prompt's
    text, its number and the step. The null branch of guidance stays clean.

    Args:
        backend: makes the device arrays.
        process: its noise levels set the intensity of each step.
        strength: s >= 0, of the tokens and of the pooled embedding.
    """
    if strength == 0.0:
        return None
    intensity = intensities(SETTINGS, process)

    def perturb(clean: Conditioning, keys: Sequence[Key], step: int) -> Conditioning:
        if intensity[step] == 0.0:
            return clean

        def draws(purpose: Purpose, count: int) -> Array:
            own = [key.at(purpose=purpose, step=step + 1) for key in keys]
            return backend.asarray(random.normals(own, (count,)))

        return perturbed(
            clean,
            draws,
            strength=strength,
            pooled_strength=strength,
            intensity=float(intensity[step]),
            form=SETTINGS.form,
            mix=SETTINGS.mix,
        )

    return perturb
