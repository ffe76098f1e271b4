"""Exports a run's adapter for another program, with a model card beside it."""

import json
from dataclasses import dataclass
from pathlib import Path

from common.adapters import exports
from common.adapters.low_rank import peft_config
from common.choices import Program
from common.errors import RequestError, preparing
from common.runs import checkpoint, files
from common.runs.directory import RunDirectory
from common.workflows import model_card
from common.workflows.sample import checkpoint_path

__all__ = ["Exported", "export"]


@dataclass(frozen=True)
class Exported:
    """folder: where the files are. names: theirs, the adapter's first. notes: what to know."""

    folder: Path
    names: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [self.folder / name for name in self.names]


def export(
    directory: Path, program: Program, which: str, out: Path | None, *, card: bool | None = None
) -> Exported:
    """Write the adapter of a checkpoint into a folder.

    Args:
        directory: the run.
        program: that will load it.
        which: the update of the checkpoint, or "latest".
        out: the folder; None: RUN/PROGRAM.
        card: also write README.md and its pictures. None: where the folder is the adapter's own.

    Raises:
        RequestError: the run has no such checkpoint, or nothing that the program can load.
        WriteError: the folder cannot be written.
    """
    with preparing():
        run = RunDirectory.open(directory)
        family = _family(run)
        exports.check(program, family)
        if which == "base":
            raise RequestError("--checkpoint base: the model before tuning has no adapter")
        snapshot = checkpoint.load(checkpoint_path(run, which))
        arrays, header = exports.encode(
            snapshot.weights, run.config.adapter, family=family, program=program
        )
    folder = out or run.path / program
    name = exports.file_name(program, run.path.resolve().name, snapshot.update)
    contents = {name: b"".join(checkpoint.safetensors_bytes(arrays, header))}
    if program == "peft":
        settings = peft_config(run.config.adapter, model_card.base_model(run.config))
        contents["adapter_config.json"] = f"{json.dumps(settings, indent=1)}\n".encode()
    notes: list[str] = []
    if card if card is not None else (out is None or program in exports.FOLDERS):
        made = model_card.make(run, program, snapshot.update, name)
        notes += made.notes
        contents |= made.pictures
        if edited := _edited(folder / model_card.NAME):
            notes.append(edited)
        else:
            contents[model_card.NAME] = model_card.signed(made.text)
    for each, content in contents.items():
        file = folder / each
        with files.os_errors_as(f"write {file}"):
            file.parent.mkdir(parents=True, exist_ok=True)
            files.write_whole(file, content)
    names = list(contents)
    if model_card.NAME not in names and (folder / model_card.NAME).is_file():
        names.append(model_card.NAME)
    return Exported(folder, tuple(names), tuple(notes))


def _edited(card: Path) -> str:
    """A note where there is a card that somebody has written or changed; "" where there is none."""
    if not card.exists() or model_card.is_unchanged(card):
        return ""
    return f"{card} was written or changed by hand and stays; remove it for a new one"


def _family(run: RunDirectory) -> str:
    """The family of the run's model. RequestError where there is nothing to export."""
    family, kind = run.config.model.family, run.config.adapter.kind
    if family not in exports.COMPONENTS:
        raise RequestError(
            f"{run.path} tunes model.family = '{family}', which diffusers does not support; "
            f"valid: {', '.join(exports.COMPONENTS)}"
        )
    if kind != "lora":
        raise RequestError(
            f"{run.path} trained all weights (adapter.kind = '{kind}'): there is no adapter to "
            "export; its checkpoints contain the weights under the names of diffusers"
        )
    return family
