"""A quick digest of a base model's files, for processes that must have the same one.

`model_files.digest` reads every byte, which takes tens of seconds; this one reads the beginning of
each file, and a few bytes of each of its tensors at places that a key draws. A tensor of other
numbers is seen unless it is equal at that place.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import common.embedded
from common import random, reading
from common.config import ModelConfig
from common.errors import RequestError
from common.evaluation import model_files
from common.random import Key, Purpose
from common.runs import files
from common.runs.inputs import HEAD

__all__ = ["digest"]

PIECE = 64
"""Bytes that are read of each tensor."""

HEADER = reading.DOCUMENT
"""Most bytes of a file's header: its list of tensors."""


def digest(model: ModelConfig) -> str:
    """SHA-256 of a sample of the model's files; of the embedded model's own where it names none.

    A repository counts by its commit, and has no digest, "", before it was loaded on this machine;
    so has a path that is not there. Raises RequestError for a file that cannot be read.
    """
    whole = hashlib.sha256()
    names = [name for name in (model.path, model.weights) if name]
    for name in names or [str(Path(common.embedded.__file__).parent)]:
        path = Path(name).expanduser()
        with files.os_errors_as(f"read {path}", RequestError):
            if path.is_file():
                whole.update(_sample(path))
            elif path.is_dir():
                for file in model_files.files_of_model(path):
                    whole.update(file.relative_to(path).as_posix().encode() + _sample(file))
            else:
                try:
                    whole.update(model_files.commit(name, "model.path").encode())
                except ValueError:  # loading it says why
                    return ""
    return whole.hexdigest()


def _sample(path: Path) -> bytes:
    """SHA-256 of a file's size, of its beginning and of a piece of each tensor."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD)
        sample = hashlib.sha256(f"{size} ".encode() + head)
        if path.suffix == ".safetensors":
            length = int.from_bytes(head[:8], "little")
            file.seek(8)
            text = file.read(min(length, HEADER))
            sample.update(text)
            for start in _places(text, 8 + length, size):
                file.seek(start)
                sample.update(file.read(PIECE))
    return sample.digest()


def _places(text: bytes, data: int, size: int) -> Iterator[int]:
    """Where a piece of each tensor begins in a safetensors file.

    text: its header. data: where its numbers begin. size: of the file. A header that is damaged
    has no places: the library that loads the file says what is wrong.
    """
    try:
        entries = reading.json_document(text)
        spans = [entry["data_offsets"] for name, entry in entries.items() if name != "__metadata__"]
        bounds = np.array(spans, dtype=np.int64).reshape(-1, 2)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return
    shares = random.uniform(Key(0, Purpose.EVALUATION), (len(bounds),))
    room = np.maximum(bounds[:, 1] - bounds[:, 0] - PIECE, 0)
    yield from np.clip(data + bounds[:, 0] + (shares * room).astype(np.int64), 0, size).tolist()
