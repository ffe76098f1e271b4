"""Pictures: a grid of images and its rows, and PNG files. No plots."""

import io
from pathlib import Path

import numpy as np

from common import reading

WHITE = 255
MOST_PIXELS = 1 << 26
"""Pixels of a picture that is read: 8,192 on a side."""


class PictureError(ValueError):
    """A picture that cannot be read; the message says whether it is missing or damaged."""


def grid(images: np.ndarray, *, scale: int = 2, gap: int = 2) -> np.ndarray:
    """Images side by side on white, each pixel enlarged to scale x scale (nearest neighbour).

    Args:
        images: uint8 [R, C, H, W, 3], at least one; R rows, C columns.
        scale: enlargement, at least 1.
        gap: white pixels between neighbours, none around the outside.

    Returns:
        uint8 [R H scale + (R - 1) gap, C W scale + (C - 1) gap, 3].

    Raises:
        ValueError: images of another shape or dtype, scale < 1 or gap < 0.
    """
    images = np.asarray(images)
    if images.ndim != 5 or images.shape[-1] != 3 or images.dtype != np.uint8 or not images.size:
        raise ValueError(
            f"a grid takes uint8 images [R, C, H, W, 3], not {images.dtype} {list(images.shape)}"
        )
    if scale < 1 or gap < 0:
        raise ValueError(f"a grid needs scale >= 1 and gap >= 0, not {scale} and {gap}")
    rows, columns, height, width, _ = images.shape
    large = images.repeat(scale, axis=2).repeat(scale, axis=3)
    cell = np.full(
        (rows, columns, height * scale + gap, width * scale + gap, 3), WHITE, dtype=np.uint8
    )
    cell[:, :, : height * scale, : width * scale] = large
    picture = cell.swapaxes(1, 2).reshape(rows * cell.shape[2], columns * cell.shape[3], 3)
    return np.ascontiguousarray(picture[: picture.shape[0] - gap, : picture.shape[1] - gap])


def rows(picture: np.ndarray, count: int, *, gap: int = 2) -> np.ndarray:
    """Undo `grid` along its rows: uint8 [count H + (count - 1) gap, W, 3] -> [count, H, W, 3].

    Raises:
        ValueError: the picture's height is not that of `count` equal rows with such gaps.
    """
    height, remainder = divmod(picture.shape[0] - (count - 1) * gap, max(count, 1))
    if count < 1 or height < 1 or remainder:
        raise ValueError(f"a picture {picture.shape[0]} pixels high does not have {count} rows")
    return np.stack([picture[i * (height + gap) :][:height] for i in range(count)])


def cells(picture: np.ndarray, rows_: int, columns: int, *, gap: int = 2) -> np.ndarray:
    """Undo `grid`: a picture uint8 [H, W, 3] of equal images -> uint8 [R, C, h, w, 3].

    Images that `grid` enlarged to twice their size come back in their own size.

    Raises:
        ValueError: the picture does not have that many equal rows and columns.
    """
    by_row = rows(picture, rows_, gap=gap)
    try:
        upright = [rows(row.swapaxes(0, 1), columns, gap=gap).swapaxes(1, 2) for row in by_row]
    except ValueError:
        wide = picture.shape[1]
        raise ValueError(f"a picture {wide} pixels wide does not hold {columns} columns") from None
    images = np.stack(upright)
    small = images[:, :, ::2, ::2]
    doubled = small.repeat(2, axis=2).repeat(2, axis=3)
    enlarged = doubled.shape == images.shape and np.array_equal(doubled, images)
    return np.ascontiguousarray(small if enlarged else images)


def encode_png(picture: np.ndarray) -> bytes:
    """A picture uint8 [H, W, 3] as PNG; the same picture gives the same bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def load_inside(folder: Path, name: object) -> np.ndarray:
    """The picture of that plain name in a folder. Raises PictureError, also for other places."""
    try:
        file = reading.inside(folder, name)
    except ValueError:
        raise PictureError("is not the name of a file in its folder") from None
    return load(file)


def load(file: Path) -> np.ndarray:
    """Read a picture from a file: uint8 [H, W, 3]. Raises PictureError."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(reading.content(file))) as image:
            if image.width * image.height > MOST_PIXELS:
                raise PictureError(f"has {image.width} x {image.height} pixels, too many")
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise PictureError("is missing") from None
    except PictureError:
        raise
    # A truncated PNG is a SyntaxError or a ValueError to Pillow, depending on where it ends.
    except (OSError, SyntaxError, ValueError):
        raise PictureError("is damaged") from None
