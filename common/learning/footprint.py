"""Memory of an update that grows with the group size: its samples and their credit, on the host.

The peaks of the networks are those of `Backend.estimate`; they depend on batches, not on groups.
What several processes send to each other is counted in `footprint_several`.
"""

import tracemalloc

import numpy as np

from common.backends import Backend, Policy
from common.config import Config
from common.embedded.model import SCORERS
from common.learning import credit
from common.policies.embedded import CHUNK
from common.sampling.draws import KEPT
from common.sampling.rollout import plan_steps

__all__ = [
    "FLOAT",
    "blank_image",
    "credit_bytes",
    "feature_bytes",
    "latent_bytes",
    "noise_bytes",
    "sample_bytes",
    "scored_bytes",
    "scorer_bytes",
    "stages",
    "stored_steps",
]

FLOAT = 4
"""Bytes of a number of the samples and features."""

MEASURED = 512
"""Largest group whose credit is computed to measure its memory; that of others is scaled."""

MEASURED_VENDI = 24
"""The same for the potential `loo_vendi`, whose memory grows with the cube of the group."""


def stages(
    config: Config, policy: Policy, image: int, width: int, noise: int = 0
) -> dict[str, int]:
    """Bytes on the host at the peak of each stage.

    rollout: the samples when the batches are joined. credit: with images for the rewards, features
    and the distances of each group. update: the samples.

    Args:
        config: the whole configuration.
        policy: the one that is trained.
        image: numbers of one image, H W 3.
        width: F, numbers of the features of one image.
        noise: numbers of the prompt noise of one sample, 0 without noise.
    """
    rollout = config.rollout
    images = rollout.prompts * rollout.group_size
    samples = images * sample_bytes(config, policy, image)
    scored = scored_bytes(images, image)
    features = feature_bytes(config, width)
    kept = noise_bytes(config, noise)
    return {
        "rollout": 2 * samples + kept,
        "credit": samples
        + kept
        + scored
        + features
        + scorer_bytes(images, image)
        + rollout.prompts * credit_bytes(config, width),
        "update": samples + kept,
    }


def blank_image(backend: Backend, policy: Policy) -> np.ndarray:
    """A black image of the policy's size, uint8 [1, H, W, 3]; decoded where it does not say."""
    if (size := getattr(policy, "image_size", None)) is not None:
        return np.zeros((1, *size, 3), dtype=np.uint8)
    with backend.inference():
        empty = backend.asarray(np.zeros((1, *policy.latent_shape), dtype=np.float32))
        return np.zeros_like(policy.decode(empty))


def scored_bytes(images: int, image: int) -> int:
    """Bytes of images that rewards get at once: as uint8 and, term after term, as floats."""
    return images * image * (2 + FLOAT)


def feature_bytes(config: Config, width: int) -> int:
    """Bytes of the features of an update: as they are, and as the float64 of their norms."""
    rollout = config.rollout
    images = rollout.prompts * rollout.group_size
    of_steps = rollout.steps if config.drift.shaping.mode == "per_step" else 0
    return images * width * (FLOAT + 8 + of_steps * FLOAT)


def sample_bytes(config: Config, policy: Policy, image: int) -> int:
    """Bytes of one sample: latents before and after each trained step, log-probs, images."""
    predicted = config.rollout.steps if config.drift.shaping.mode == "per_step" else 0
    numbers = stored_steps(config) * FLOAT + (1 + predicted) * image
    return latent_bytes(config, policy) + numbers


def latent_bytes(config: Config, policy: Policy) -> int:
    """Bytes of the latents of one sample, before and after each trained step."""
    return stored_steps(config) * 2 * int(np.prod(policy.latent_shape)) * FLOAT


def stored_steps(config: Config) -> int:
    """The number of denoising steps of an update that are trained on."""
    return len(plan_steps(config.rollout, seed=config.run.seed, update=0).trained)


def noise_bytes(config: Config, numbers: int) -> int:
    """Bytes of the prompt noise that is kept for an update; numbers: of one draw for a sample."""
    rollout = config.rollout
    draws = rollout.steps if config.drift.noise.draw == "step" else 1
    return min(KEPT, draws * rollout.prompts * rollout.group_size * numbers * FLOAT)


def scorer_bytes(images: int, image: int) -> int:
    """Activations of the embedded scorer, in whose chunks the images are scored.

    Input, output and workspace of its first layer; other rewards have their own memory on top.
    """
    return 3 * min(images, CHUNK) * SCORERS["train"].width * (image // 3) * FLOAT


def credit_bytes(config: Config, width: int) -> int:
    """Peak of the credit of one group, measured on random rewards and features.

    A group that is too large to be measured at once is scaled from a smaller one.
    """
    size = config.rollout.group_size
    cubic = config.drift.shaping.potential == "loo_vendi"
    measured = min(size, MEASURED_VENDI if cubic else MEASURED)
    return round(_measured(config, measured, width) * (size / measured) ** (3 if cubic else 2))


def _measured(config: Config, size: int, width: int) -> int:
    rollout = config.rollout.model_copy(update={"group_size": size})
    keep = config.drift.subset.keep
    if keep:
        keep = max(1, round(keep * size / config.rollout.group_size))
    subset = config.drift.subset.model_copy(update={"keep": keep})
    smaller = config.model_copy(
        update={"rollout": rollout, "drift": config.drift.model_copy(update={"subset": subset})}
    )
    generator = np.random.default_rng(0)
    rewards = generator.random((1, size))
    features = generator.random((1, size, width), dtype=np.float32)
    per_step = config.drift.shaping.mode == "per_step"
    steps = (rollout.steps, 1, size, width)
    predicted = generator.random(steps, dtype=np.float32) if per_step else None
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        credit.assign(
            smaller,
            rewards,
            features,
            predicted_features=predicted,
            draws=rewards,
            shuffle_draws=rewards,
            base=np.zeros(1),
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        if not tracing:
            tracemalloc.stop()
    return peak - before
