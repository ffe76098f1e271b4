"""The digest of a base model's files: runs of the same model are compared, of another are not."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from common import pipelines
from common.config import ModelConfig
from common.errors import RequestError
from common.pipelines.folder import OPTIONAL
from common.runs import files
from common.runs.inputs import WEIGHED


def digest(model: ModelConfig) -> str:
    """SHA-256 of all that the files of a model say, and of the name of its family.

    It is exact: every byte counts, so that a model and the same one with an adapter merged into it
    differ. Of a pipeline's folder those files count that define it (configurations, tokenizers
    and weights of the components that it is drawn with). They are read once a process, gigabytes
    in some tens of seconds, which is little beside sampling. A repository of the hub counts by its
    name and its commit, so it differs from a folder with the same files. A class of the user
    counts by its name and what `model.path` and `model.weights` name.

    Raises:
        ValueError: in one line, for a path that is neither there nor a repository that was loaded
            on this machine before.
        RequestError: a file cannot be read.
    """
    whole = hashlib.sha256(model.family.encode())
    for key in ("path", "weights"):
        if name := getattr(model, key):
            for line in _lines(name, f"model.{key}"):
                whole.update(f"\n{key} {line}".encode())
    return whole.hexdigest()


def _lines(name: str, key: str) -> Iterator[str]:
    """A line for each file: its name, size and content."""
    path = Path(name).expanduser()
    with files.os_errors_as(f"read {path}", RequestError):
        if path.is_file():
            yield _line(path, path.name)
        elif path.is_dir():
            for file in files_of_model(path):
                yield _line(file, file.relative_to(path).as_posix())
        else:
            yield f"{name} {commit(name, key)}"


def files_of_model(folder: Path) -> list[Path]:
    """The files that define a model; a pipeline's are its index and those of its components."""
    every = sorted(path for path in folder.rglob("*") if path.suffix in WEIGHED and path.is_file())
    if not (folder / pipelines.INDEX).is_file():
        return every
    own = pipelines.index(str(folder)).keys() - set(OPTIONAL)
    return [
        path
        for path in every
        if path == folder / pipelines.INDEX or path.relative_to(folder).parts[0] in own
    ]


def _line(path: Path, name: str) -> str:
    status = path.stat()
    return f"{name} {status.st_size} {_content(path, status.st_size, status.st_mtime_ns)}"


@lru_cache(maxsize=1024)
def _content(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file; size, changed: a file that has others is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit(repository: str, key: str) -> str:
    """The commit of a repository in the cache of the hub."""
    from huggingface_hub import snapshot_download

    with pipelines.load_errors_in_one_line(repository, key):
        return Path(snapshot_download(repository, local_files_only=True)).name
