"""What processes of a run send to each other: JSON, and arrays as their bytes.

Never a pickle: a process that another user reaches over the network could run code by one.
"""

import json
import math
from typing import Any

import numpy as np

from common import reading

__all__ = ["MessageError", "decode", "encode"]

ARRAY = "\0array"
"""The key of an object that stands for an array: its number, shape and dtype."""

KINDS = "biuf"
"""Kinds of dtypes that are sent."""

HEAD = 8
"""Bytes of the length of the JSON, little-endian, with which a message begins."""


class MessageError(ValueError):
    """A message that is not valid; one line with the reason."""


def encode(content: Any) -> bytes:
    """A tree of dicts with text keys, lists, tuples, arrays, text, numbers, booleans and None.

    Tuples come back as lists, numpy's scalars as Python's. TypeError for anything else.
    """
    buffers: list[bytes] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in KINDS:
                raise TypeError(f"an array of {value.dtype} cannot be sent")
            buffers.append(np.ascontiguousarray(value).tobytes())
            return {ARRAY: [value.dtype.str, list(value.shape)]}
        if isinstance(value, dict):
            if strange := [key for key in value if not isinstance(key, str) or key == ARRAY]:
                raise TypeError(f"{strange[0]!r} cannot be the key of a message")
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return value

    text = json.dumps(plain(content)).encode()
    return b"".join([len(text).to_bytes(HEAD, "little"), text, *buffers])


def decode(message: bytes) -> Any:
    """What `encode` was given; arrays are read-only. MessageError for what it did not make."""
    length = int.from_bytes(message[:HEAD], "little")
    try:
        tree = reading.json_document(message[HEAD : HEAD + length])
    except ValueError as error:
        raise MessageError(f"no message of a process: {error}") from None
    rest = memoryview(message)[HEAD + length :]

    def full(value: Any) -> Any:
        nonlocal rest
        if isinstance(value, list):
            return [full(each) for each in value]
        if not isinstance(value, dict):
            return value
        if ARRAY not in value:
            return {key: full(each) for key, each in value.items()}
        dtype, shape = _described(value[ARRAY])
        size = dtype.itemsize * math.prod(shape)
        if size > len(rest):
            raise MessageError(f"no message of a process: {len(rest)} bytes, not {size}")
        array, rest = np.frombuffer(rest[:size], dtype).reshape(shape), rest[size:]
        return array

    content = full(tree)
    if len(rest):
        raise MessageError(f"no message of a process: {len(rest)} bytes too many")
    return content


def _described(described: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    try:
        name, shape = described
        dtype = np.dtype(name)
        if dtype.kind not in KINDS or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"{name}, {shape}")
    except (TypeError, ValueError) as error:
        raise MessageError(f"no message of a process: array {error}") from None
    return dtype, tuple(shape)
