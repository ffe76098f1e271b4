"""What only images of the embedded emoji model are measured with.

Its alignment by the two embedded scorers, the drawing styles that a prompt's images cover, and
the Frechet distance to real emoji. Its first features are those of the held-out scorer, whatever
`evaluate.features` is.
"""

from collections.abc import Sequence

import numpy as np

from common.algorithm import fidelity
from common.arrays import digest
from common.backends import Backend
from common.config import Config
from common.embedded.model import FOLDER, denoiser_weights
from common.evaluation import style
from common.evaluation.measures import Measures
from common.prompts import emoji

ALIGNMENT_SCALE = 10.0
"""Alignment is reported as 10 x cosine, the scale of the default reward."""


class EmojiMeasures(Measures):
    """Measures of the embedded model. Raises ValueError when its scorers cannot be loaded."""

    HAS_ALIGNMENT = True
    OWN_FEATURES = "embedded_heldout"

    def __init__(self, config: Config, backend: Backend) -> None:
        super().__init__(config, backend)
        self._train, self._heldout = backend.scorer("train"), backend.scorer("heldout")
        self._extractors[""] = self._heldout.features
        self._styles = style.load()
        self._real: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}

    @classmethod
    def model(cls, config: Config) -> str:
        """Digest of the weights; ValueError when they cannot be read."""
        return digest(denoiser_weights(config.model.path))

    @classmethod
    def sampler(cls, config: Config) -> str:
        """Empty: the protocol and the weights say enough."""
        return ""

    def alignments(self, images: np.ndarray, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """10 x cosine by both embedded scorers: [N] each."""
        return {
            "alignment_train": ALIGNMENT_SCALE * self._train.score(images, prompts),
            "alignment_heldout": ALIGNMENT_SCALE * self._heldout.score(images, prompts),
        }

    def by_prompt(self, images: np.ndarray, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        """The measures of every model, the alignments and the number of styles: [P] each."""
        shape, flat = images.shape[:2], images.reshape(-1, *images.shape[2:])
        words = [text for text in prompts for _ in range(shape[1])]
        scores = self.alignments(flat, words)
        styles = self._styles.labels(flat).reshape(shape)
        return {
            **{name: values.reshape(shape).mean(axis=1) for name, values in scores.items()},
            "modes": fidelity.mode_count(styles, style.CLASSES),
            **super().by_prompt(images, prompts),
        }

    def reference(self, name: str, prompts: Sequence[str], base: np.ndarray) -> np.ndarray:
        """The features [M, F] of the real emoji of the prompts."""
        key = name, tuple(prompts)
        if key not in self._real:
            self._real[key] = self.flat_features(real_images(prompts), name)
        return self._real[key]


def real_images(prompts: Sequence[str]) -> np.ndarray:
    """The real emoji of the prompts, uint8 [M, 32, 32, 3].

    All real emoji if any prompt is no name of one, as in a prompt file.
    """
    known = emoji.drawn()
    with np.load(FOLDER / "emoji32.npz") as data:
        images, name_index = data["images"], data["name_index"]
    if not all(text in known for text in prompts):
        return images
    return images[np.isin(name_index, [known[text] for text in prompts])]
