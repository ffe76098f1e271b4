"""Methods that are images made elsewhere: their folder, and the note of what they are.

`drift eval RUN --folder DIR --name NAME` makes the folder NAME beside RUN. It has the note, and
records as a run has them: of RUN's base model, and of the images.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from common import reading
from common.config import Table, errors
from common.config.types import Name
from common.errors import RequestError
from common.runs import files

NOTE = "made-elsewhere.json"
"""The file that marks such a folder."""


class NoteError(RequestError):
    """A folder of a method that cannot be used; one line with the reason."""


class Note(Table):
    """What the images are, and the run that they are measured like.

    folder: where they were. run: the name of the run's folder; "" = images alone. reward, prompts:
    what the run maximises, and the prompts that it trains on, as `measured_runs` compares them.
    """

    format: Literal[1] = 1
    name: Name
    folder: str
    run: str = ""
    reward: dict[str, Any] = Field(default_factory=dict)
    prompts: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ImageMethod:
    """The folder of a method whose images were made elsewhere."""

    path: Path
    note: Note

    @classmethod
    def open(cls, path: Path) -> "ImageMethod":
        """The method in a folder. Raises NoteError."""
        try:
            values = reading.json_document(reading.content(path / NOTE))
            return cls(path, Note.model_validate(values))
        except ValidationError as error:
            reason = errors.explain(error, Note)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        raise NoteError(f"{path / NOTE} cannot be read: {reading.printable(reason)}")

    @classmethod
    def beside(cls, place: Path, note: Note) -> "ImageMethod":
        """The method of that note beside a run or images; `save` makes its folder if it lacks.

        The images may have moved since. Raises NoteError for a folder of something else.
        """
        path = place.absolute().parent / note.name
        if (path / NOTE).exists():
            there = cls.open(path)
            if there.note.model_copy(update={"folder": note.folder}) != note:
                like = f"like the run {there.note.run}" if there.note.run else "without a run"
                raise NoteError(
                    f"{path} has images that were measured {like}: choose another --name"
                )
            return there
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise NoteError(f"{path} is taken by something else: choose another --name")
        return cls(path, note)

    def save(self) -> None:
        """Make the folder with its note, if they are not there. Raises files.WriteError."""
        if (self.path / NOTE).exists():
            return
        text = json.dumps(self.note.model_dump(mode="json"), indent=1) + "\n"
        with files.os_errors_as(f"write {self.path / NOTE}"):
            self.path.mkdir(parents=True, exist_ok=True)
            files.write_whole(self.path / NOTE, text.encode())
