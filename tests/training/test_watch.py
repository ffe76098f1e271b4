"""A run watches held-out scorers: it warns, stops or weakens, and a resumed run repeats that."""

import numpy as np
import pytest

from common import config as configuration
from common.audit.watch import HackedError, alarms
from common.backends import load
from common.config import ConfigError
from common.rewards import RewardNameError
from common.runs.directory import may_change

FALLING = """
calls = []


def score(images, prompts, metadata):
    '''Falls by one at each call, with a spread of one half.'''
    calls.append(1)
    return [i % 2 - len(calls) for i in range(len(images))]


def steady(images, prompts, metadata):
    return [i % 2 for i in range(len(images))]
"""


@pytest.fixture(scope="module")
def cpu():
    return load("cpu")


@pytest.fixture
def falling(tmp_path, monkeypatch):
    """The name of a held-out reward that falls at each audit."""
    name = f"falling_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FALLING)
    monkeypatch.syspath_prepend(tmp_path)
    return f"{name}:score"


def watched(tiny, scorer, *changes):
    return tiny(
        "audit.every=1",
        "audit.images=2",
        f'audit.scorers=["{scorer}"]',
        "reward.terms={embedded=10.0, jpeg_compressibility=0.1}",
        *changes,
    )


def test_a_fall_stops_the_run_after_saving(tiny, train, cpu, falling):
    config = watched(tiny, falling, 'audit.action="stop"')
    with pytest.raises(HackedError, match=r"update 1: the held-out scorer .* is 2.00 of the base"):
        train(config, cpu)


def test_weakening_halves_the_weight_of_what_rose_most_and_outlives_a_restart(
    tiny, train, cpu, falling, final_bytes
):
    config = watched(tiny, falling, 'audit.action="weaken"', "audit.factor=0.25")
    with pytest.warns(UserWarning, match="now weighs"):
        run, record, finished = train(config, cpu)
    assert finished
    audits = run.audits()
    assert [row["update"] for row in audits] == [0, 1, 2]
    assert [row["alarm"] for row in audits] == [False, True, True]
    assert audits[0]["weights"] == {"embedded": 10.0, "jpeg_compressibility": 0.1}
    before, after = (sum(np.log(list(row["weights"].values()))) for row in audits[:2])
    assert before - after == pytest.approx(np.log(4))
    assert len(alarms(audits)) == 2
    assert "is 2.00 of the base model's spreads below it" in alarms(audits)[0]
    assert record.updates[-1]["update"] == 2


def test_the_embedded_scorer_is_watched_by_default_and_a_quiet_run_says_nothing(tiny, train, cpu):
    config = tiny("audit.every=2", "audit.images=2", "audit.tolerance=50.0")
    run, _, _ = train(config, cpu)
    assert [row["update"] for row in run.audits()] == [0, 2]
    assert set(run.audits()[1]["effects"]) == {"term/embedded", "heldout/embedded, held out"}
    assert not alarms(run.audits())
    plain, _, _ = train(tiny(), cpu)
    # Watching draws nothing that training draws.
    files = [sorted(r.checkpoints.glob("000002/adapter_model.safetensors")) for r in (run, plain)]
    assert files[0][0].read_bytes() == files[1][0].read_bytes()


def test_what_is_evaluated_is_watched_unless_others_are_named(tiny, train, cpu, falling):
    """One list of scorers: `evaluate.scorers` is the default of `audit.scorers`."""
    evaluated = ("audit.every=2", "audit.images=2", f'evaluate.scorers=["{falling}"]')
    with pytest.warns(UserWarning, match=f"'{falling}' is .* of the base model's spreads below it"):
        run, _, _ = train(tiny(*evaluated), cpu)
    own = {"term/embedded", "heldout/embedded, held out"}
    assert {*run.audits()[1]["effects"]} == {*own, f"heldout/{falling}"}
    steady = falling.replace(":score", ":steady")
    quiet = (f'audit.scorers=["{steady}"]', "audit.tolerance=50.0")
    run, _, _ = train(tiny(*evaluated, *quiet), cpu)
    assert {*run.audits()[1]["effects"]} == {*own, f"heldout/{steady}"}
    assert f"heldout/{falling}" in run.evaluations()[-1]


def test_what_is_watched_stays_in_a_resumed_run(tiny):
    more = 'evaluate.scorers=["jpeg_compressibility"]'
    assert "evaluate.scorers" in may_change(tiny(more))
    assert "evaluate.scorers" in may_change(tiny("audit.every=2", 'audit.scorers=["aesthetic"]'))
    assert "evaluate.scorers" not in may_change(tiny("audit.every=2", more))


def test_what_is_maximised_is_not_held_out(tiny, train, cpu):
    with pytest.raises(RewardNameError, match="'embedded' is maximised by the run"):
        train(tiny("audit.every=1", 'audit.scorers=["embedded"]'), cpu)


def test_weakening_needs_something_to_choose_from():
    with pytest.raises(ConfigError, match=r"'weaken' needs two reward\.terms"):
        configuration.load("emoji", ["audit.every=5", "audit.action=weaken"])
