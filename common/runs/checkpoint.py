"""Checkpoints: folders that are written completely or not at all, and verified before use.

The files are safetensors or JSON; nothing is unpickled. The same content gives the same bytes. A
low-rank adapter is stored under PEFT's file and tensor names, so that PEFT loads the folder
unchanged.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from common import reading, temporary
from common.adapters.low_rank import from_peft, peft_config, to_peft
from common.config import AdapterConfig
from common.errors import RequestError
from common.runs import files

FORMAT = 1
"""Version of the folder's layout; a reader refuses any other."""

ADAPTER, MODEL = "adapter_model.safetensors", "model.safetensors"
ADAPTER_CONFIG, EMA, OPTIMIZER = "adapter_config.json", "ema.safetensors", "optimizer.safetensors"
STATE, MANIFEST = "state.json", "manifest.json"

_NAME = re.compile(r"\d{6,}")
_REPLACED = re.compile(r"\.(\d{6,})\.old-\w+")

_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16",
    "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


class CheckpointError(RequestError):
    """A checkpoint that cannot be written or is damaged; one line with the file and the reason."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that a run needs to resume.

    update: number of finished updates. parameters, ema: arrays by parameter name. optimizer: the
    value of `Optimizer.state`. state: the trainer's own JSON values.
    """

    update: int
    parameters: dict[str, np.ndarray]
    ema: dict[str, np.ndarray] | None
    optimizer: dict[str, np.ndarray]
    state: dict[str, Any]

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """What evaluations and samples use: the moving average where there is one."""
        return self.ema or self.parameters


def save(checkpoints: Path, snapshot: Snapshot, *, adapter: AdapterConfig, keep: int) -> Path:
    """Write the snapshot as `checkpoints/NNNNNN` and remove all but the `keep` newest (0 = all).

    Older checkpoints are removed only after the new one is complete; one of the same update is
    replaced. Returns the folder. Raises, in one line, WriteError (an OSError) when the disk is
    full or the folder cannot be written, and CheckpointError when an array's type or the state
    cannot be stored; earlier checkpoints are then untouched.
    """
    final = checkpoints / f"{snapshot.update:06d}"
    unfinished = temporary.beside(final)
    with files.os_errors_as(f"save checkpoint {final}"):
        checkpoints.mkdir(parents=True, exist_ok=True)
        _sweep(checkpoints)
        try:
            unfinished.mkdir()
            with temporary.claimed(unfinished):
                _write(unfinished, snapshot, adapter)
                _publish(unfinished, final)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    older = [path for path in _complete(checkpoints) if int(path.name) < snapshot.update]
    for path in older[: len(older) - (keep - 1)] if keep else []:
        # The new one is complete; the next save tries again to remove an old one that is left.
        with suppress(OSError):
            _remove(path)
    return final


