"""A run's typed configuration: read from a recipe, changed key by key, checked and compared.

`--set table.key=value` changes one key. The resolved configuration is written into the run
directory and is what a resumed run must match.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from common import reading
from common.config import errors
from common.config.errors import ConfigError
from common.config.recipes import read as read_recipe
from common.config.tables import Config

NAMED_BY_REWARD = ("reward.terms", "reward.floors", "reward.ceilings")
"""Tables whose keys are names of rewards."""

KEPT_WHOLE = (
    *NAMED_BY_REWARD,
    "reward.options",
    "drift.shaping.features_options",
    "evaluate.features_options",
)
"""Tables whose keys are not the configuration's own."""


def load(recipe: str, overrides: Iterable[str] = ()) -> Config:
    """The configuration of a recipe (a shipped name or a path to a TOML file) with overrides.

    overrides: "table.key=value" strings; the value is read as TOML, or as a bare string.
    Raises ConfigError with one line that names the key and the nearest valid spelling.
    """
    values = read_recipe(recipe).tables
    if isinstance(run := values.setdefault("run", {}), dict):
        run.setdefault("recipe", Path(recipe).stem)
    for text in overrides:
        _override(values, text)
    return parse(values)


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
    """Dotted keys whose values differ, as "key: old -> new"; keys in `ignore` are skipped."""
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


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, raw = text.partition("=")
    parts = split_key(key.strip())
    if not equals or len(parts) < 2 or not all(parts):
        raise ConfigError(f"--set {text}: write table.key=value, for example run.updates=20")
    try:
        value = reading.toml_document(f"value = {raw}")["value"]
    except ValueError:  # no TOML: a bare string
        value = raw.strip()
    table = values
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {text}: '{part}' is a value, not a table")
    table[parts[-1]] = value


def split_key(key: str) -> list[str]:
    """The parts of a dotted key; a reward's name may itself hold dots."""
    for table in NAMED_BY_REWARD:
        if key.startswith(prefix := f"{table}."):
            return [*table.split("."), key.removeprefix(prefix).strip("\"'")]
    if key.startswith(prefix := "reward.options."):
        name, _, last = key.removeprefix(prefix).rpartition(".")
        return ["reward", "options", name.strip("\"'"), last]
    return key.split(".")


def flatten(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables by dotted key; those whose keys are names of rewards stay one value."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping) and prefix + key not in KEPT_WHOLE:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
