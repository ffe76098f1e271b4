"""OCR reads rendered words of several fonts and sizes, and the score is what the rule says."""

import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image, ImageDraw, ImageFont

from common.rewards import create
from common.rewards.ocr import TextScorer, edit_distance, similarity, wanted

FONTS = Path(matplotlib.__file__).parent / "mpl-data" / "fonts" / "ttf"

pytest.importorskip("rapidocr")


def drawn(words, font="DejaVuSans.ttf", size=28, shape=(96, 256), ink="black", paper="white"):
    image = Image.new("RGB", shape[::-1], paper)
    where = ImageDraw.Draw(image)
    where.text((12, 24), words, fill=ink, font=ImageFont.truetype(str(FONTS / font), size))
    return np.asarray(image)


@pytest.fixture(scope="module")
def reward():
    return create("ocr", None, {"threads": 1})


@pytest.fixture(scope="module")
def read(reward):
    assert isinstance(reward.function, TextScorer)
    return reward.function.read


@pytest.mark.parametrize(
    ("words", "font", "size"),
    [
        ("Quiet Harbor", "DejaVuSans.ttf", 20),
        ("Lantern", "DejaVuSerif-Bold.ttf", 44),
        ("Open 24", "DejaVuSansMono.ttf", 28),
        ("Library", "cmr10.ttf", 32),
        ("MUSEUM", "STIXGeneralItalic.ttf", 36),
    ],
)
def test_words_of_several_fonts_and_sizes_are_read(read, words, font, size):
    assert "".join(read(drawn(words, font, size)).split()) == words.replace(" ", "")


def test_colours_are_not_swapped(read):
    """Red on a blue of the same luminance in BGR order: OpenCV's order gives another text."""
    assert read(drawn("Garden", ink=(255, 255, 0), paper=(0, 0, 90))) == "Garden"


def test_scores_rank_right_wrong_and_no_text(reward):
    images = np.stack([drawn("Comet"), drawn("Comer"), drawn("Bridge"), drawn("")])
    got = reward(images, ['A sign that says "Comet"'] * 4, [{}] * 4)
    assert got[0] == 1.0
    assert got[1] == pytest.approx(0.8)
    assert got[1] > got[2] >= got[3] == 0.0


def test_the_smallest_images_have_no_text_and_no_error(reward):
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with pytest.warns(UserWarning, match="'rose' has no words in double quotes"):
        got = reward(noise, ["rose", "rose"], [{}, {}])
    assert got.tolist() == [0.0, 0.0]


def test_extra_text_costs_in_strict_and_is_free_in_flow_grpo():
    assert similarity("Open now open", "Open", rule="flow_grpo") == 1.0
    assert similarity("Open now open", "Open", rule="strict") == 0.0  # 7 letters too many of 4
    assert similarity("Opens", "Open", rule="strict") == 0.75
    assert similarity("open", "O P E N", rule="strict") == 1.0
    with pytest.raises(ValueError, match="no words"):
        similarity("x", " ", rule="strict")


@pytest.mark.parametrize(
    ("prompt", "metadata", "words"),
    [
        ('A "Hi" and "Ho"', {}, "Hi"),
        ("A “Hi”", {}, "Hi"),
        ('A "Hi"', {"text": "Ho"}, "Ho"),
        ("A rose", {}, None),
        ('A "Hi"', {"text": 3}, "Hi"),
    ],
)
def test_what_is_to_be_written(prompt, metadata, words):
    assert wanted(prompt, metadata) == words


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_edit_distance_is_the_textbooks_recursion(a, b):
    def d(i, j):
        if min(i, j) == 0:
            return max(i, j)
        return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert edit_distance(a, b) == d(len(a), len(b))
    assert math.isclose(edit_distance(a, b), edit_distance(b, a))
