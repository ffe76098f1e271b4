"""A cache of images that several runs share, keyed by what they were made from.

Images are kept without loss, as PNG files of several images one below the other, so that a new
scorer or new features measure them again without sampling. Each file is written as soon as its
images are made: after a kill the next call goes on behind it. The name of a file has the SHA-256
of its content: a file that is damaged is made again, with a warning.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import pictures, reading
from common.errors import RequestError
from common.runs import files

STRIP = 1 << 24
"""Most pixels of a file: 16 images of 1024 x 1024."""

Make = Callable[[int], Iterator[np.ndarray]]
"""(number of images that are there) -> the following ones, uint8 [n, H, W, 3] at a time."""


@dataclass
class Written:
    """What this process has added to a cache."""

    images: int = 0
    nbytes: int = 0

    def __add__(self, other: "Written") -> "Written":
        return Written(self.images + other.images, self.nbytes + other.nbytes)


class Cache:
    """A folder of images by content address; any number of processes may use it at once.

    written: what was added to it through this object.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = Written()

    def images(
        self, made_from: Mapping[str, Any], count: int, make: Make, *, together: int | None = None
    ) -> np.ndarray:
        """The images of that description: those that are stored, and the rest from `make`.

        What is made is stored file by file, so that a kill loses at most the images of one file.

        Args:
            made_from: everything that determines the images, as JSON values.
            count: N, the number of images.
            make: called once, if any are missing, with the number of those that are stored.
            together: images of one file, as far as its size allows; None: as many as it allows.

        Returns:
            uint8 [N, H, W, 3].

        Raises:
            files.WriteError: the folder cannot be written.
        """
        address = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        entry = _Entry(self.folder, address, count, together or count)
        entry.read()
        if entry.done < count:
            for part in make(entry.done):
                self._add(entry, part)
        return entry.whole()

    def _add(self, entry: "_Entry", part: np.ndarray) -> None:
        before = entry.nbytes
        with files.os_errors_as(f"write to the cache {self.folder}"):
            entry.add(part)
        self.written.images += len(part)
        self.written.nbytes += entry.nbytes - before


class _Entry:
    """The images of one address: what is read, then what is added.

    done: the number of images that are there. nbytes: the size of the files that were written.
    """

    def __init__(self, cache: Path, address: str, count: int, together: int) -> None:
        self._cache, self._folder = cache, cache / address[:2] / address
        self._count, self._together = count, together
        self._images: np.ndarray = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self._stored = self._files = 0
        self.done = self.nbytes = 0

    def read(self) -> None:
        """Take in the files from the first one up to one that is missing or damaged."""
        there: dict[int, list[Path]] = {}
        # Unreadable: the images are made again, and writing them reports the error.
        with suppress(OSError):
            for path in self._folder.glob("*.png"):
                there.setdefault(_number(path), []).append(path)
        while self._files in there and self.done < self._count:
            strips = (_strip(path) for path in there[self._files])
            strip = next((each for each in strips if each is not None), None)
            if strip is None or not self._fits(strip):
                break
            self._take(strip)
            self._files += 1
        self._stored = self.done
        if self._files in there and self.done < self._count:
            warnings.warn(
                f"a file in the cache {self._cache} is damaged; its images are made again",
                stacklevel=2,
            )

    def add(self, part: np.ndarray) -> None:
        """Take in the next images, and write each file that is complete with them."""
        if not self._fits(part):
            raise RequestError(
                f"the images in {self._folder} are not {self._count} of the size that the model "
                "makes; remove that folder"
            )
        self._take(part)
        while self._stored < (end := self._end()) <= self.done:
            self._write(end)

    def whole(self) -> np.ndarray:
        """All images, uint8 [N, H, W, 3]; ValueError when some are missing."""
        if self.done < self._count:
            raise ValueError(f"{self.done} images where {self._count} belong")
        return self._images

    def _fits(self, part: np.ndarray) -> bool:
        same = not self.done or part.shape[1:] == self._images.shape[1:]
        return same and self.done + len(part) <= self._count

    def _take(self, part: np.ndarray) -> None:
        if not self.done:
            self._images = np.empty((self._count, *part.shape[1:]), dtype=np.uint8)
        self._images[self.done : self.done + len(part)] = part
        self.done += len(part)

    def _end(self) -> int:
        """The number of the last image of the next file, plus 1."""
        height, width = self._images.shape[1:3]
        most = max(STRIP // (height * width), 1)
        group = self._together - self._stored % self._together
        return min(self._stored + min(most, group), self._count)

    def _write(self, end: int) -> None:
        part = self._images[self._stored : end]
        content = pictures.encode_png(part.reshape(-1, *part.shape[2:]))
        name = f"{self._files:04d}-{len(part)}-{_digest(content)}.png"
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob(f"{self._files:04d}-*.png"):
            if old.name != name:
                old.unlink(missing_ok=True)
        files.write_whole(self._folder / name, content)
        self._stored, self._files = end, self._files + 1
        self.nbytes += len(content)


def _number(path: Path) -> int:
    """The number of a file, from its name; -1 where it has none."""
    first = path.name.partition("-")[0]
    return int(first) if first.isdecimal() and first.isascii() else -1


def _strip(path: Path) -> np.ndarray | None:
    """The images of a file, uint8 [n, H, W, 3]; None where it is damaged."""
    with suppress(OSError, ValueError):
        _, length, digest = path.stem.split("-")
        content = reading.content(path, 2 * 3 * STRIP)  # noise has a little more than its pixels
        if _digest(content) == digest:
            strip = pictures.decode(content)
            return strip.reshape(int(length), -1, *strip.shape[1:])
    return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
