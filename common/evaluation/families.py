"""The measures of each model family."""

from common.evaluation.emoji_measures import EmojiMeasures
from common.evaluation.measures import Measures

BY_FAMILY: dict[str, type[Measures]] = {"embedded": EmojiMeasures}
"""Families that have measures of their own."""


def measures_for(family: str) -> type[Measures]:
    """The class that measures the images of a model family."""
    return BY_FAMILY.get(family, Measures)
