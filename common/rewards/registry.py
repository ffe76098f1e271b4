"""Reward names: what can be maximised here, and how a name becomes a callable.

A reward is registered with a factory, so that listing rewards loads no model. A name may also be
`module:function`, any importable callable. Other distributions add rewards through entry points
of the group "drift.rewards" that point at a factory decorated with `register`.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import numpy as np

from common.backend import Backend
from common.config import closest

ENTRY_POINTS = "drift.rewards"

RewardFunction = Callable[[np.ndarray, Sequence[str], Sequence[Mapping[str, Any]]], Any]
"""(images uint8 [N, H, W, 3], N prompts, N metadata) -> array-like of N finite numbers."""

Factory = Callable[[Backend], RewardFunction]


class RewardNameError(ValueError):
    """A reward that cannot be made from its name; one line that says what is wrong with it."""


class Reward(Protocol):
    """A callable score of images; higher is better."""

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        ...

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> Any:
        """Score uint8 [N, H, W, 3] images of N clean prompts: array-like float [N]."""
        ...


@dataclass(frozen=True)
class RewardInfo:
    """One line of `drift rewards`. range: in words, with the unit. needs: why it does not work."""

    name: str
    description: str
    range: str
    works: bool
    needs: str = ""


@dataclass(frozen=True)
class NamedReward:
    """A reward function together with the name it was made from."""

    name: str
    function: RewardFunction

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> Any:
        """Call the function."""
        return self.function(images, prompts, metadata)


@dataclass(frozen=True)
class _Entry:
    factory: Factory
    needs: tuple[str, ...]
    range: str
    description: str

    def missing(self) -> str:
        absent = [module for module in self.needs if importlib.util.find_spec(module) is None]
        return f"needs the Python package {' and '.join(absent)}" if absent else ""


_REGISTRY: dict[str, _Entry] = {}


def register(
    name: str, *, needs: Iterable[str] = (), range: str, description: str
) -> Callable[[Factory], Factory]:
    """Decorate `factory(backend) -> callable` to make it the reward of that name.

    Args:
        name: what the configuration calls it; without ":".
        needs: top-level modules that must be importable.
        range: the values it takes, in words and with their unit.
        description: one line for people who choose.

    Raises:
        RewardNameError: when the name is taken by another factory, or holds a ":".
    """

    def decorate(factory: Factory) -> Factory:
        if ":" in name:
            raise RewardNameError(f"reward '{name}': a ':' is kept for module:function")
        if name in _REGISTRY:
            raise RewardNameError(f"reward '{name}' is registered twice")
        _REGISTRY[name] = _Entry(factory, tuple(needs), range, description)
        return factory

    return decorate


def available() -> list[RewardInfo]:
    """Every named reward, sorted by name, with the reason where one does not work here."""
    broken: list[RewardInfo] = []
    for name, point in _plugins().items():
        try:
            _load_plugin(name, point)
        except RewardNameError as error:
            broken.append(RewardInfo(name, point.value, "unknown", works=False, needs=str(error)))
    infos = [
        RewardInfo(name, entry.description, entry.range, not entry.missing(), entry.missing())
        for name, entry in _REGISTRY.items()
    ]
    return sorted(infos + broken, key=lambda info: info.name)


def create(name: str, backend: Backend) -> Reward:
    """The reward of that name, or the callable at `module:function`, ready to score.

    A module is looked for on the import path and then in the current folder.

    Raises:
        RewardNameError: unknown name (with the nearest valid one), a package that is missing,
            a module that does not import, or a function that is not there or not callable.
    """
    if ":" in name:
        return NamedReward(name, _import(name))
    plugins = _plugins()
    if name not in _REGISTRY and name in plugins:
        _load_plugin(name, plugins[name])
    if name not in _REGISTRY:
        raise RewardNameError(
            f"no reward '{name}'{closest(name, {*_REGISTRY, *plugins})} (or write module:function)"
        )
    entry = _REGISTRY[name]
    if missing := entry.missing():
        raise RewardNameError(f"reward '{name}' {missing}")
    return NamedReward(name, entry.factory(backend))


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _load_plugin(name: str, point: EntryPoint) -> None:
    if name in _REGISTRY:
        return
    try:
        point.load()
    except Exception as error:
        raise RewardNameError(f"reward '{name}' ({point.value}): {_text(error)}") from error
    if name not in _REGISTRY:
        raise RewardNameError(f"reward '{name}' ({point.value}) did not register that name")


def _import(name: str) -> RewardFunction:
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise RewardNameError(f"reward '{name}': write module:function")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # a console script, unlike `python -m`, does not look here
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise RewardNameError(
            f"reward '{name}': cannot import '{module_name}': {_text(error)}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            callables = [key for key, value in vars(found).items() if callable(value)]
            hint = closest(part, callables) if callables else ""
            raise RewardNameError(f"reward '{name}': '{module_name}' has no '{part}'{hint}")
        found = getattr(found, part)
    if not callable(found):
        kind = type(found).__name__
        raise RewardNameError(f"reward '{name}': '{path}' is a {kind}, not a function")
    return found


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
