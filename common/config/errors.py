"""Errors in a configuration: pydantic's, in one line with the nearest valid spelling."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from common.errors import RequestError, listed

SHOWN = 200
"""Most characters of a wrong value in an error."""


class ConfigError(RequestError):
    """A configuration that cannot be run; one line that says what, where and what is valid."""


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """One line on the first problem of a table: the key, its value, and what is valid.

    root: the class of the outermost table.
    """
    problem = error.errors(include_url=False)[0]
    location = [str(part) for part in problem["loc"]]
    where, given, kind = ".".join(location), problem.get("input"), problem["type"]
    if kind == "extra_forbidden":
        return f"unknown configuration key '{where}'{_nearest_key(root, location)}"
    if kind == "model_type":
        key = next(iter(_table(root, location).model_fields))
        return f"{where} = {shown(given)}: '{where}' is a table; set a key of it, as {where}.{key}"
    if kind == "literal_error":
        expected = problem.get("ctx", {})["expected"]
        valid = re.findall(r"'([^']*)'", expected) or re.findall(r"\d+", expected)
        return f"{where} = {shown(given)}: not a valid choice{closest(str(given), valid)}"
    if kind == "missing":  # the only required things are the parts of a tuple
        return f"{'.'.join(location[:-1])} = {shown(given)}: too few values"
    message = {"tuple_type": "Input should be a list, as ['a', 'b']"}.get(kind, problem["msg"])
    if kind == "value_error":
        message = message.removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    return f"{where} = {shown(given)}: {message[0].lower()}{message[1:]}"


def shown(value: Any) -> str:
    """A value as it was given, without its middle where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}...{text[-SHOWN // 2 :]}"


def _table(root: type[BaseModel], location: Iterable[str]) -> type[BaseModel]:
    """The class of the table at a location."""
    table: Any = root
    for part in location:
        table = table.model_fields[part].annotation
    return table


def _nearest_key(root: type[BaseModel], location: list[str]) -> str:
    *parents, last = location
    by_name: dict[str, list[str]] = {}
    for key in keys(root):
        by_name.setdefault(key.rpartition(".")[2], []).append(key)
    siblings = {name: ".".join([*parents, name]) for name in _table(root, parents).model_fields}
    near = by_name.get(last) or [siblings[n] for n in difflib.get_close_matches(last, siblings, 1)]
    if not near and (name := difflib.get_close_matches(last, by_name, n=1, cutoff=0.8)):
        near = by_name[name[0]]
    if near:
        return f"; did you mean {' or '.join(repr(key) for key in near)}?"
    return f"; valid: {', '.join(sorted(siblings.values()))}"


def keys(table: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a table and of the tables in it."""
    for name, field in table.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def closest(word: str, valid: Iterable[str]) -> str:
    """A hint "; did you mean 'x'?", or the list of what is valid when nothing is near."""
    valid = sorted(valid)
    near = difflib.get_close_matches(word, valid, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; valid: {listed(valid)}"
