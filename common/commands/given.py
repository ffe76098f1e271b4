"""Refusing options that were given and would have no effect."""

from collections.abc import Collection

import click
from click.core import ParameterSource

from common.errors import RequestError


def was_given(context: click.Context, name: str) -> bool:
    """Whether the user gave a parameter; name: that of the command's function."""
    return context.get_parameter_source(name) != ParameterSource.DEFAULT


def refuse(context: click.Context, names: Collection[str], why: str) -> None:
    """Raise RequestError for the first of the parameters that was given: its options, and why."""
    for parameter in context.command.params:
        if parameter.name in names and was_given(context, parameter.name):
            options = " or ".join([*parameter.opts, *parameter.secondary_opts])
            raise RequestError(f"{options} {why}")
