"""The messages between client and server of a remote reward: JSON, with images as PNG.

PNG is lossless, so a score is that of the exact pixels; JSON cannot execute code, unlike a pickle.
A score that is not finite is sent as null and becomes NaN on the other side.
"""

import base64
import io
import json
import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image

SCORE, INFO = "/v1/score", "/v1/info"

LARGEST = 160 * 2**20
"""Bytes of a request: a little more than `REQUEST_PIXELS` random pixels take."""

IMAGE_PIXELS = 4096 * 4096
"""Of one image."""

REQUEST_PIXELS = 2 * IMAGE_PIXELS
"""Of all images of a request: a file of 3 kB may hold 16 million pixels."""

MOST_VALUES = 2**20
"""Commas, colons and brackets of a request: `[[],[],...]` grows twentyfold when it is parsed."""

ANSWER_BYTES, SCORE_BYTES = 2**16, 64
"""The longest answer: so many bytes, and so many more for each image."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
"""How a PNG begins; its width and height follow."""

_TOKEN = re.compile(r"[!-~]+")

_BAD_IMAGE = (
    TypeError,
    OSError,
    SyntaxError,
    ValueError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises, or warns of where warnings are errors, for files made to break it."""


class WireError(ValueError):
    """A message that is not valid; one line with the reason."""


class TooLargeError(WireError):
    """A message that asks for more memory than a request may take."""


def one_line(text: str) -> str:
    """At most 400 characters of a text from elsewhere; none of them moves a terminal's cursor."""
    line = " ".join(text.split())[:400]
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in line)


def check_token(token: str, variable: str) -> None:
    """Raises WireError, which does not show the token, for one that a header cannot hold.

    variable: the environment variable that the token comes from.
    """
    if not _TOKEN.fullmatch(token):
        raise WireError(
            f"the token in the environment variable {variable} cannot be sent: it holds a space, "
            "a line end or another character that is not printable ASCII"
        )


def request(
    images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
) -> bytes:
    """Images uint8 [N, H, W, 3] with N prompts and metadata, as the body of a request.

    Raises WireError for metadata that JSON has no form for, and TooLargeError.
    """
    _check_pixels([(image.shape[1], image.shape[0]) for image in images])
    message = {
        "images": [base64.b64encode(_png(image)).decode() for image in images],
        "prompts": list(prompts),
        "metadata": [dict(about) for about in metadata],
    }
    try:
        body = json.dumps(message, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"metadata of a prompt cannot be sent: {error}") from None
    if len(body) > LARGEST:
        raise TooLargeError(
            f"{len(images)} images make a request of {len(body)} bytes, and {LARGEST} are the "
            "most: set a smaller batch_size"
        )
    return body


def read_request(body: bytes | bytearray) -> tuple[np.ndarray, list[str], list[dict[str, Any]]]:
    """The inverse of `request`; raises WireError.

    The sizes of all images are checked by their headers before the first is decoded.
    """
    if sum(body.count(sign) for sign in (b",", b":", b"[", b"{")) > MOST_VALUES:
        raise TooLargeError(f"a request has at most {MOST_VALUES} commas, colons and brackets")
    message = _object(body)
    images, prompts, metadata = (message.get(k) for k in ("images", "prompts", "metadata"))
    if not (isinstance(images, list) and isinstance(prompts, list) and isinstance(metadata, list)):
        raise WireError("write lists of images, prompts and metadata")
    if not len(images) == len(prompts) == len(metadata) > 0:
        sizes = f"{len(images)} images, {len(prompts)} prompts, {len(metadata)} metadata"
        raise WireError(f"{sizes}: write as many of each, at least one")
    if not all(isinstance(p, str) and _is_unicode(p) for p in prompts):
        raise WireError("prompts must be texts")
    if not all(isinstance(about, dict) for about in metadata):
        raise WireError("metadata must be objects")
    sizes = [_size(text, i) for i, text in enumerate(images)]
    _check_pixels(sizes)
    if len(set(sizes)) != 1:
        raise WireError("images of one request must have one size")
    width, height = sizes[0]
    decoded = np.empty((len(images), height, width, 3), dtype=np.uint8)
    for i, text in enumerate(images):
        decoded[i] = _image(text, i, sizes[0])
    return decoded, prompts, metadata


