"""The 1,000 classes of ImageNet (ILSVRC 2012) by name, and the classes that a prompt names."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("imagenet.txt")
"""One line per class, in the order of their numbers: WordNet's names of the class, with commas."""

COMMON: dict[str, str] = {"rooster": "cock"}
"""Everyday words that are not among WordNet's names."""


@cache
def names() -> tuple[tuple[str, ...], ...]:
    """The names of each class, in lower case."""
    lines = FILE.read_text(encoding="utf-8").lower().splitlines()
    return tuple(tuple(name.strip() for name in line.split(",")) for line in lines)


def named(prompt: str, metadata: Mapping[str, Any]) -> list[int]:
    """The numbers of the classes that a prompt asks for, rising; an image of any one is right.

    `class` of the metadata decides: a number, a name, or a list of either. Else the prompt's
    words: the classes with the longest name that occurs in it ("a tabby cat" names one); if
    there are none, the classes with a name that ends with a word of the prompt, as "red fox" and
    "kit fox" do with "fox".

    Raises ValueError when it names none.
    """
    if (given := metadata.get("class")) is not None:
        listed = given if isinstance(given, list | tuple) else [given]
        return sorted({number for each in listed for number in _given(each)})
    words = _words(prompt)
    whole = _longest(words)
    numbers = whole or sorted({n for word in words for n in _by_last_word().get(word, ())})
    if not numbers:
        raise ValueError(
            f"the prompt '{prompt}' names no class of ImageNet, and its metadata has no 'class'"
        )
    return numbers


def _given(value: Any) -> list[int]:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names()):
        return [value]
    if isinstance(value, str) and (numbers := _by_name().get(value.strip().lower())):
        return numbers
    raise ValueError(f"class = {value!r} is no class of ImageNet: a number below 1000, or a name")


def _longest(words: list[str]) -> list[int]:
    """The classes with the longest name that the prompt contains; [] if it contains none."""
    for length in range(len(words), 0, -1):
        parts = (" ".join(words[i : i + length]) for i in range(len(words) - length + 1))
        if numbers := {number for part in parts for number in _by_name().get(part, ())}:
            return sorted(numbers)
    return []


def _words(text: str) -> list[str]:
    words: list[str] = re.findall(r"[a-z0-9'-]+", text.lower())
    return [COMMON.get(word, word) for word in words]


@cache
def _by_name() -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for number, each in enumerate(names()):
        for name in each:
            table.setdefault(name, []).append(number)
    return table


@cache
def _by_last_word() -> dict[str, set[int]]:
    table: dict[str, set[int]] = {}
    for name, numbers in _by_name().items():
        table.setdefault(name.split()[-1], set()).update(numbers)
    return table
