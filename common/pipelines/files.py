"""The files of a pipeline's components, read in bounded size; errors name the file in one line.

A pipeline is a folder that somebody else made: a configuration may be a pipe that never ends, and
the name of a shard may lead out of the folder.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from common import reading

__all__ = [
    "STEMS",
    "check_files",
    "check_length",
    "check_settings",
    "check_tokenizer",
    "components",
    "document",
    "native_side",
    "weight_files",
]

STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""Library -> the name of the weights of its components."""

VARIANTS = ("", ".fp16")
"""What the names of weights may have before their ending, the first that is there is read."""

WEIGHTS = (".safetensors", ".bin", ".ckpt", ".msgpack", ".onnx", ".pt", ".pth")
"""How the names of weights end, for the list of what there is."""

VAE_SETTINGS = {
    "sample_size": "the pixels of a side",
    "scaling_factor": "the number that latents were multiplied by",
    "shift_factor": "the number that was subtracted from latents, or to null",
}

VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("spiece.model",),
    ("tokenizer.model",),
    ("vocab.txt",),
)
"""Files that have a tokenizer's words: one of these sets is there."""

UNLIMITED = 10**6
"""transformers gives a tokenizer without a length 10^30."""


def components(index: Mapping[str, Any], without: Collection[str] = ()) -> dict[str, str]:
    """The components of a pipeline's index that it has: name -> library; none of `without`."""
    return {
        name: str(entry[0])
        for name, entry in sorted(index.items())
        if isinstance(entry, list) and entry[0] is not None and name not in without
    }


def check_files(folder: Path, names: Collection[str], where: str) -> None:
    """Check the files of components before a library opens them.

    Raises ValueError, which begins with `where`, as `reading.check_folder` does, and for a
    tokenizer without its words: transformers would take every prompt for the same one.
    """
    for component in names:
        if (folder / component).is_dir():
            try:
                reading.check_folder(folder / component, without=reading.WORD_LISTS)
            except ValueError as error:
                raise ValueError(f"{where}: {component}/{error}") from None
            if component.startswith("tokenizer"):
                _check_vocabulary(folder / component, f"{where}: {component}")


def check_settings(folder: Path, family: str, where: str) -> None:
    """Check the settings of a family's networks that these cannot be made or used without.

    Raises ValueError, which begins with `where` and says what to set.
    """
    if family == "sd3":
        value = document(folder, "transformer", "config.json", where).get("sample_size", 1)
        if not _is_count(value):
            what = f"{where}: transformer/config.json says sample_size = {_json(value)}"
            raise ValueError(f"{what}: set it there to the latents of a side")
    settings = document(folder, "vae", "config.json", where)
    size = settings.get("sample_size", 1)
    numbers = (int, float)
    wrong = {
        "sample_size": not all(map(_is_count, size if isinstance(size, list) else [size])),
        "scaling_factor": not isinstance(settings.get("scaling_factor", 1.0), numbers),
        "shift_factor": not isinstance(settings.get("shift_factor") or 0.0, numbers),
    }
    for key, what in VAE_SETTINGS.items():
        if wrong[key]:
            given = f"{where}: vae/config.json says {key} = {_json(settings[key])}"
            raise ValueError(f"{given}: set it there to {what}")


def native_side(value: object, component: str, where: str) -> int:
    """The latents of a side that a component's sample_size says: n, or [n, n].

    Raises ValueError, which begins with `where` and says what to set.
    """
    sides = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) == 2 and sides[0] == sides[1] and _is_count(sides[0]):
        return sides[0]
    raise ValueError(
        f"{where}: {component}/config.json says sample_size = {_json(value)}: set model.resolution "
        "to the pixels of a side"
    )


def check_length(length: object, positions: int, component: str, where: str) -> int:
    """The tokens that a tokenizer's text encoder reads of a prompt, `model_max_length`.

    Args:
        length: that of the tokenizer.
        positions: tokens that its text encoder can read.
        component: the tokenizer.
        where: the first words of an error.

    Raises:
        ValueError: the tokenizer's configuration has none, or more than the encoder can read.
    """
    name = f"{where}: {component}/tokenizer_config.json"
    if not _is_count(length) or length > UNLIMITED:
        raise ValueError(f"{name} has no model_max_length: set it to {positions} there")
    if length > positions:
        raise ValueError(
            f"{name} says model_max_length = {length}, but its text encoder reads {positions} "
            f"tokens: set it to {positions} there"
        )
    return length


def document(folder: Path, component: str, file: str, where: str) -> dict[str, Any]:
    """A JSON file of a component. ValueError, beginning with `where`: missing, or damaged."""
    name = f"{component}/{file}"
    try:
        value = reading.json_document(reading.content(folder / component / file))
    except FileNotFoundError:
        raise ValueError(f"{where}: {name} is missing") from None
    except OSError as error:
        raise ValueError(f"{where}: {name}: {error.strerror}") from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {name} is damaged")
    return value


def weight_files(folder: Path, component: str, library: str, where: str) -> tuple[str, list[Path]]:
    """The safetensors of a component: whole or in shards, else those of float16.

    Returns:
        The variant in their names ("" or "fp16"), and the files.

    Raises:
        ValueError: beginning with `where`; there are none, a shard is missing, or a name is none.
    """
    stem, own = STEMS.get(library, "model"), folder / component
    incomplete = None
    for variant in VARIANTS:
        tables = (".safetensors.index{}.json", "{}.safetensors.index.json")
        names = [stem + name.format(variant) for name in tables]
        table = next((name for name in names if (own / name).is_file()), None)
        if table is not None:
            try:
                return variant[1:], _shards(folder, component, table, where)
            except ValueError as error:  # its configurations may have been copied without it
                incomplete = incomplete or error
        elif (whole := own / f"{stem}{variant}.safetensors").is_file():
            return variant[1:], [whole]
    if incomplete is not None:
        raise incomplete
    existing = sorted(path.name for path in _entries(own) if path.suffix in WEIGHTS)
    also = f"; it has {', '.join(existing[:8])}" if existing else ""
    raise ValueError(f"{where}: {component}/{stem}.safetensors is missing{also}")


def check_tokenizer(tokenizer: Any, component: str, where: str) -> None:
    """ValueError, beginning with `where`, for a tokenizer that cannot pad or compare lengths."""
    name = f"{where}: {component}/tokenizer_config.json"
    if getattr(tokenizer, "pad_token", "") is None:
        raise ValueError(f"{name} has no pad_token: set it there")
    length = getattr(tokenizer, "model_max_length", 1)
    if not isinstance(length, int | float):
        raise ValueError(f"{name} says model_max_length = {_json(length)}: set a number there")


def _shards(folder: Path, component: str, table: str, where: str) -> list[Path]:
    names = document(folder, component, table, where).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{where}: {component}/{table} is damaged")
    files = []
    for name in sorted({str(name) for name in names.values()}):
        if Path(name).name != name:
            raise ValueError(f"{where}: {component}/{table} names {name!r}, no plain file name")
        if not (folder / component / name).is_file():
            raise ValueError(f"{where}: {component}/{name} is missing, which {table} names")
        files.append(folder / component / name)
    return files


def _check_vocabulary(folder: Path, what: str) -> None:
    names = {path.name for path in folder.iterdir()}
    if not any(names.issuperset(files) for files in VOCABULARIES):
        raise ValueError(f"{what}/tokenizer.json is missing; it has {', '.join(sorted(names)[:8])}")


def _entries(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _json(value: object) -> str:
    return json.dumps(value, default=str)
