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
    """Images of some prompts; a notebook shows them as one picture with a row for each prompt.

    array: uint8 [P, n, H, W, 3], n images of P prompts. prompts: the P prompts.
    """

    array: np.ndarray
    prompts: tuple[str, ...]

    def __repr__(self) -> str:
        count, height, width = self.array.shape[1:4]
        return f"Images({count} of each of {list(self.prompts)}, {height} x {width} pixels)"

    def picture(self) -> np.ndarray:
        """All images side by side, small ones enlarged: uint8 [H, W, 3]."""
        return pictures.grid(self.array, scale=max(1, SIDE // self.array.shape[2]))

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the picture as a PNG file; returns its path. WriteError when that fails."""
        path = Path(path)
        with files.os_errors_as(f"write {path}"):
            files.write_whole(path, self._repr_png_())
        return path

    def _repr_png_(self) -> bytes:
        """The picture as PNG, which notebooks ask for."""
        return pictures.encode_png(self.picture())
