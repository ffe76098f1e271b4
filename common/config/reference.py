"""Every key of a configuration with its default, its valid values and its meaning, from the tables.

`drift config` prints them, and `docs/configuration.md` is made of them.
"""

import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from common.config import layers, toml
from common.config.errors import ConfigError, closest, keys
from common.config.tables import Config
from common.config.types import ONE_OR_SEVERAL, Setting

_BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}
_SETTING = get_args(Setting)


@dataclass(frozen=True)
class Key:
    """One key. key: with its tables, as "run.seed". default: as TOML writes it, or "unset".

    valid: its type, its range or its choices, in words.
    """

    key: str
    default: str
    valid: str
    meaning: str


def reference(prefix: str = "") -> list[Key]:
    """The keys that a prefix chooses, in the order of the tables.

    prefix: "" for all; a table as "drift" or "drift.noise"; a key; the beginning of keys, as
    "rollout.g"; or a last part as "seed", for every key of that name. Raises ConfigError, with the
    nearest name, for any other.
    """
    every = list(keys(Config))
    table = prefix.removesuffix(".")
    chosen = (
        [key for key in every if not table or f"{key}.".startswith(f"{table}.")]
        or [key for key in every if f".{key}".endswith(f".{table}")]
        or [key for key in every if key.startswith(table)]
        or [key for key in layers.FREE_KEYS if table.startswith(f"{key}.")]
    )
    if not chosen:
        tables = {key[:end] for key in every for end, letter in enumerate(key) if letter == "."}
        names = {*every, *tables, *(key.rpartition(".")[2] for key in every)}
        near = closest(prefix, names)
        tops = dict.fromkeys(key.partition(".")[0] for key in every)
        hint = near if "did you mean" in near else f"; valid: {', '.join(tops)}"
        raise ConfigError(f"no key '{prefix}'{hint}")
    return [_key(name) for name in chosen]


def summary(table: str) -> str:
    """What a table is about, in a sentence: the first line of its class."""
    text = (_model(table).__doc__ or "").partition("\n")[0].partition(": ")[2]
    return text[:1].upper() + text[1:]


def _model(table: str) -> type[BaseModel]:
    model: Any = Config
    for part in table.split("."):
        model = model.model_fields[part].annotation
    return model


def _key(name: str) -> Key:
    table, _, last = name.rpartition(".")
    field = _model(table).model_fields[last]
    default = "unset" if field.default is None else toml.one_line(field.default)
    valid = _valid(field.annotation, _bounds(field.metadata))
    if ONE_OR_SEVERAL in field.metadata:
        valid = f"text, or {valid}"
    return Key(name, default, valid, field.description or "")


def _bounds(metadata: Iterable[Any]) -> list[str]:
    """The limits among pydantic's annotations, in words."""
    words = []
    for limit in metadata:
        for name, text in _BOUNDS.items():
            if (value := getattr(limit, name, None)) is not None:
                words.append(text.format("2^63" if value == 2**63 else f"{value:g}"))
        if (least := getattr(limit, "min_length", None)) is not None:
            words.append(f"at least {least} of them")
    return words


def _valid(kind: Any, bounds: list[str]) -> str:
    """A type and its limits in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [limit for one in parts[1:] for limit in getattr(one, "metadata", [one])]
        return _valid(parts[0], [*_bounds(limits), *bounds])
    if origin is Literal:
        return ", ".join(str(choice) for choice in parts)
    if origin in (Union, types.UnionType):
        if parts == _SETTING:
            return "number, text, true or false"
        if parts[: len(_SETTING)] == _SETTING:
            return f"{_valid(Setting, [])}, or {_valid(parts[-1], [])}"
        several = [_valid(part, bounds) for part in parts if part is not type(None)]
        if type(None) in parts:
            return f"{several[0]}, or unset"
        return " or ".join(several)
    if origin is dict:
        return f"table of names, each with a {_valid(parts[1], [])}"
    if origin is tuple:
        count = "list" if parts[-1] is Ellipsis else f"list of {len(parts)}"
        return ", ".join([f"{count}, each {_valid(parts[0], [])}", *bounds])
    return ", ".join([_WORDS[kind], *bounds])
