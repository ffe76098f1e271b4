"""The files that a run is made from, besides its configuration, and their digests."""

import hashlib
from pathlib import Path

from common.config import Config

WEIGHED = {".json", ".txt", ".model", ".safetensors"}
"""Suffixes of the files that define a model: configurations, tokenizers and weights."""

HEAD = 1 << 20
"""Bytes at the start of a file that identify it, with its name and size; weights are gigabytes."""


def files_of(config: Config) -> dict[str, Path]:
    """The files that a configuration names, by key, without those that ship with the toolkit."""
    named = {
        "prompts.source": config.prompts.file,
        "model.path": config.model.path,
        "model.weights": config.model.weights,
    }
    return {key: Path(name) for key, name in named.items() if name}


def digests(config: Config) -> dict[str, str]:
    """SHA-256 of the input files that exist, by key. Raises OSError.

    A missing file gets no digest: the code that needs the file reports it.
    """
    by_key = {}
    for key, path in files_of(config).items():
        if path.is_file():
            with path.open("rb") as file:
                by_key[key] = hashlib.file_digest(file, "sha256").hexdigest()
        elif path.is_dir():
            by_key[key] = _folder_digest(path)
    return by_key


def _folder_digest(folder: Path) -> str:
    """SHA-256 of the names, sizes and beginnings of the files of a model."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in WEIGHED and path.is_file():
            name = path.relative_to(folder).as_posix()
            with path.open("rb") as file:
                head = hashlib.sha256(file.read(HEAD)).hexdigest()
            digest.update(f"{name} {path.stat().st_size} {head}\n".encode())
    return digest.hexdigest()
