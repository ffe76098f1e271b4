"""The names of emoji as prompts: all names that the embedded model knows, and the animals."""

import json

import numpy as np

from common.embedded.model import FOLDER

ANIMALS = (
    """
ant, baby chick, bat, bear, bird, blowfish, boar, bug, butterfly, camel, cat, cat face,
chicken, chipmunk, cow, cow face, crab, crocodile, deer, dog, dog face, dolphin, dove,
dragon, dragon face, duck, eagle, elephant, ewe, fish, fox, frog, front facing baby chick,
goat, gorilla, hamster, hatching chick, honeybee, horse, horse face, koala, lady beetle,
leopard, lion, lizard, monkey, monkey face, mouse, mouse face, octopus, owl, ox, panda,
penguin, pig, pig face, poodle, rabbit, rabbit face, ram, rat, rhinoceros, rooster,
scorpion, shark, shrimp, snail, snake, spider, spouting whale, squid, tiger, tiger face,
tropical fish, turkey, turtle, two hump camel, unicorn, water buffalo, whale, wolf
""".replace("\n", " ")
    .strip()
    .split(", ")
)
"""A small domain: training on some of its prompts also improves the others."""


def drawn() -> dict[str, int]:
    """Every name that has images, in the order of its id: text -> id.

    The two names without images are no prompts, but keep their ids.
    """
    names = json.loads((FOLDER / "names.json").read_text(encoding="utf-8"))["names"]
    with np.load(FOLDER / "emoji32.npz") as data:
        indices = np.unique(data["name_index"])
    return {names[index].replace("-", " "): int(index) for index in indices}
