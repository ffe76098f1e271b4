"""The check of a named choice, such as a rule, a mode or a schedule."""

from typing import Any, get_args

__all__ = ["check_choice"]


def check_choice(what: str, value: str, choices: Any) -> None:
    """Refuse a value that a `Literal` does not list; the error names all valid ones.

    Args:
        what: the name of the choice, for the message.
        value: the name that was given.
        choices: the `Literal` type that lists the valid names.

    Raises:
        ValueError: the value is not among the choices.

    Example:
        >>> from typing import Literal
        >>> check_choice("colour", "blue", Literal["red", "green"])
        Traceback (most recent call last):
        ValueError: colour 'blue' is not one of red, green
    """
    if value not in get_args(choices):
        raise ValueError(f"{what} '{value}' is not one of {', '.join(get_args(choices))}")
