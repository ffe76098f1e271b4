"""Memory on the host of an update that several processes share: see `footprint` for one.

Each has the images of all and the latents of its own batches. What they send to each other is in
memory several times while it is sent: `Backend.copies` says how often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from common.backends import Policy
from common.backends.world import Copies
from common.config import Config
from common.learning import footprint
from common.learning.footprint import FLOAT

__all__ = ["Share", "sent_samples", "stages"]


@dataclass(frozen=True)
class Share:
    """One process of several.

    size: their number. leads: whether it is process 0, which alone calls plain functions as rewards
    and measures evaluations. copies: those of its backend.
    """

    size: int
    leads: bool
    copies: Copies


def stages(
    config: Config,
    policy: Policy,
    image: int,
    width: int,
    noise: int,
    share: Share,
    calls: Sequence[int | None],
    prompts: int,
) -> dict[str, int]:
    """Bytes on the host at the peak of each stage, of the process with the most batches.

    Args:
        config: see `footprint.stages`, as for the next four.
        policy: the one that is trained.
        image: numbers of one image.
        width: numbers of the features of one image.
        noise: numbers of the prompt noise of one sample.
        share: which process.
        calls: images of one call of each reward; None: all at once, on process 0.
        prompts: the number of all prompts of the run.
    """
    rollout, size = config.rollout, share.size
    images = rollout.prompts * rollout.group_size
    batches = -(-images // rollout.batch_size)
    own = min(-(-batches // size) * rollout.batch_size, images)
    latents = footprint.latent_bytes(config, policy)
    rest = footprint.sample_bytes(config, policy, image) - latents
    kept = footprint.noise_bytes(config, noise)
    message, all_messages = own * rest, size * own * rest
    sampled = own * latents + 3 * message + share.copies.gathered * all_messages
    # The latents of its batches are joined, one kind after the other, then the images of all.
    joined = own * latents * 5 // 2 + message + all_messages + images * rest
    samples = own * latents + images * rest + kept
    moved = round(sent_samples(config, size) * latents)
    return {
        "rollout": max(sampled, joined) + kept,
        "credit": samples
        + all_messages  # scoring has the images in the messages that they came in
        + _called_bytes(images, image, share, calls)
        + footprint.feature_bytes(config, width)
        + footprint.scorer_bytes(images, image)
        + rollout.prompts * footprint.credit_bytes(config, width),
        "update": samples + share.copies.sent * moved,
        "evaluation": _evaluation_bytes(config, image, width, share, prompts),
    }


def sent_samples(config: Config, size: int) -> float:
    """How many samples a process sends to where they are trained on, and gets: expected.

    Pairs of a selected sample and a trained step are shuffled, so a process needs a sample of
    another one unless all of its steps went to others.
    """
    rollout, steps = config.rollout, footprint.stored_steps(config)
    selected = rollout.prompts * (config.drift.subset.keep or rollout.group_size)
    return selected * (1 - 1 / size) * (1 - (1 - 1 / size) ** steps)


def _called_bytes(images: int, image: int, share: Share, calls: Sequence[int | None]) -> int:
    """Images that rewards get: all of them joined, and those of a call with their floats."""
    own = [images if size is None else min(size, images) for size in calls]
    if not share.leads:
        own = [min(size, images) for size in calls if size is not None]
    return images * image + footprint.scored_bytes(max(own, default=0), image)


def _evaluation_bytes(config: Config, image: int, width: int, share: Share, prompts: int) -> int:
    """All images of an evaluation, and what process 0 measures them with."""
    count = (config.evaluate.prompts or prompts) * config.evaluate.images
    sampled = count * image * (1 + share.copies.gathered)
    if not share.leads:
        return sampled
    measured = footprint.scored_bytes(count, image) + footprint.scorer_bytes(count, image)
    return max(sampled, measured + count * width * (FLOAT + 8))
