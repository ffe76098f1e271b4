"""The table of what goes to programs that show runs."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from common.config.types import ONE_OR_SEVERAL, Name, Table, distinct, key

Tracker = Literal["tensorboard", "wandb", "trackio", "swanlab"]
"""A program that shows the course of runs."""


class TrackConfig(Table):
    """`[track]`: other programs that show the run while it goes on."""

    to: Annotated[
        tuple[Tracker, ...], Field(strict=False), ONE_OR_SEVERAL, AfterValidator(distinct)
    ] = key((), "programs that metrics, pictures and the report go to, one or several")  # fmt: skip
    project: Name = key("drift", "name of the project there, without a folder or an owner")
    name: Name = key("", "name of the run there; empty: that of its folder")
    offline: bool = key(False, "write on this machine alone; `wandb sync` and others send it later")
    pictures: bool = key(True, "whether the pictures of evaluations go there too")
