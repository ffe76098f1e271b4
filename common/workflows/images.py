"""Images of prompts, as a notebook shows them and as an array."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from common import pictures
from common.runs import files

SIDE = 96
"""Pixels: smaller images are enlarged to about this size."""


@dataclass(frozen=True, eq=False)
class Images:
    """Images of some prompts; a notebook shows them as one picture.

    array: uint8 [P, n, H, W, 3], n images of P prompts. prompts: the P prompts.
    """

    array: np.ndarray
    prompts: tuple[str, ...]

    def __repr__(self) -> str:
        count, height, width = self.array.shape[1:4]
        return f"Images({count} of each of {list(self.prompts)}, {height} x {width} pixels)"

    def picture(self) -> np.ndarray:
        """A row for each prompt under its text, small images enlarged: uint8 [H, W, 3]."""
        scale = max(1, SIDE // self.array.shape[2])
        strips = [pictures.grid(images[None], scale=scale) for images in self.array]
        return pictures.captioned(strips, self.prompts)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the picture as a PNG file, or replace it; returns its path.

        Raises WriteError.
        """
        path = Path(path)
        with files.os_errors_as(f"write {path}"):
            files.write_whole(path, self.png())
        return path

    def png(self) -> bytes:
        """The picture as the content of a PNG file."""
        return pictures.encode_png(self.picture())

    def _repr_png_(self) -> bytes:
        """The same, which notebooks ask for."""
        return self.png()
