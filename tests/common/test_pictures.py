"""Grids of images: every pixel where it should be."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from common import pictures


def test_a_grid_by_hand():
    red, blue = [255, 0, 0], [0, 0, 255]
    images = np.array([[[[red]]], [[[blue]]]], dtype=np.uint8)  # two rows of one pixel
    picture = pictures.grid(images, scale=2, gap=1)
    assert picture.tolist() == [[red] * 2] * 2 + [[[255] * 3] * 2] + [[blue] * 2] * 2


@given(shape=st.tuples(*[st.integers(1, 4)] * 4), scale=st.integers(1, 3), gap=st.integers(0, 3))
def test_every_pixel_of_a_grid_is_where_it_should_be(
    shape: tuple[int, int, int, int], scale: int, gap: int
):
    R, C, H, W = shape
    images = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    picture = pictures.grid(images, scale=scale, gap=gap)
    assert picture.shape == (R * (H * scale + gap) - gap, C * (W * scale + gap) - gap, 3)
    r, c, y, x = R - 1, C - 1, H - 1, W - 1
    top, left = r * (H * scale + gap) + y * scale, c * (W * scale + gap) + x * scale
    cell = picture[top : top + scale, left : left + scale]
    assert (cell == images[r, c, y, x]).all()
    strips = pictures.rows(picture, R, gap=gap)
    for strip, row in zip(strips, images, strict=True):
        np.testing.assert_array_equal(strip, pictures.grid(row[None], scale=scale, gap=gap))
    white = picture.shape[0] * picture.shape[1] - images[..., 0].size * scale**2
    assert (picture == 255).all(axis=-1).sum() == white


def test_pictures_refuse_what_is_no_picture():
    with pytest.raises(ValueError, match=r"uint8 images \[R, C, H, W, 3\], not float64"):
        pictures.grid(np.zeros((1, 1, 2, 2, 3)))
    with pytest.raises(ValueError, match=r"not uint8 \[2, 2, 3\]"):
        pictures.grid(np.zeros((2, 2, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="scale >= 1"):
        pictures.grid(np.zeros((1, 1, 2, 2, 3), dtype=np.uint8), scale=0)
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"7 pixels high does not have {count} rows"):
            pictures.rows(np.zeros((7, 2, 3), dtype=np.uint8), count)


def test_each_row_is_under_its_caption_and_no_caption_is_cut_off():
    rows = [np.full((10, 40, 3), shade, dtype=np.uint8) for shade in (90, 180)]
    plain = pictures.captioned(rows, ["a rose", "an owl"])
    assert plain.shape[1] == pictures.NARROWEST
    for row, top in zip(rows, (22, 22 + 10 + 8 + 22), strict=True):
        np.testing.assert_array_equal(plain[top : top + 10, :40], row)
        assert (plain[top - 22 : top, :100] < 128).any(), "a caption above it"
    assert not np.array_equal(plain[:22], plain[40:62])
    long = pictures.captioned(rows, ["a rose " * 20, "o" * 400])
    assert long.shape[0] > 3 * plain.shape[0]
    assert (long[:, -1] == 255).all(), "the lines are broken before the edge"


def test_what_the_font_does_not_have_is_written_as_its_escape():
    row = [np.zeros((1, 1, 3), dtype=np.uint8)]
    np.testing.assert_array_equal(
        pictures.captioned(row, ["\u732b \x1b[2J"]),
        pictures.captioned(row, ["\\u732b \\x1b[2J"]),
    )


def test_a_contact_sheet_shows_images_of_every_size(monkeypatch):
    small = np.full((2, 3, 32, 32, 3), 7, dtype=np.uint8)
    assert np.array_equal(pictures.contact_sheet(small), pictures.grid(small, scale=2))
    middle = np.full((2, 3, 64, 96, 3), 7, dtype=np.uint8)
    assert np.array_equal(pictures.contact_sheet(middle), pictures.grid(middle, scale=1))
    large = np.zeros((2, 1, 256, 512, 3), dtype=np.uint8)
    large[:, :, :, ::2] = 200
    sheet = pictures.contact_sheet(large)
    assert sheet.shape == (2 * 64 + 2, 128, 3)
    assert set(np.unique(sheet)) == {100, 255}  # the mean of what they show, and the gap
    monkeypatch.setattr(pictures, "MOST_PIXELS", 2 * 12 * 40 * 40)
    many = np.zeros((3, 4, 80, 80, 3), dtype=np.uint8)
    assert pictures.contact_sheet(many).shape == (3 * 40 + 2 * 2, 4 * 40 + 3 * 2, 3)
