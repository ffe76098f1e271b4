"""A cache of images that several runs share, keyed by what they were made from.

Images are kept without loss, as PNG files of several images one below the other, so that a new
scorer or new features measure them again without sampling. The name of a file has the SHA-256 of
its content: a file that is damaged is ignored, and all of its images are made again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from common import pictures, reading
from common.runs import files

STRIP = 1 << 24
"""Most pixels of a file: 16 images of 1024 x 1024."""


class Cache:
    """A folder of images by content address; any number of processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def images(
        self, made_from: Mapping[str, Any], count: int, make: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """The stored images of that description; if there are none, `make()`, which is then stored.

        Args:
            made_from: everything that determines the images, as JSON values.
            count: N, the number of images.
            make: makes them, uint8 [N, H, W, 3].

        Returns:
            uint8 [N, H, W, 3].

        Raises:
            files.WriteError: the folder cannot be written.
        """
        address = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        folder = self.folder / address[:2] / address
        images = _read(folder, count)
        if images is None:
            images = make()
            with files.os_errors_as(f"write to the cache {self.folder}"):
                folder.mkdir(parents=True, exist_ok=True)
                for old in folder.glob("*.png"):
                    old.unlink(missing_ok=True)
                for name, content in _strips(images):
                    files.write_whole(folder / name, content)
        return images


def _strips(images: np.ndarray) -> list[tuple[str, bytes]]:
    """Name and content of each file: number, how many images, and the digest of the content."""
    _, height, width, _ = images.shape
    size = max(STRIP // (height * width), 1)
    strips = []
    for number, start in enumerate(range(0, len(images), size)):
        part = images[start : start + size]
        content = pictures.encode_png(part.reshape(-1, width, 3))
        strips.append((f"{number:04d}-{len(part)}-{_digest(content)}.png", content))
    return strips


def _read(folder: Path, count: int) -> np.ndarray | None:
    """The images of a folder; None where they are not all there, or a file is damaged."""
    parts: list[np.ndarray] = []
    # Missing or unreadable: the caller writes it again, and that reports an error.
    with suppress(OSError, ValueError):
        for number, path in enumerate(sorted(folder.glob("*.png"))):
            index, length, digest = path.stem.split("-")
            content = reading.content(path)
            if int(index) != number or _digest(content) != digest:
                return None
            strip = pictures.decode(content)
            parts.append(strip.reshape(int(length), -1, *strip.shape[1:]))
        images = np.concatenate(parts)
        return images if len(images) == count else None
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
