"""What client and server of a remote reward say to each other: JSON, with images as PNG.

PNG loses nothing, so a score is that of the very pixels; JSON runs nothing, unlike a pickle. A
score that is not finite travels as null and is NaN again on the other side.
"""

import base64
import binascii
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

SCORE, INFO = "/v1/score", "/v1/info"

LARGEST = 256 * 2**20
"""Bytes of a request."""

MOST_PIXELS = 4096 * 4096
"""Of one image: a small file may hold a huge one."""


class WireError(ValueError):
    """A message that is not what it should be; one line that says why."""


def request(
    images: np.ndarray, prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
) -> bytes:
    """Images uint8 [N, H, W, 3] with N prompts and metadata, as the body of a request.

    Raises WireError for metadata that JSON has no form for.
    """
    message = {
        "images": [base64.b64encode(_png(image)).decode() for image in images],
        "prompts": list(prompts),
        "metadata": [dict(about) for about in metadata],
    }
    try:
        return json.dumps(message, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise WireError(f"metadata of a prompt cannot be sent: {error}") from None


def read_request(body: bytes) -> tuple[np.ndarray, list[str], list[dict[str, Any]]]:
    """The inverse of `request`; raises WireError."""
    message = _object(body)
    images, prompts, metadata = (message.get(k) for k in ("images", "prompts", "metadata"))
    if not (isinstance(images, list) and isinstance(prompts, list) and isinstance(metadata, list)):
        raise WireError("write lists of images, prompts and metadata")
    if not len(images) == len(prompts) == len(metadata) > 0:
        sizes = f"{len(images)} images, {len(prompts)} prompts, {len(metadata)} metadata"
        raise WireError(f"{sizes}: write as many of each, at least one")
    if not all(isinstance(p, str) for p in prompts):
        raise WireError("prompts must be texts")
    if not all(isinstance(about, dict) for about in metadata):
        raise WireError("metadata must be objects")
    decoded = [_image(text, i) for i, text in enumerate(images)]
    if len({image.shape for image in decoded}) != 1:
        raise WireError("images of one request must have one size")
    return np.stack(decoded), prompts, metadata


def response(scores: np.ndarray) -> bytes:
    """N scores as the body of a response; the digits are those of float64."""
    values = [float(score) if math.isfinite(score) else None for score in scores]
    return json.dumps({"scores": values}).encode()


def read_response(body: bytes, count: int) -> np.ndarray:
    """Float64 [count]; null is NaN. Raises WireError for anything but so many numbers."""
    scores = _object(body).get("scores")
    if not isinstance(scores, list) or len(scores) != count:
        found = f"{len(scores)} scores" if isinstance(scores, list) else "no scores"
        raise WireError(f"the answer has {found} for {count} images")
    for score in scores:
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise WireError(f"the answer holds {score!r}, which is no number")
    return np.array([math.nan if s is None else float(s) for s in scores], dtype=np.float64)


def _object(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except ValueError:
        raise WireError("the message is not valid JSON") from None
    if not isinstance(message, dict):
        raise WireError("the message is no JSON object")
    return message


def read_info(body: bytes) -> dict[str, Any]:
    """What a server says of its reward; raises WireError."""
    message = _object(body)
    if not isinstance(message.get("name"), str):
        raise WireError("this is no server of a reward")
    return message


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _image(text: Any, index: int) -> np.ndarray:
    try:
        content = base64.b64decode(text, validate=True)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise WireError(f"image {index} is larger than {MOST_PIXELS} pixels")
            return np.asarray(image.convert("RGB"))
    except (TypeError, binascii.Error, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"image {index} is no PNG in base64") from None
