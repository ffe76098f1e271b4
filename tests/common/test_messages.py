"""What processes send to each other comes back as it was; nothing else is taken."""

import json
import math

import numpy as np
import pytest

from common.backends.messages import MessageError, decode, encode


@pytest.mark.parametrize(
    "content",
    [None, True, 3, 1.5, "text", [], {}, [1, [2, "x"], {"a": None}], {"a": {"b": [False]}}],
)
def test_plain_values_come_back(content):
    assert decode(encode(content)) == content


def test_arrays_come_back_bit_by_bit():
    arrays = {
        "float": np.array([[1.5, np.nan], [-0.0, np.inf]]),
        "single": np.arange(6, dtype=np.float32).reshape(1, 2, 3)[..., ::-1],
        "pixels": np.arange(4, dtype=np.uint8),
        "none": np.zeros((0, 3), dtype=np.int64),
        "flag": np.array(True),
    }
    received = decode(encode([{"deep": arrays}, (1, 2)]))
    assert received[1] == [1, 2]
    for name, array in arrays.items():
        other = received[0]["deep"][name]
        assert (other.dtype, other.shape) == (array.dtype, array.shape)
        assert other.tobytes() == array.tobytes()
        assert not other.flags.writeable


def test_scalars_of_numpy_and_numbers_that_are_not_finite():
    received = decode(encode([np.float64(0.1), np.int32(7), math.nan, -math.inf]))
    assert received[:2] == [0.1, 7]
    assert math.isnan(received[2])
    assert received[3] == -math.inf


@pytest.mark.parametrize(
    "content", [{1: 2}, {"\0array": 1}, object(), {1, 2}, np.array([None]), np.array(["text"])]
)
def test_anything_else_is_not_sent(content):
    with pytest.raises(TypeError):
        encode(content)


def forged(described, rest=b""):
    text = json.dumps({"\0array": described}).encode()
    return len(text).to_bytes(8, "little") + text + rest


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x05\0\0\0\0\0\0\0{",
        b"\xff" * 40,
        (2000).to_bytes(8, "little") + b"[" * 1000 + b"]" * 1000,
        forged(["|O", [1]], b"12345678"),
        forged(["<f8", [2]], b"12345678"),
        forged(["<f8", [1]], b"123456789"),
        forged(["<f8", [-1]], b"12345678"),
        forged(["<f8", ["1"]], b"12345678"),
        forged(["no such type", [1]]),
        forged(7),
        forged(["<f8", [2**62, 4]]),
    ],
)
def test_what_no_process_has_made_is_refused(message):
    with pytest.raises(MessageError, match="no message of a process"):
        decode(message)
