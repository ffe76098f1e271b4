"""A cache of arrays that several runs share, keyed by their description and verified before use.

A file is the SHA-256 of its content, then the content. A file that is damaged or has another
format is ignored and written again.
"""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common import reading
from common.runs import files

DIGEST_BYTES = 32


class Cache:
    """A folder of arrays by content address; any number of processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def array(self, made_from: Mapping[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
        """The stored array of that description; if there is none, `make()`, which is then stored.

        made_from: everything that determines the array, as JSON values. Raises files.WriteError
        when the folder cannot be written.
        """
        address = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        path = self.folder / address[:2] / address
        array = _read(path)
        if array is None:
            array = make()
            with files.os_errors_as(f"write to the cache {self.folder}"):
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_whole(path, _packed(array))
        return array


def _packed(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return hashlib.sha256(content.getvalue()).digest() + content.getvalue()


def _read(path: Path) -> np.ndarray | None:
    try:
        packed = reading.content(path, reading.LOG)
    except OSError:  # missing or unreadable: the caller writes it again, and that reports an error
        return None
    digest, content = packed[:DIGEST_BYTES], packed[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    return np.load(io.BytesIO(content), allow_pickle=False)
