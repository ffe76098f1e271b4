"""Pictures: a grid of images and its rows, with captions, and PNG files. No plots."""

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common import reading

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

WHITE = 255
INK = (22, 25, 29)
MOST_PIXELS = 1 << 26
"""Pixels of a picture that is read: 8,192 on a side."""

FONT = 14
"""Pixels: the size of captions."""

SMALL = 64
"""Images of fewer pixels a side are enlarged in a picture of many."""

THUMBNAIL = 128
"""Pixels of a side to which larger images are reduced in a contact sheet."""

NARROWEST = 280
"""Pixels: a picture with captions is at least this wide, so that a caption has few lines."""


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


def contact_sheet(images: np.ndarray) -> np.ndarray:
    """`grid` of images uint8 [R, C, H, W, 3] at a size for looking at many of them.

    Images of fewer than SMALL pixels a side are enlarged to twice their size; those of more than
    THUMBNAIL are made smaller by the mean of what they show, and smaller still where the whole
    would have more than half of MOST_PIXELS.
    """
    from PIL import Image

    *shape, height, width, _ = images.shape
    most = min(THUMBNAIL, math.isqrt(MOST_PIXELS // (2 * math.prod(shape))))
    if max(height, width) > max(most, SMALL - 1):
        size = tuple(max(most * side // max(height, width), 1) for side in (width, height))
        flat = images.reshape(-1, *images.shape[2:])
        small = [Image.fromarray(each).resize(size, Image.Resampling.BOX) for each in flat]
        images = np.stack([np.asarray(each) for each in small])
        images = images.reshape(*shape, *images.shape[1:])
    return grid(images, scale=enlargement(width))


def enlargement(pixels: int) -> int:
    """The factor by which a picture of many images shows those of so many pixels a side."""
    return 2 if pixels < SMALL else 1


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


def captioned(strips: Sequence[np.ndarray], captions: Sequence[str], *, gap: int = 8) -> np.ndarray:
    """Strips one below the other on white, each under its caption, which is never cut off.

    A character that the font does not have is written as its escape sequence.

    Args:
        strips: n pictures uint8 [h, w, 3], at least one.
        captions: n texts; white space and control characters are shown on one line.
        gap: white pixels between a strip and the next caption.

    Returns:
        uint8 [H, max(w, NARROWEST), 3].
    """
    from PIL import Image, ImageDraw, ImageFont

    file = _font_file()
    font, known = ImageFont.truetype(file, FONT), _characters(file)
    wide = max(NARROWEST, *(strip.shape[1] for strip in strips))
    parts: list[np.ndarray] = []
    for strip, caption in zip(strips, captions, strict=True):
        shown = "".join(c if c in known else ascii(c)[1:-1] for c in reading.printable(caption))
        lines = list(_wrapped(shown, wide, font.getlength))
        high = len(lines) * (FONT + 4) + 4
        canvas = Image.new("RGB", (wide, high + strip.shape[0]), (WHITE, WHITE, WHITE))
        ImageDraw.Draw(canvas).multiline_text((0, 0), "\n".join(lines), INK, font, spacing=4)
        canvas.paste(Image.fromarray(strip), (0, high))
        parts += [np.full((gap, wide, 3), WHITE, dtype=np.uint8), np.asarray(canvas)]
    return np.concatenate(parts[1:])


def _font_file() -> str:
    """A font of many scripts, which matplotlib ships."""
    import matplotlib as mpl

    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _characters(font_file: str) -> set[str]:
    from matplotlib.ft2font import FT2Font

    return {chr(code) for code in FT2Font(font_file).get_charmap()}


def _wrapped(text: str, wide: int, length: Callable[[str], float]) -> Iterator[str]:
    """The lines of a text, broken at spaces where there are any, else within a word."""
    line = ""
    for word in text.split(" "):
        if line and length(f"{line} {word}") <= wide:
            line = f"{line} {word}"
            continue
        if line:
            yield line
        while length(word) > wide:
            cut = next(n for n in range(len(word), 0, -1) if n == 1 or length(word[:n]) <= wide)
            yield word[:cut]
            word = word[cut:]
        line = word
    yield line


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
    try:
        return decode(reading.content(file))
    except FileNotFoundError:
        raise PictureError("is missing") from None
    except OSError:
        raise PictureError("is damaged") from None


def decode(content: bytes) -> np.ndarray:
    """The picture that the bytes of a file hold: uint8 [H, W, 3]. Raises PictureError."""
    with _opened(content) as image:
        return np.asarray(image.convert("RGB"))


def decode_foreign(content: bytes) -> np.ndarray:
    """An image that another program or a camera made, upright: uint8 [H, W, 3].

    Raises PictureError also where its pixels would become others: parts that are transparent,
    more than 8 bits a colour, several frames.
    """
    from PIL import ImageOps

    with _opened(content) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise PictureError("has several frames")
        if image.mode not in _MODES:
            raise PictureError(f"has pixels of another kind than 8 bits a colour ({image.mode})")
        clear = image.has_transparency_data
        if clear and np.asarray(image.convert("RGBA"))[..., 3].min() < WHITE:
            raise PictureError("has transparent parts")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


_FORMATS = ("PNG", "JPEG", "WEBP")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


@contextmanager
def _opened(content: bytes) -> Iterator["PILImage"]:
    """The image in the bytes of a file. PictureError for a bad one, also while it is used."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on what is refused or read here
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise PictureError(f"has {image.width} x {image.height} pixels, too many")
                yield image
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise PictureError(f"has more than {MOST_PIXELS} pixels, too many") from None
    except Exception:  # Pillow raises nearly anything for files that were made to break it
        raise PictureError("is damaged") from None
