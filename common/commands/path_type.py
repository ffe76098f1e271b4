"""The type of options and arguments that are paths."""

from pathlib import Path
from typing import Any

import click

from common.errors import RequestError


class FilePath(click.Path):
    """A `pathlib.Path`. Refuses an empty text, which would be the current folder.

    A variable of the shell that is not set, `--out "$OUT"`, gives one.
    """

    def __init__(self, **checks: Any) -> None:
        super().__init__(path_type=Path, **checks)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path. Raises RequestError for an empty one, click's errors for the others."""
        if value == "":
            name = param.get_error_hint(ctx) if param is not None and ctx is not None else "a path"
            raise RequestError(f"{name} is empty: write a path, or . for the current folder")
        return super().convert(value, param, ctx)
