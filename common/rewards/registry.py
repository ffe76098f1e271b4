"""The registry of rewards: their names, and how a name becomes a callable.

A reward is registered with a factory, so that listing rewards loads no model. A name may also be
`module:function`, any importable callable or decorated factory. Other distributions add rewards
through entry points of the group "drift.rewards" that point at a factory decorated with `register`,
or at its module. Features for diversity are registered in the same way, in a registry of their own.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import numpy as np

from common import imports
from common.backends import Backend
from common.config import Config, closest
from common.errors import RequestError
from common.rewards.spec import RAW, Affine, Factory, Options, RewardInfo, Spec, info

DECLARED = "drift_spec"
"""Attribute of a registered factory: its declaration."""

RewardFunction = Callable[[np.ndarray, Sequence[str], Sequence[Mapping[str, Any]]], Any]
"""(images uint8 [N, H, W, 3], N prompts, N metadata) -> array-like of N finite numbers."""


class RewardNameError(RequestError):
    """A reward that cannot be made from its name; one line with the reason."""


class Reward(Protocol):
    """A callable score of images; higher is better."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        ...

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> Any:
        """Score uint8 [N, H, W, 3] images of N clean prompts: array-like float [N]."""
        ...


def _unscaled(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


@dataclass(frozen=True)
class NamedReward:
    """A reward function with the name it was made from, its declaration and its scaling."""

    name: str
    function: RewardFunction
    spec: Spec | None = None
    scale: Callable[[np.ndarray], np.ndarray] = _unscaled
    batch_size: int | None = None
    identity: str = ""
    """What determines its scores besides the version: name and options, for the cache."""

    @property
    def groupwise(self) -> bool:
        """Whether a call is one group; an attribute of the function overrides the declaration."""
        return bool(self._declared("groupwise", False))

    @property
    def exact(self) -> bool:
        """Whether an image's score depends on nothing else in the call, to the last bit."""
        return bool(self._declared("exact", False))

    @property
    def version(self) -> str:
        """Of code and weights; "" where it is not known."""
        return str(self._declared("version", ""))

    def _declared(self, name: str, default: Any) -> Any:
        return getattr(self.function, name, getattr(self.spec, name, default))

    def __call__(
        self,
        images: np.ndarray,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
    ) -> Any:
        """Call the function."""
        return self.function(images, prompts, metadata)


class Registry:
    """Factories by name, and those that entry points of a group add."""

    def __init__(self, kind: str, group: str) -> None:
        """kind: what an error message calls one. group: of entry points."""
        self.kind, self.group = kind, group
        self.entries: dict[str, tuple[Spec, Factory]] = {}
        self._functions: set[str] = set()

    def register(
        self, name: str, *, needs: Iterable[str] = (), range: str, description: str, **about: Any
    ) -> Callable[[Factory], Factory]:
        """Decorate a factory to register it under a name; see the function `register`."""

        def decorate(factory: Factory) -> Factory:
            if ":" in name:
                raise RewardNameError(f"{self.kind} '{name}': ':' is only for module:function")
            if name in self.entries:
                raise RewardNameError(f"{self.kind} '{name}' is registered twice")
            spec = Spec(name, description, range, needs=tuple(needs), **about)
            self.entries[name] = spec, factory
            setattr(factory, DECLARED, spec)
            return factory

        return decorate

    def register_function(self, name: str, function: RewardFunction, **about: Any) -> None:
        """Make a function the scorer of that name, or replace one registered by this method."""
        if name in self._functions:
            del self.entries[name]
        elif name in self._plugins():
            raise RewardNameError(f"{self.kind} '{name}' is registered twice")
        self.register(name, **about)(lambda backend: function)
        self._functions.add(name)

    def available(self) -> list[RewardInfo]:
        """Every name, sorted, with the reason where one does not work here."""
        broken: list[RewardInfo] = []
        for name, point in self._plugins().items():
            try:
                self._load_plugin(name, point)
            except RewardNameError as error:
                broken.append(RewardInfo(name, point.value, "unknown", False, str(error)))
        infos = [info(spec) for spec, _ in self.entries.values()]
        return sorted(infos + broken, key=lambda each: each.name)

    def create(
        self, name: str, backend: Backend, options: Mapping[str, Any] | None = None
    ) -> NamedReward:
        """The scorer of a term: a registered name, `module:function`, or an alias of either.

        Where the function is a factory that `register` decorates, it is called as one.

        Raises RewardNameError, see the function `create`.
        """
        values = dict(options or {})
        target = str(values.get("reward") or name)
        factory: Factory
        if ":" not in target:
            spec, factory = self._entry(target)
        else:
            factory = _import(self.kind, target)
            spec = getattr(factory, DECLARED, None)
        if spec is None:
            undeclared = Spec(target, "", "")
            chosen = self._options(undeclared, name, values)
            return self._named(name, factory, undeclared, chosen, declared=False)
        chosen = self._checked(spec, name, values)
        try:
            made = factory(backend) if spec.options is Options else factory(backend, chosen)
        except RewardNameError as error:
            raise RewardNameError(f"{self.kind} '{name}': {error}") from error.__cause__
        return self._named(name, made, spec, chosen, declared=True)

    def check(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        *,
        beside: Collection[str] = (),
    ) -> None:
        """Raise a RewardNameError of `create` that shows without loading anything.

        beside: the other terms of the reward; RewardNameError where the scorer must have none.
        """
        values = dict(options or {})
        target = str(values.get("reward") or name)
        if ":" not in target:
            spec = self._entry(target)[0]
            self._checked(spec, name, values)
            if spec.control and beside:
                others = ", ".join(f"'{other}'" for other in sorted(beside))
                raise RewardNameError(
                    f"reward.terms: {self.kind} '{name}' must be the only term, not beside {others}"
                )
            return
        try:
            imports.check(f"{self.kind} '{target}'", target, what="function")
        except RequestError:
            raise
        except ValueError as error:
            raise RewardNameError(str(error)) from None

    def is_control(self, name: str) -> bool:
        """Whether a registered or installed scorer is a control, see `Spec`; no other name is."""
        if ":" in name:
            return False
        try:
            return self._entry(name)[0].control
        except RewardNameError:
            return False

    def _checked(self, spec: Spec, name: str, values: Mapping[str, Any]) -> Options:
        """The options of a scorer that has its packages here."""
        if missing := spec.missing():
            raise RewardNameError(f"{self.kind} '{name}' {missing}")
        return self._options(spec, name, values)

    def _entry(self, name: str) -> tuple[Spec, Factory]:
        plugins = self._plugins()
        if name not in self.entries and name in plugins:
            self._load_plugin(name, plugins[name])
        if name not in self.entries:
            valid = {*self.entries, *plugins}
            raise RewardNameError(
                f"no {self.kind} '{name}'{closest(name, valid)} (or write module:function)"
            )
        return self.entries[name]

    def _options(self, spec: Spec, term: str, values: Mapping[str, Any]) -> Options:
        try:
            return spec.parse(term, values)
        except ValueError as error:
            raise RewardNameError(str(error)) from None

    def _named(
        self, name: str, function: Any, spec: Spec, options: Options, *, declared: bool
    ) -> NamedReward:
        scalings: dict[str, Affine] = {RAW: Affine(), **spec.scalings}
        scalings |= getattr(function, "scalings", {})  # scalings that depend on the weights
        if options.scaling not in scalings:
            raise RewardNameError(
                f"reward.options.{name}.scaling = '{options.scaling}'"
                f"{closest(options.scaling, scalings)}"
            )
        values = options.model_dump(mode="json", exclude={"reward", "scaling", "batch_size"})
        size = options.batch_size or spec.batch_size
        scale, identity = scalings[options.scaling], f"{spec.name} {sorted(values.items())}"
        return NamedReward(name, function, spec if declared else None, scale, size, identity)

    def _plugins(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    def _load_plugin(self, name: str, point: EntryPoint) -> None:
        if name in self.entries:
            return
        try:
            factory = point.load()
        except Exception as error:
            raise RewardNameError(
                f"{self.kind} '{name}' ({point.value}): {imports.error_text(error)}"
                f"{imports.place(error, (__file__,))}"
            ) from error
        spec = getattr(factory, DECLARED, None)
        if name not in self.entries and spec is not None and spec.name == name:
            self.entries[name] = spec, factory  # its module was imported for another registry
        if name not in self.entries:
            raise RewardNameError(
                f"{self.kind} '{name}' ({point.value}) did not register that name"
            )


REWARDS = Registry("reward", "drift.rewards")
FEATURES = Registry("features", "drift.features")


def register(
    name: str, *, needs: Iterable[str] = (), range: str, description: str, **about: Any
) -> Callable[[Factory], Factory]:
    """Decorate `factory(backend) -> callable` to make it the reward of that name.

    Args:
        name: its name in the configuration; without ":".
        needs: top-level modules that must be importable.
        range: the raw values it takes, in words and with their unit.
        description: one line for the list of rewards.
        about: the other fields of `Spec`. With `options`, a class derived from `Options`, the
            factory is called `factory(backend, options)`.

    Raises:
        RewardNameError: when another factory has the name, or it contains a ":".
    """
    return REWARDS.register(name, needs=needs, range=range, description=description, **about)


def register_reward(
    name: str, function: RewardFunction, *, description: str = "", range: str = "", **about: Any
) -> None:
    """Make a function the reward of that name, in this process only.

    A run stores the name and not the function: to resume or measure the run, register the
    same function first. A second call with a name that this function registered replaces the
    function, so that a notebook's cell can run again.

    Args:
        name: what `reward.terms` calls it; without ":".
        function: (images uint8 [N, H, W, 3], N prompts, N metadata) -> N finite numbers.
        description: one line for people who choose.
        range: the raw values it takes, in words and with their unit.
        about: the other fields of `Spec`.

    Raises:
        RewardNameError: a name that is taken by a shipped or installed reward, is empty or has
            a ":"; or a function that cannot be called.
    """
    if not name or not callable(function):
        what = f"a function, not {type(function).__name__}" if name else "a name"
        raise RewardNameError(f"reward '{name}' needs {what}")
    REWARDS.register_function(
        name,
        function,
        range=range,
        description=description or "registered by this process",
        **about,
    )


def available() -> list[RewardInfo]:
    """Every named reward, sorted by name, with the reason where one does not work here."""
    return REWARDS.available()


def check_names(config: Config) -> None:
    """Raise RewardNameError for a scorer or features that the configuration names wrongly.

    Nothing is loaded: what only loading shows is an error then.
    """
    reward, shaping, evaluation = config.reward, config.drift.shaping, config.evaluate
    for name in reward.terms:
        REWARDS.check(name, reward.options.get(name), beside=reward.terms.keys() - {name})
    for name in config.audit.scorers if config.audit.every else ():
        REWARDS.check(name)
    for name in evaluation.scorers:
        REWARDS.check(name)
    FEATURES.check(shaping.features, shaping.features_options)
    for name in evaluation.features:
        FEATURES.check(name, evaluation.options_of(name))


def create(name: str, backend: Backend, options: Mapping[str, Any] | None = None) -> NamedReward:
    """The reward of that name, or the callable at `module:function`, ready to score.

    options: the table `[reward.options.NAME]`. A module is looked for on the import path and then
    in the current folder.

    Raises:
        RewardNameError: unknown name (with the nearest valid one), an option that is not valid, a
            package or weights that are missing, a module that does not import, or a function
            that is not there or not callable.
    """
    return REWARDS.create(name, backend, options)


def _import(kind: str, name: str) -> RewardFunction:
    where = f"{kind} '{name}'"
    try:
        function = imports.resolve(where, name, what="function", likely=callable)
    except ValueError as error:
        raise RewardNameError(str(error)) from error.__cause__
    if not callable(function):
        path, what = name.partition(":")[2], type(function).__name__
        raise RewardNameError(f"{where}: '{path}' is a {what}, not a function")
    return function
