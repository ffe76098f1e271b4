"""A few of the inputs of `scripts.fuzz`: each gives a result or one line."""

import pytest

from common import report
from scripts.fuzz import trial
from scripts.fuzz.inputs import KINDS, SERVED, make_base

COUNT = 32


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "build", lambda run: run.report)  # it takes longer than the run
        made = tmp_path_factory.mktemp("base")
        make_base(made, measured=False)
        yield made


def test_every_input_gives_a_result_or_one_line(base):
    with trial.serving() as address:
        outcomes = [trial.try_input(*each, 4, base, address) for each in trial.plan(COUNT)]
    assert [outcome for outcome in outcomes if outcome.fault] == []
    assert {outcome.kind for outcome in outcomes} == {*KINDS, SERVED}
    assert any(outcome.line.startswith("drift: ") for outcome in outcomes)


def test_the_same_seed_is_the_same_input(base):
    with trial.serving() as address:
        twice = [trial.try_input("prompts", 3, 4, base, address) for _ in range(2)]
    assert twice[0].words == twice[1].words
    assert twice[0].line == twice[1].line


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ("drift: KeyError: 'x' (--debug shows the traceback)", "no text for this error"),
        ("drift: one\ndrift: two", "printed 2 lines"),
        ("Traceback", "printed 1 lines"),
        ("drift: \x07", "printed a control character"),
        ("drift: a line", ""),
        ("drift: warning: a\ndrift: a line", ""),
    ],
)
def test_what_counts_as_a_fault(output, fault):
    import click
    from click.testing import CliRunner

    @click.command()
    @click.pass_context
    def command(ctx):
        click.echo(output, err=True)
        ctx.exit(2)

    assert trial._judged(CliRunner().invoke(command))[0] == fault
