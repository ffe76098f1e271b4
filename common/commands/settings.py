"""A command with `--set`: options that are short for a key, and a hint at `--set` for others."""

from collections.abc import Collection, Mapping, Sequence

import click

from common.errors import RequestError

updates_option = click.option(
    "--updates",
    type=click.IntRange(min=1),
    metavar="N",
    help="Policy updates: short for --set run.updates=N.",
)

SHORT_FORMS: Mapping[str, str] = {
    "--backend": "run.backend",
    "--seed": "run.seed",
    "--updates": "run.updates",
}
"""Options that set one key."""


def with_short_forms(overrides: Sequence[str], given: Mapping[str, object]) -> tuple[str, ...]:
    """The changes of `--set`, and those of the short forms that were given.

    given: the value of each short form; None where it was left out. Raises RequestError where
    `--set` changes the same key.
    """
    keys = [text.partition("=")[0].strip() for text in overrides]
    changes = list(overrides)
    for option, value in given.items():
        key = SHORT_FORMS[option]
        if value is None:
            continue
        if key in keys:
            raise RequestError(f"{option} {value} and --set {key} set one key; leave out one")
        changes.append(f"{key}={value}")
    return tuple(changes)


class SettingsCommand(click.Command):
    """A command that changes keys with `--set`."""

    set_otherwise: Collection[str] = ()
    """Keys that the command sets by options of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; UsageError for `--seed 3` says `--set run.seed=3`."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if keys := self._keys(error.option_name):
                value = _value(error.option_name, given)
                ways = " or ".join(f"--set {key}={value}" for key in keys)
                message = f"No such option: {error.option_name}. Set the key by {ways}"
                raise click.UsageError(message, ctx) from None
            raise

    def _keys(self, option: str) -> list[str]:
        """The keys with that name, or with that last part."""
        from common.config import known_keys

        name = option.lstrip("-").replace("-", "_")
        keys = [key for key in known_keys() if f".{key}".endswith(f".{name}")]
        return [key for key in keys if key not in self.set_otherwise]


def _value(option: str, given: list[str]) -> str:
    """What the user wrote after an option, or VALUE."""
    for word, after in zip(given, [*given[1:], "--"], strict=True):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option:
            return "VALUE" if after.startswith("--") else after
    return "VALUE"
