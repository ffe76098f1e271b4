"""The option `--trust` of the commands that read somebody's recipe or run."""

import click

trust_option = click.option(
    "--trust",
    is_flag=True,
    help="Let the recipe or run import the code and write the files that it names.",
)
