"""What the libraries have in common that log values at a step, by the names of W&B's first one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class StepLog:
    """A run of such a library; the step is the update."""

    def __init__(self, library: Any, run: Any) -> None:
        """library: the module, with `Image`. run: what its `init` gave, with `log`."""
        self._library, self._run = library, run

    def numbers(self, values: Mapping[str, float], update: int) -> None:
        """Log them."""
        self._run.log(dict(values), step=update)

    def picture(self, name: str, file: Path, update: int) -> None:
        """Log an image."""
        image = self._library.Image(str(file), caption=f"update {update}")
        self._run.log({name: image}, step=update)
