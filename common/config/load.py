"""A run's typed configuration: read from a recipe, changed key by key, checked and compared.

`--set table.key=value` changes one key. The resolved configuration is written into the run
directory; a resumed run must have the same one.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from common import reading
from common.config import errors, layers
from common.config.errors import ConfigError
from common.config.recipes import read as read_recipe
from common.config.tables import Config

NAMED_BY_REWARD = ("reward.terms", "reward.floors", "reward.ceilings")
"""Tables that have names of rewards as their keys, and numbers as their values."""

NAMED_OPTIONS = ("reward.options", "evaluate.features_options")
"""Tables that have names of scorers as their keys, and tables of options as their values."""

Overrides = Iterable[str] | Mapping[str, Any]
"""Changes of keys: strings "table.key=value", or a mapping {"table.key": value}."""


def load(recipe: str, overrides: Overrides = ()) -> Config:
    """The configuration of a recipe (a shipped name or a path to a TOML file) with overrides.

    overrides: of strings the value is read as TOML, or as a bare string; a mapping has the values
    themselves, where a path and a number of NumPy are read as Python's own. All of them are one
    layer over the recipe, see `common.config.layers`.
    Raises ConfigError with one line that names the key and the nearest valid spelling.
    """
    values = read_recipe(recipe).tables
    if isinstance(run := values.setdefault("run", {}), dict):
        run.setdefault("recipe", Path(recipe).stem)
    return parse(_overridden(values, overrides))


def changed(config: Config, overrides: Overrides) -> Config:
    """The configuration with overrides, which are those of `load`; raises ConfigError."""
    return parse(_overridden(to_tables(config), overrides))


def _overridden(values: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            label, wanted = f"set {key!r}", "the key as 'run.updates'"
            _put(layer, values, str(key), _plain(value), label, wanted)
    else:
        for text in overrides:
            key, equals, raw = text.partition("=")
            label, wanted = f"--set {text}", "table.key=value, for example run.updates=20"
            _put(layer, values, key.strip() if equals else "", _value(raw), label, wanted)
    return layers.merged(values, layer)


def parse(values: Mapping[str, Any]) -> Config:
    """Validate nested tables; raises ConfigError for the first thing that is wrong."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(errors.explain(error, Config)) from None


def to_tables(config: Config) -> dict[str, Any]:
    """Nested plain tables, ready for TOML (keys that are None are left out)."""
    return config.model_dump(mode="json", exclude_none=True)


def differences(old: Config, new: Config, ignore: frozenset[str]) -> list[str]:
    """Dotted keys with different values, as "key: old -> new"; keys in `ignore` are skipped."""
    before, after = flatten(to_tables(old)), flatten(to_tables(new))
    keys = sorted((before.keys() | after.keys()) - ignore)
    return [
        f"{key}: {before.get(key, 'unset')} -> {after.get(key, 'unset')}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def known_keys() -> list[str]:
    """Every dotted key of a configuration, `reward.terms` being one of them."""
    return list(errors.keys(Config))


def _put(
    layer: dict[str, Any], base: dict[str, Any], key: str, value: Any, label: str, wanted: str
) -> None:
    """Set a dotted key of a layer over the base.

    label: what the user wrote. wanted: how it is written.
    """
    parts = split_key(key)
    if len(parts) < 2 or not all(parts):
        raise ConfigError(f"{label}: write {wanted}")
    table, below = layer, base
    for part in parts[:-1]:
        table, below = table.setdefault(part, {}), below.get(part, {})
        if not isinstance(table, dict) or not isinstance(below, dict):
            raise ConfigError(f"{label}: '{part}' is a value, not a table")
    table[parts[-1]] = value


def _value(raw: str) -> Any:
    """The value that a string stands for: TOML, or else the text itself."""
    try:
        return reading.toml_document(f"value = {raw}")["value"]
    except ValueError:  # no TOML: a bare string
        return raw.strip()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def split_key(key: str) -> list[str]:
    """The parts of a dotted key; a reward's name may itself hold dots."""
    for table in NAMED_BY_REWARD:
        if key.startswith(prefix := f"{table}."):
            return [*table.split("."), key.removeprefix(prefix).strip("\"'")]
    for table in NAMED_OPTIONS:
        if key.startswith(prefix := f"{table}."):
            name, dot, last = key.removeprefix(prefix).rpartition(".")
            return [*table.split("."), *([name.strip("\"'")] if dot else []), last]
    return key.split(".")


def flatten(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables by dotted key; the tables in `layers.FREE_KEYS` stay one value."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping) and prefix + key not in layers.FREE_KEYS:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
