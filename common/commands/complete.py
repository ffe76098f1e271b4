"""What a shell offers after Tab: recipes and keys; commands, options and paths come from click."""

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem


def recipes(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """The shipped recipes that begin so; files where a path is typed."""
    if "/" in typed or typed.startswith((".", "~")):
        return [CompletionItem(typed, type="file")]
    from common.config.recipes import recipe_names

    return _beginning(recipe_names(), typed) or [CompletionItem(typed, type="file")]


def keys(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """The keys of a configuration that begin so."""
    from common.config import known_keys

    return _beginning(known_keys(), typed)


def settings(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """The keys as `--set` takes them: with the sign after which the value comes."""
    from common.config import known_keys

    return _beginning([f"{key}=" for key in known_keys()], typed)


def backends(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
    """The names of the backends."""
    from common.backends import names

    return _beginning(["auto", *names()], typed)


def _beginning(names: Iterable[str], typed: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(typed)]
