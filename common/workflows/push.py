"""Uploads an exported adapter to the Hugging Face hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from common import hub, reading
from common.choices import Program
from common.errors import DriftError, RequestError
from common.workflows.export import Exported, export

__all__ = ["HubError", "Upload", "plan", "upload"]


class HubError(DriftError, RuntimeError):
    """The hub cannot be reached, or does not take the files; one line with the reason."""


@dataclass(frozen=True)
class Upload:
    """What goes into a repository: the files of an export and no others, and its message."""

    repository: str
    exported: Exported
    message: str

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by its name in the repository."""
        return {name: (self.exported.folder / name).stat().st_size for name in self.exported.names}


def plan(directory: Path, repository: str, program: Program, which: str) -> Upload:
    """Export the adapter into RUN/PROGRAM; nothing is sent. Raises what `export` raises."""
    name = r"[A-Za-z0-9][\w.-]{0,95}"
    if not re.fullmatch(rf"(?:{name}/)?{name}", repository, re.ASCII):
        raise RequestError(f"'{repository}' is no repository of the hub: write OWNER/NAME")
    exported = export(directory, program, which, None, card=True)
    run = directory.resolve().name
    return Upload(repository, exported, f"Adapter of {run} for {program}")


def upload(planned: Upload, *, private: bool) -> str:
    """Send the files in one commit; returns its address. The repository is made if it is missing.

    Raises RequestError without a login, and HubError for what the hub says.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if not get_token():
        raise RequestError("no login on the hub: `hf auth login` makes one")
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(planned.exported.folder / name))
        for name in planned.exported.names
    ]
    try:
        with hub.asked(planned.repository):
            api = HfApi()
            made = api.create_repo(planned.repository, private=private, exist_ok=True)
            commit = api.create_commit(made.repo_id, operations, commit_message=planned.message)
    except Exception as error:  # the client has many errors, and those of its HTTP library
        if hub.out_of_reach(error):
            raise HubError("the hub cannot be reached; nothing was uploaded") from error
        raise HubError(f"the hub: {reading.printable(str(error), 300)}") from error
    return commit.commit_url
