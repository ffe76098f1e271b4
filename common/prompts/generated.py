"""Prompt sets generated from lists of words: animals, activities, counts and written text.

The order of a set is part of its interface: a prompt's id is its position, and the id is part of
the key of the prompt's noise. New prompts may only be added at the end of a set.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

Worded = tuple[str, Mapping[str, Any]]
"""A prompt's text, and its metadata for rewards."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# The 45 common animals and the three activities of DDPO (Black et al. 2023, arXiv:2305.13301).
ANIMALS = _words(
    "ant bat bear bee beetle bird butterfly camel cat chicken cow deer dog dolphin duck fish fly "
    "fox frog goat goose gorilla hedgehog horse kangaroo lion lizard llama monkey mouse pig rabbit "
    "raccoon rat shark sheep snake spider squirrel tiger turkey turtle whale wolf zebra"
)
ACTIVITIES = ("riding a bike", "playing chess", "washing dishes")

NUMBERS = ("one", "two", "three", "four", "five", "six")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
# Names of objects that a detector trained on everyday photographs knows.
OBJECTS = _words(
    "apple backpack bench bicycle bird boat book bottle bowl bus car cat chair clock couch cow cup "
    "dog handbag horse kite knife motorcycle mouse sheep skateboard suitcase train truck umbrella "
    "vase"
)
IRREGULAR_PLURALS = {"knife": "knives", "mouse": "mice", "sheep": "sheep"}

SURFACES = (
    *("sign", "neon sign", "wooden sign", "street sign", "shop window", "book cover", "billboard"),
    *("chalkboard", "birthday cake", "coffee mug", "greeting card", "T-shirt", "poster", "ticket"),
    *("magazine cover", "paper bag", "embroidered cushion", "license plate", "old stone wall"),
    *("hot air balloon", "matchbox", "enamel badge", "sail"),
)
ADJECTIVES = _words(
    "Amber Brave Bright Calm Clever Crimson Distant Early Frozen Gentle Golden Hidden Honest "
    "Humble Little Lucky Modern Patient Quiet Silver Simple Sunny Velvet Wild"
)
NOUNS = _words(
    "Anchor Autumn Bridge Candle Castle Comet Coral Dragon Engine Feather Forest Garden Glacier "
    "Harbor Harvest Island Jungle Lantern Lemon Maple Meadow Mirror Moon Mountain Ocean Orchard "
    "Otter Pepper Planet Puzzle Rainbow River Rocket Saffron Shadow Sparrow Thunder Tulip Valley "
    "Winter"
)
PLACES = _words(
    "Bakery Books Cafe Cinema Festival Gallery Hotel Library Market Museum Radio Theater"
)


@dataclass(frozen=True)
class Generated:
    """A generated set: its description, the names of its metadata, and its generator."""

    description: str
    metadata: tuple[str, ...]
    prompts: Callable[[], Iterator[Worded]]


def article(phrase: str) -> str:
    """The indefinite article of a phrase, by the sound of its first word."""
    word = phrase.split()[0].lower()
    if word.startswith(("uni", "use", "eu", "one")):  # the first sound is "you" or "w"
        return "a"
    return "an" if word[0] in "aeiou" or word.startswith(("hour", "honest", "heir")) else "a"


def plural(noun: str) -> str:
    """The plural of an English noun that is regular or in IRREGULAR_PLURALS."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def animals() -> Iterator[Worded]:
    """Bare names, as in DDPO: "camel"."""
    for animal in ANIMALS:
        yield animal, {"animal": animal}


def animal_activities() -> Iterator[Worded]:
    """An animal with an unusual activity: "an ant playing chess"."""
    for animal, activity in product(ANIMALS, ACTIVITIES):
        text = f"{article(animal)} {animal} {activity}"
        yield text, {"animal": animal, "activity": activity}


def counting() -> Iterator[Worded]:
    """A number of objects of one colour, for a detector to check: "three red apples"."""
    for noun, color, count in product(OBJECTS, COLORS, range(1, len(NUMBERS) + 1)):
        things = noun if count == 1 else plural(noun)
        text = f"{NUMBERS[count - 1]} {color} {things}"
        yield text, {"count": count, "object": noun, "color": color}


def text_to_render() -> Iterator[Worded]:
    """One to three words to write on something: 'A neon sign that says "Quiet Harbor Cafe"'.

    No two prompts ask for the same words, so the words of a held-out prompt are held out too.
    """
    for position, words in enumerate(_phrases()):
        surface = SURFACES[position % len(SURFACES)]
        yield f'{article(surface).capitalize()} {surface} that says "{words}"', {"text": words}


def _phrases() -> Iterator[str]:
    yield from NOUNS
    for adjective, noun in product(ADJECTIVES, NOUNS):
        yield f"{adjective} {noun}"
    for position, (noun, place) in enumerate(product(NOUNS, PLACES)):
        yield f"{ADJECTIVES[position * 7 % len(ADJECTIVES)]} {noun} {place}"


GENERATED: dict[str, Generated] = {
    "animals": Generated("45 common animals by name (DDPO)", ("animal",), animals),
    "animal-activities": Generated(
        "each animal riding a bike, playing chess, washing dishes (DDPO)",
        ("animal", "activity"),
        animal_activities,
    ),
    "counting": Generated(
        "one to six things of one colour, for a detector to count",
        ("count", "object", "color"),
        counting,
    ),
    "text": Generated("words to write on things, for a reader to check", ("text",), text_to_render),
}
"""The sets by name, as `prompts.source` calls them."""
