"""Stand-ins for the libraries of trackers: they write down what they are called with."""

import types
from typing import Any


class Library(types.ModuleType):
    """A module that has any function and class; `calls` has (name, arguments, keywords)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.summary: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*words: Any, **keywords: Any) -> Any:
            self.calls.append((name, words, keywords))
            return self if name in ("init", "setup") else (name, words, keywords)

        return call

    @property
    def settings(self) -> Any:
        return types.SimpleNamespace(mode="online")

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """What a function was called with."""
        return [(words, keywords) for called, words, keywords in self.calls if called == name]
