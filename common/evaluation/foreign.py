"""Images that other programs or cameras made: listed, checked and read as files of strangers."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import pictures, reading
from common.errors import RequestError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of the files that count as images, in any case."""

MOST_FILES = 1_000_000
"""Files of a folder that are listed."""

CHUNK = 1 << 24
"""Pixels of images that are in memory at once: 64 images of 512 x 512."""


class ImagesError(RequestError):
    """Images that cannot be measured; one line with the file and the reason."""


@dataclass(frozen=True)
class RealImages:
    """A folder of real images. digest: their number and the SHA-256 of what the files contain."""

    folder: Path
    files: tuple[Path, ...]
    digest: str

    @classmethod
    def open(cls, name: str | os.PathLike[str]) -> "RealImages":
        """The PNG, JPEG and WebP files of a folder and the folders in it; each is read once.

        Raises ImagesError for fewer than 2 of them, a link that leads out of the folder, and a file
        that is too large or no image.
        """
        folder = Path(name).expanduser()
        files = tuple(image_files(folder))
        if len(files) < 2:
            few = "has one image" if files else "has no image"
            raise ImagesError(f"{folder} {few} (PNG, JPEG or WebP), and at least 2 are needed")
        contents = sorted(hashlib.sha256(content(file)).hexdigest() for file in files)
        digest = hashlib.sha256("\n".join(contents).encode()).hexdigest()
        return cls(folder, files, f"{len(files)} images {digest}")

    def features(
        self,
        extract: Callable[[np.ndarray], np.ndarray],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Features [M, F] of all images, each in its own size. Raises ImagesError.

        extract: uint8 [N, H, W, 3] -> [N, F]. on_progress: called with how many of all are done.
        """
        parts, done = [], 0
        for images in _batches(self.files):
            parts.append(extract(images))
            done += len(images)
            if on_progress is not None:
                on_progress(done, len(self.files))
        return np.concatenate(parts)


def image_files(folder: Path) -> Iterator[Path]:
    """The image files of a folder and of the folders in it, by name. Raises ImagesError."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "is not there"
        raise ImagesError(f"{folder} {what}: a folder of images is needed")
    root, count = folder.resolve(), 0

    def failed(error: OSError) -> None:
        raise ImagesError(f"{error.filename}: {error.strerror}") from None

    for place, names, files in os.walk(folder, onerror=failed):
        names.sort()
        for name in names:
            if (Path(place) / name).is_symlink():
                raise ImagesError(f"{Path(place) / name} is a link to a folder: name that folder")
        for name in sorted(files):
            count += 1
            if count > MOST_FILES:
                raise ImagesError(f"{folder} has more than {MOST_FILES:,} files, too many")
            file = Path(place) / name
            if file.suffix.lower() in SUFFIXES:
                check_inside(file, root)
                yield file


def check_inside(file: Path, root: Path) -> None:
    """Raise ImagesError for a file that is not in the folder, or is a link out of it.

    root: the folder, resolved.
    """
    try:
        there = file.resolve()
    except (OSError, RuntimeError):  # links in a circle
        raise ImagesError(f"{file} is a link that leads nowhere") from None
    if not there.is_relative_to(root):
        raise ImagesError(f"{file} leads out of {root}: only files in that folder are read")


def content(file: Path) -> bytes:
    """The bytes of an image file. Raises ImagesError."""
    try:
        return reading.content(file)
    except OSError as error:
        raise ImagesError(f"{file}: {error.strerror}") from None


def image(file: Path) -> np.ndarray:
    """An image, uint8 [H, W, 3]; see `pictures.decode_foreign`. Raises ImagesError."""
    try:
        return pictures.decode_foreign(content(file))
    except pictures.PictureError as error:
        raise ImagesError(f"the image {file} {error}") from None


def _batches(files: Sequence[Path]) -> Iterator[np.ndarray]:
    """The images in order, uint8 [N, H, W, 3]: neighbours of one size together."""
    waiting: list[np.ndarray] = []
    for file in files:
        one = image(file)
        if waiting and (one.shape != waiting[0].shape or (len(waiting) + 1) * one.size > 3 * CHUNK):
            yield np.stack(waiting)
            waiting = []
        waiting.append(one)
    if waiting:
        yield np.stack(waiting)
