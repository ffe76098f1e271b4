"""Images that were made elsewhere, measured without a run: no base model and no reward."""

from collections.abc import Sequence
from pathlib import Path

from common.backends import Backend
from common.config import Config
from common.evaluation import measure
from common.evaluation.collection import Collection
from common.evaluation.foreign import ImagesError, RealImages
from common.evaluation.instruments import Instruments
from common.evaluation.measures import Measures
from common.evaluation.records import Protocol, Record, Split
from common.prompts import Prompt
from common.rewards import FEATURES, REWARDS

SPLIT: Split = "test"
"""The split that their protocol names, since `drift compare` takes it by default."""


def protocol(
    images: Collection, scorers: Sequence[str], features: Sequence[str], real: RealImages | None
) -> Protocol:
    """How images alone are measured; `sampler` has their size.

    Args:
        images: at least two of each prompt.
        scorers: rewards that score them.
        features: names of image features; () takes the default of `evaluate.features`.
        real: real images that they are compared with.

    Raises:
        ImagesError: one image of each prompt, or the first one is damaged.
        RewardNameError: a scorer or features that there are not.
    """
    if images.count < 2:
        raise ImagesError(f"{images.place} has 1 image of each prompt, and diversity needs 2")
    for name in scorers:
        REWARDS.check(name)
    for name in features:
        FEATURES.check(name, {})
    first, *more = Measures.feature_labels(Config(), features)
    prompts = tuple(sorted(images.by_prompt))
    height, width = images.size(prompts[0])
    return Protocol(
        images=images.count,
        steps=0,
        seed=0,
        model="",
        split=SPLIT,
        prompts=prompts,
        features=first,
        sampler=f"images of {width} x {height} pixels",
        scorers=tuple(dict.fromkeys(scorers)),
        more_features=tuple(more),
        real=real.digest if real is not None else "",
    )


class ImagesMeasurer:
    """Measures images under a protocol that `protocol` gave.

    Raises ImagesError for a damaged image or one of another size than the first, and
    RewardNameError for a scorer or features that cannot be made here.
    """

    def __init__(
        self, images: Collection, how: Protocol, backend: Backend, real: RealImages | None
    ) -> None:
        self._how, config = how, Config()
        prompts = [Prompt(number, text) for number, text in enumerate(how.prompts)]
        measures = Measures(config, backend)
        self._instruments = Instruments(config, backend, measures, prompts, real=real)
        self._instruments.prepare(how)
        size = images.size(how.prompts[0])
        self._pixels = images.images(how.prompts, size, which="the first of them has")
        self._digest = images.digest(how.prompts)

    def record(self, place: Path) -> Record:
        """The record of the images; its picture is below `place` by then."""
        return measure.make_record(
            self._instruments, self._how, self._pixels, None, weights=self._digest, place=place
        )
