"""GenEval's rules on boxes by hand, and which ImageNet classes a prompt names."""

import pytest

from common.prompts.generated import GENERATED
from common.rewards import classes, detection
from common.rewards.detection import Box, Clause, Question


def box(x0, y0, x1, y1, confidence=0.9, color=""):
    return Box((x0, y0, x1, y1), confidence, color)


LEFT, RIGHT = box(0, 40, 20, 60), box(70, 40, 90, 60)


def test_positions_need_more_than_a_dead_zone():
    assert detection.relations(LEFT, RIGHT) == {"left of"}
    assert detection.relations(RIGHT, LEFT) == {"right of"}
    assert detection.relations(box(0, 0, 10, 10), box(0, 50, 10, 60)) == {"above"}
    assert detection.relations(box(0, 50, 10, 60), box(0, 0, 10, 10)) == {"below"}
    # Widths of 20: the centres must differ by more than 0.1 x 40.
    assert detection.relations(LEFT, box(4, 40, 24, 60)) == set()
    assert detection.relations(LEFT, box(9, 40, 29, 60)) == {"left of"}
    assert detection.relations(LEFT, LEFT) == set()


def test_a_diagonal_is_both_and_a_slight_slope_is_one():
    assert detection.relations(box(0, 0, 2, 2), box(50, 50, 52, 52)) == {"left of", "above"}
    assert detection.relations(box(0, 0, 2, 2), box(50, 10, 52, 12)) == {"left of"}


def test_overlapping_and_unsure_boxes_go():
    boxes = [box(0, 0, 10, 10, 0.5), box(0, 0, 10, 12, 0.8), box(20, 0, 30, 10, 0.31)]
    boxes.append(box(50, 50, 60, 60, 0.3))
    kept = detection.without_overlaps(boxes, threshold=0.3, overlap=0.5)
    assert [b.confidence for b in kept] == [0.8, 0.31]
    assert len(detection.without_overlaps(boxes, threshold=0.3, overlap=1.0)) == 3
    assert detection.iou(boxes[0], boxes[1]) == pytest.approx(100 / 120)
    assert detection.iou(box(0, 0, 0, 0), box(0, 0, 0, 0)) == 0.0


def test_counts_and_colours_give_partial_credit():
    asked = Question((Clause("apple", 4, "red"),))
    red, green = box(0, 0, 1, 1, color="red"), box(0, 0, 1, 1, color="green")
    for detected, expected in (
        ([red] * 4, 1.0),
        ([red] * 3, 0.75),
        ([red, red, green, green], (1 + 0.5) / 2),
        ([red] * 6, (0.5 + 1) / 2),
        ([red] * 9, (0 + 1) / 2),
        ([], 0.0),
    ):
        assert detection.score(asked, {"apple": detected}) == pytest.approx(expected)


def test_a_position_counts_beside_the_number_and_what_is_excluded_costs():
    asked = Question((Clause("cat"), Clause("dog", relation="left of", target=0)))
    assert detection.score(asked, {"cat": [RIGHT], "dog": [LEFT]}) == 1.0
    assert detection.score(asked, {"cat": [LEFT], "dog": [RIGHT]}) == 0.75
    assert detection.score(asked, {"dog": [LEFT]}) == pytest.approx((0 + 0.5) / 2)
    without = Question((Clause("cat"),), (Clause("cat", 2),))
    assert detection.score(without, {"cat": [LEFT]}) == 1.0
    assert detection.score(without, {"cat": [LEFT, RIGHT]}) == 0.0


def test_metadata_of_both_kinds_is_read():
    text, about = next(iter(GENERATED["counting"].prompts()))
    assert detection.question(text, about) == Question((Clause("apple", 1, "red"),))
    geneval = {
        "tag": "position",
        "include": [
            {"class": "couch", "count": 1},
            {"class": "dog", "count": 1, "position": ["right of", 0]},
        ],
        "exclude": [{"class": "dog", "count": 2}],
    }
    asked = detection.question("p", geneval)
    assert asked.include[1] == Clause("dog", 1, "", "right of", 0)
    assert (asked.names, asked.counts) == (["couch", "dog"], False)


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({}, "'p' has no 'object'"),
        ({"object": "cat", "count": 0}, "count = 0"),
        ({"object": "cat", "color": "beige"}, "color = 'beige' of 'p'; valid: red"),
        ({"include": [{"class": "cat", "position": ["near", 0]}]}, "position"),
        ({"include": [{"class": "cat", "position": ["above", 3]}]}, "position"),
        ({"include": 3}, "no valid 'include'"),
    ],
)
def test_metadata_that_asks_for_nothing_is_reported(about, says):
    with pytest.raises(ValueError, match=says):
        detection.question("p", about)


# --- classes -------------------------------------------------------------------------------------


def test_the_thousand_classes_stand_in_their_order():
    names = classes.names()
    assert len(names) == 1000
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 999: "toilet tissue"}
    assert all(name in names[number] for number, name in known.items())


@pytest.mark.parametrize(
    ("prompt", "numbers"),
    [
        ("a golden retriever on a beach", [207]),
        ("Rooster", [7]),
        ("fox", [277, 278, 279, 280]),
        ("a red fox", [277]),
        ("elephant", [385, 386]),
    ],
)
def test_the_longest_name_in_a_prompt_counts(prompt, numbers):
    assert classes.named(prompt, {}) == numbers


def test_metadata_decides():
    assert classes.named("x", {"class": 5}) == [5]
    assert classes.named("x", {"class": ["goldfish", 3]}) == [1, 3]
    for wrong in (1000, -1, "gold", True, 2.5):
        with pytest.raises(ValueError, match="is no class of ImageNet"):
            classes.named("x", {"class": wrong})
