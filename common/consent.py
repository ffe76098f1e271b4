"""Consent of the user to a file of others that imports code or writes outside of its folder.

A recipe, or the configuration in the folder of a run, may have been downloaded. What it demands
beyond computing needs the consent of the user: it is named on the command line, or `--trust` is
given, or it was trusted before for the same place. Outside of `required_for` everything is allowed:
a program that calls the toolkit names code itself.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import reading, temporary
from common.errors import RequestError

__all__ = ["Consent", "remember", "require", "required_for"]


@dataclass
class Consent:
    """The demands that are allowed: all, or those that the user named.

    place: the file or folder that demands. used: what it demanded and was allowed.
    """

    place: Path | None
    named: frozenset[str]
    everything: bool
    used: set[str] = field(default_factory=set)


_current: list[Consent] = []

_TABLE = re.compile(r"^reward\.(terms|floors|ceilings)\.")
_SEPARATOR = re.compile(r"""[\s"'=,{}\[\]]+""")


@contextmanager
def required_for(
    place: Path | None, overrides: Iterable[str] | Mapping[str, Any], *, trust: bool
) -> Iterator[Consent]:
    """What a file demands within the context needs consent.

    Args:
        place: the recipe file or the run folder; None where none but shipped ones are read.
        overrides: the user's changes, on the command line or as a mapping; what they name is
            allowed.
        trust: allow everything, and remember what was used for this place.
    """
    if isinstance(overrides, Mapping):
        overrides = [f"{key}={value}" for key, value in overrides.items()]
    consent = Consent(place, _names(overrides), trust)
    _current.append(consent)
    try:
        yield consent
    finally:
        _current.remove(consent)
        if trust and place is not None:
            remember(place, consent.used)


def require(demand: str, action: str) -> None:
    """Raise RequestError, which says what to add, where the user has not consented.

    demand: what the file says, such as "module:name". action: what would be done.
    """
    if not _current:
        return
    consent = _current[-1]
    allowed = consent.everything or demand in consent.named
    if not allowed and consent.place is not None:
        allowed = demand in _remembered().get(_key(consent.place), ())
    if not allowed:
        raise RequestError(
            f"{consent.place or 'this configuration'} would {action}; if you trust it, add --trust "
            "(trust=True), which is remembered for that place"
        )
    consent.used.add(demand)


def _names(overrides: Iterable[str]) -> frozenset[str]:
    """Every whole name in "table.key=value" texts: the key without its table, and the value's."""
    names: set[str] = set()
    for text in overrides:
        key, _, value = text.partition("=")
        names.add(_TABLE.sub("", key.strip()).strip("\"'"))
        names |= {value.strip().strip("\"'"), *_SEPARATOR.split(value)}
    return frozenset(names)


def remember(place: Path, demands: Iterable[str]) -> None:
    """Store that these demands of a place are trusted; not storable means asking again."""
    known = _remembered()
    trusted = sorted({*known.get(_key(place), ()), *demands})
    if trusted == list(known.get(_key(place), ())):
        return
    file = _file()
    text = json.dumps(known | {_key(place): trusted}, indent=1) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.new_file(file) as (unfinished, stream):
            stream.write(text.encode())
            stream.flush()
            unfinished.replace(file)
    except OSError:
        return


def _remembered() -> dict[str, list[str]]:
    """The demands trusted before, by place; {} where the file is missing or damaged."""
    try:
        stored = reading.json_document(reading.content(_file()))
    except (OSError, ValueError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {place: demands for place, demands in stored.items() if isinstance(demands, list)}


def _file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "drift" / "trusted.json"


def _key(place: Path) -> str:
    return str(place.resolve())
