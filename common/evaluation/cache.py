"""Arrays that siblings share: kept by what they were made from, verified before they are used.

A file is the SHA-256 of its content, then the content. One that is cut, changed or of another
format counts as not there and is made again.
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
        """The array of that description, or what `make` gives, which is then kept.

        made_from: everything that decides the array, as JSON values. Raises files.WriteError when
        the folder cannot be written.
        """
        address = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        path = self.folder / address[:2] / address
        found = _read(path)
        if found is None:
            found = make()
            with files.os_errors_as(f"write to the cache {self.folder}"):
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_whole(path, _packed(found))
        return found


def _packed(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return hashlib.sha256(content.getvalue()).digest() + content.getvalue()


def _read(path: Path) -> np.ndarray | None:
    try:
        packed = reading.content(path, reading.LOG)
    except OSError:  # not there, or not to be read: made again, and writing it tells why not
        return None
    digest, content = packed[:DIGEST_BYTES], packed[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    return np.load(io.BytesIO(content), allow_pickle=False)