def load(path: Path) -> Snapshot:
    """Verify every file against the manifest, then read the snapshot.

    Raises CheckpointError naming the file that is missing, has another size or other content.
    """
    with files.os_errors_as(f"read checkpoint {path}", CheckpointError):
        names = _verify(path)
        weights = next((name for name in (ADAPTER, MODEL) if name in names), ADAPTER)
        for name in (weights, OPTIMIZER, STATE):
            if name not in names:
                raise CheckpointError(f"checkpoint {path}: {name} is not in the manifest")
        document = _read_json(path / STATE)
        try:
            update, state = int(document["update"]), dict(document["state"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise CheckpointError(f"checkpoint {path}: {STATE} has no update or state") from None
        return Snapshot(
            update=update,
            parameters=from_peft(_read_arrays(path / weights)),
            ema=from_peft(_read_arrays(path / EMA)) if EMA in names else None,
            optimizer=_read_arrays(path / OPTIMIZER),
            state=state,
        )


def latest(checkpoints: Path) -> Path | None:
    """The complete checkpoint of the highest update, or None; changes nothing on disk."""
    complete = {int(path.name): path for path in _complete(checkpoints)}
    # After a kill in the middle of a replacement the old checkpoint, renamed, is still complete.
    for update, holder in _matching(checkpoints, _REPLACED):
        if _is_complete(replaced := holder / f"{update:06d}"):
            complete.setdefault(update, replaced)
    return complete[max(complete)] if complete else None


def updates(checkpoints: Path) -> list[int]:
    """The updates of the complete checkpoints in a folder, rising; [] without a folder."""
    return [int(path.name) for path in _complete(checkpoints)]


def incomplete(checkpoints: Path) -> list[tuple[int, Path]]:
    """(update, folder) of those without a manifest: a save never leaves one, so it was damaged."""
    return [(n, path) for n, path in _matching(checkpoints, _NAME) if not _is_complete(path)]


def set_aside(checkpoints: Path, *, after: int) -> None:
    """Move the checkpoints after an update into a folder beside them; nothing is deleted."""
    newer = [path for update, path in _matching(checkpoints, _NAME) if update > after]
    if not newer:
        return
    number = 1
    while (folder := checkpoints / f"set-aside-{number}").exists():
        number += 1
    with files.os_errors_as(f"set checkpoints aside in {checkpoints}"):
        folder.mkdir()
        for path in newer:
            path.rename(folder / path.name)


# --- writing -------------------------------------------------------------------------------------


def _write(folder: Path, snapshot: Snapshot, adapter: AdapterConfig) -> None:
    """Fill a new folder; the manifest comes last, so a folder that has one is complete."""
    contents: dict[str, Iterator[bytes]] = {}
    metadata, parameters, ema, weights = {"format": "pt"}, snapshot.parameters, snapshot.ema, MODEL
    if adapter.kind == "lora":
        settings = peft_config(adapter)
        short = {key: settings[key] for key in ("r", "lora_alpha", "target_modules")}
        metadata["lora_adapter_metadata"] = json.dumps(short, sort_keys=True)
        weights, parameters, ema = ADAPTER, to_peft(parameters), to_peft(ema) if ema else ema
        contents[ADAPTER_CONFIG] = iter([_json(settings, ADAPTER_CONFIG)])
    contents[weights] = safetensors_bytes(parameters, metadata)
    if ema is not None:
        contents[EMA] = safetensors_bytes(ema, metadata)
    contents[OPTIMIZER] = safetensors_bytes(snapshot.optimizer, {"format": "pt"})
    contents[STATE] = iter([_json({"update": snapshot.update, "state": snapshot.state}, STATE)])
    entries = {}
    for name in sorted(contents):
        size, digest = files.write_new(folder / name, contents[name])
        entries[name] = {"size": size, "sha256": digest}
    manifest = {"format": FORMAT, "files": entries}
    manifest["sha256"] = _digest(manifest)
    files.write_new(folder / MANIFEST, [_json(manifest, MANIFEST)])
    files.sync_folder(folder)


def _publish(unfinished: Path, final: Path) -> None:
    """Rename a complete folder to its final name; an old one there is moved, then removed."""
    holder = temporary.beside(final, "old")
    if final.exists():
        holder.mkdir()
        final.rename(holder / final.name)
    unfinished.rename(final)
    files.sync_folder(final.parent)
    if holder.exists():
        _remove(holder)


def safetensors_bytes(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> Iterator[bytes]:
    """The bytes of a safetensors file; the library itself writes metadata in random order.

    Eight bytes of header length, the JSON header padded to eight bytes, then the data; wider
    types first, as the library does, so that every array is aligned.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    ordered, end = [], 0
    for name in sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name)):
        array = arrays[name]
        if array.dtype.name not in _DTYPES:
            raise CheckpointError(f"cannot save array '{name}' of dtype {array.dtype}")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
        ordered.append(array)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for array in ordered:
        yield array.tobytes()  # in C order


def _json(document: Any, name: str) -> bytes:
    try:
        text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"cannot save {name}: not plain JSON: {error}") from None
    return text.encode() + b"\n"


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


# --- reading -------------------------------------------------------------------------------------


def _verify(path: Path) -> set[str]:
    """Compare every file with the manifest; returns the names it lists."""
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint {path}")
    if not _is_complete(path):
        raise CheckpointError(f"checkpoint {path}: {MANIFEST} is missing, so it is incomplete")
    manifest = _read_json(path / MANIFEST)
    version, entries = manifest.get("format"), manifest.get("files")
    if version != FORMAT:
        raise CheckpointError(f"checkpoint {path}: format {version!r}; this version reads {FORMAT}")
    if manifest.pop("sha256", None) != _digest(manifest) or not isinstance(entries, dict):
        raise CheckpointError(f"checkpoint {path}: {MANIFEST} is damaged (its hash differs)")
    for name, expected in sorted(entries.items()):
        _verify_file(path, name, expected)
    return set(entries)


def _verify_file(path: Path, name: str, expected: Any) -> None:
    """Compare one file with its entry in the manifest."""
    try:
        file = reading.inside(path, name)
    except ValueError as error:
        raise CheckpointError(f"checkpoint {path}: {MANIFEST}: {error}") from None
    entry = expected if isinstance(expected, dict) else {}
    if type(entry.get("size")) is not int or not isinstance(entry.get("sha256"), str):
        raise CheckpointError(f"checkpoint {path}: {MANIFEST} has no size and hash of {name}")
    if not file.is_file():
        raise CheckpointError(f"checkpoint {path}: {name} is missing")
    if (size := file.stat().st_size) != entry["size"]:
        raise CheckpointError(
            f"checkpoint {path}: {name} has {size} bytes, the manifest says {entry['size']}"
        )
    with file.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
            raise CheckpointError(f"checkpoint {path}: {name} is damaged (its hash differs)")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = reading.json_document(reading.content(path))
    except ValueError:
        raise CheckpointError(f"checkpoint {path.parent}: {path.name} is not JSON") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"checkpoint {path.parent}: {path.name} is not a JSON object")
    return document


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"checkpoint {path.parent}: {path.name}: {error}") from None
    return {name: arrays[name] for name in sorted(arrays)}


# --- the folder of checkpoints -------------------------------------------------------------------


def _matching(checkpoints: Path, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
    """(update, folder) of the folders whose name matches, in rising order; [] without a folder."""
    if not checkpoints.is_dir():
        return []
    matches = [(pattern.fullmatch(path.name), path) for path in checkpoints.iterdir()]
    return sorted((int(match[match.re.groups]), path) for match, path in matches if match)


def _is_complete(path: Path) -> bool:
    return os.path.lexists(path / MANIFEST)


def _complete(checkpoints: Path) -> list[Path]:
    """Checkpoints that have their manifest, oldest first."""
    return [path for _, path in _matching(checkpoints, _NAME) if _is_complete(path)]


def _remove(path: Path) -> None:
    """Remove a folder; it is renamed first, so that a kill never leaves half a checkpoint."""
    gone = temporary.beside(path, "gone")
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sweep(checkpoints: Path) -> None:
    """Remove the leftovers of killed saves; restore an old checkpoint that was not replaced."""
    temporary.sweep(checkpoints)
    for update, holder in _matching(checkpoints, _REPLACED):
        final = checkpoints / f"{update:06d}"
        if _is_complete(holder / final.name) and not _is_complete(final):
            shutil.rmtree(final, ignore_errors=True)
            (holder / final.name).rename(final)
        _remove(holder)
