"""What processes leave behind: files, records, and other processes."""

import hashlib
import json
from pathlib import Path


def digests(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 of each file of the patterns, by its name in the folder; no hidden ones."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for pattern in patterns
        for file in folder.glob(pattern)
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    }


def logged(folder: Path) -> dict[str, list[int]]:
    """The updates of every record of every log, by the log's name."""
    return {
        str(file.relative_to(folder)): [
            json.loads(line)["update"] for line in file.read_text().splitlines()
        ]
        for file in sorted(folder.glob("**/*.jsonl"))
        if file.stem in ("metrics", "evaluations")
    }


def descendants(process: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rsplit(")")[1].split()[1]
                )
            except OSError:  # it has ended
                continue
    family = [process]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    return family[1:]
