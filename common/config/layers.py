"""One layer of settings over another: a file over what it extends, `--set` over a recipe.

There is one rule for files, for `--set` and for `set=` of Python. A layer changes the keys that it
has, one by one. `reward.terms` is the exception: a layer that names a reward there names all of
them, since they are what a run maximises. The floors, ceilings and options of a term that goes, and
the options of features that are replaced, go with it; features that stay among several keep theirs.
An empty table empties those with free keys.
"""

from collections.abc import Mapping
from typing import Any

TERMS = "reward.terms"
NAMED_BY_TERM = ("reward.floors", "reward.ceilings", "reward.options")
"""Tables that have the names of terms as their keys."""

FEATURES = {
    "drift.shaping.features": "drift.shaping.features_options",
    "evaluate.features": "evaluate.features_options",
}
"""Features, and the table of their options."""

FREE_KEYS = (TERMS, *NAMED_BY_TERM, *FEATURES.values())
"""Tables with keys that the configuration does not declare; each of them is one value."""


def merged(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables: those of the layer over those of the base. Neither of them changes."""
    return _merged(_without_what_goes(base, layer), layer, "")


def value_at(tables: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key of nested tables; None where there is none."""
    value: Any = tables
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _merged(base: Mapping[str, Any], layer: Mapping[str, Any], at: str) -> dict[str, Any]:
    result = dict(base)
    for name, value in layer.items():
        old, where = base.get(name), f"{at}{name}"
        whole = where == TERMS or (where in FREE_KEYS and not value)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and not whole:
            value = _merged(old, value, f"{where}.")
        result[name] = value
    return result


def _without_what_goes(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """The base without settings of terms and features that the layer does not keep."""
    result = dict(base)
    old, new = value_at(base, TERMS), value_at(layer, TERMS)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in NAMED_BY_TERM:
            _keep(result, key, lambda name: name not in old or name in new)
    for features, options in FEATURES.items():
        old, new = _names(value_at(base, features)), _names(value_at(layer, features))
        if not new or old == new:
            continue
        if len(old) == 1 and old[0] in new:
            _move(result, options, old[0])
        _keep(result, options, lambda name, new=new: name in new)
    return result


def _names(value: Any) -> list[Any]:
    """The features that a layer names, one or several; [] where it names none."""
    return list(value) if isinstance(value, list | tuple) else [value] if value else []


def _move(tables: dict[str, Any], key: str, name: str) -> None:
    """Write the settings of the only features under their name, on copies of the tables."""
    if not isinstance(settings := value_at(tables, key), Mapping):
        return
    plain = {k: value for k, value in settings.items() if not isinstance(value, Mapping)}
    named = {k: value for k, value in settings.items() if k not in plain}
    if plain:
        named[name] = {**named.get(name, {}), **plain}
    *parents, last = key.split(".")
    for part in parents:
        tables[part] = dict(tables[part])
        tables = tables[part]
    tables[last] = named


def _keep(tables: dict[str, Any], key: str, wanted: Any) -> None:
    """Leave only the wanted names in the table at a dotted key, on copies of the tables."""
    if not isinstance(value_at(tables, key), Mapping):
        return
    *parents, last = key.split(".")
    for part in parents:
        tables[part] = dict(tables[part])
        tables = tables[part]
    tables[last] = {name: value for name, value in tables[last].items() if wanted(name)}