def response(scores: np.ndarray, reward: str = "", version: str = "") -> bytes:
    """N scores as the body of a response; the digits are those of float64.

    reward and version: what computed them, so that a server that was started again with
    another reward is noticed.
    """
    values = [float(score) if math.isfinite(score) else None for score in scores]
    return json.dumps({"scores": values, "reward": reward, "version": version}).encode()


def read_response(body: bytes, count: int, reward: str = "", version: str = "") -> np.ndarray:
    """Float64 [count]; null is NaN.

    Raises WireError for anything but so many numbers, and for those of another reward or version,
    where the answer names them.
    """
    answer = _object(body)
    given = str(answer.get("reward", reward)), str(answer.get("version", version))
    if given != (reward, version):
        before, now = (" ".join(filter(None, each)) for each in ((reward, version), given))
        raise WireError(f"it served '{before}' when the run began, and now '{one_line(now)}'")
    scores = answer.get("scores")
    if not isinstance(scores, list) or len(scores) != count:
        said = f"{len(scores)} scores" if isinstance(scores, list) else "no scores"
        raise WireError(f"the answer has {said} for {count} images")
    return np.array([_number(score) for score in scores], dtype=np.float64)


def _number(score: Any) -> float:
    if score is None:
        return math.nan
    if isinstance(score, int | float) and not isinstance(score, bool):
        with suppress(OverflowError):  # an integer of 400 digits
            return float(score)
    shown = repr(score)[:80] if isinstance(score, str | bool) else f"a {type(score).__name__}"
    raise WireError(f"the answer holds {shown}, which is no number")


def _object(body: bytes | bytearray) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except ValueError:
        raise WireError("the message is not valid JSON") from None
    except RecursionError:
        raise WireError("the message is nested too deep") from None
    if not isinstance(message, dict):
        raise WireError("the message is no JSON object")
    return message


def read_info(body: bytes) -> dict[str, Any]:
    """The description that a server sends of its reward; raises WireError."""
    message = _object(body)
    if not isinstance(message.get("name"), str):
        raise WireError("this is no server of a reward")
    return message


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _is_unicode(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which no file and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_pixels(sizes: Sequence[tuple[int, int]]) -> None:
    """sizes: width and height of each image."""
    pixels = [width * height for width, height in sizes]
    for i, ((width, height), count) in enumerate(zip(sizes, pixels, strict=True)):
        if count > IMAGE_PIXELS:
            size = f"{width} x {height} pixels"
            raise TooLargeError(f"image {i} has {size}: at most {IMAGE_PIXELS} in all")
    if sum(pixels) > REQUEST_PIXELS:
        raise TooLargeError(
            f"{len(sizes)} images have {sum(pixels)} pixels together, and {REQUEST_PIXELS} are the "
            "most of one request: set a smaller batch_size"
        )


def _size(text: Any, index: int) -> tuple[int, int]:
    """Width and height of a PNG in base64, from its first bytes."""
    head = b""
    if isinstance(text, str):
        with suppress(ValueError):
            head = base64.b64decode(text[:32], validate=True)
    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (16, 20))
    if not head.startswith(_SIGNATURE) or not width or not height:
        raise WireError(f"image {index} is no PNG in base64")
    return width, height


def _image(text: str, index: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] of a PNG in base64, whose header says that size."""
    try:
        content = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size != size:  # a second header, which decoding would follow
                raise WireError(f"image {index} has two sizes")
            return np.asarray(image.convert("RGB"))
    except _BAD_IMAGE as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"image {index} is no PNG in base64") from None
