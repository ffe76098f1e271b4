"""A suite calls each reward once on what it must, in full batches; scales, and combines terms."""

import sqlite3
import time

import numpy as np
import pytest

from common.config import ConfigError, RewardConfig, load, to_tables
from common.rewards import (
    Affine,
    RewardError,
    RewardNameError,
    RewardSuite,
    combine,
    create,
    register,
    registry,
)
from common.rewards.cache import ScoreCache, address
from tests.common.processes import together

PROMPTS = ["rose"] * 3 + ["owl"] * 3
METADATA = [{} for _ in PROMPTS]


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(registry.REWARDS, "entries", dict(registry.REWARDS.entries))


def images(*seeds):
    return np.stack(
        [np.random.default_rng(s).integers(0, 256, (8, 8, 3), dtype=np.uint8) for s in seeds]
    )


SIX = images(0, 1, 2, 3, 4, 5)


def means(batch, prompts, metadata):
    return batch.reshape(len(batch), -1).mean(axis=1)


def recorded(name, function=means, **about):
    """Register a reward that notes the sizes and prompts of its calls."""
    calls = []

    def call(batch, prompts, metadata):
        calls.append(list(prompts))
        return function(batch, prompts, metadata)

    register(name, range="", description="", **about)(lambda backend: call)
    return calls


def suite(**settings):
    settings.setdefault("terms", {"mine": 1.0})
    config = RewardConfig(**settings)
    return RewardSuite(config.terms, None, config)


def score(made, batch=SIX, prompts=PROMPTS):
    metadata = [{} for _ in prompts]
    return made.score(batch, prompts, metadata, describe=lambda n: f"image {n}")


def test_batches_are_filled_across_prompts():
    calls = recorded("mine", batch_size=4)
    got = score(suite())["mine"]
    assert [len(call) for call in calls] == [4, 2]
    np.testing.assert_array_equal(got, means(SIX, None, None))
    calls.clear()
    score(suite(options={"mine": {"batch_size": 5}}))
    assert [len(call) for call in calls] == [5, 1]


def test_a_groupwise_reward_sees_one_prompt_at_a_time():
    calls = recorded("mine", groupwise=True, function=lambda b, p, m: np.arange(len(b)))
    assert score(suite())["mine"].tolist() == [0, 1, 2, 0, 1, 2]
    assert calls == [["rose"] * 3, ["owl"] * 3]


def test_a_function_may_say_itself_that_it_is_groupwise(tmp_path, monkeypatch):
    (tmp_path / "own_group_reward.py").write_text(
        "def ranks(images, prompts, metadata):\n    return range(len(images))\n"
        "ranks.groupwise = True\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    terms = {"own_group_reward:ranks": 1.0}
    assert score(suite(terms=terms))["own_group_reward:ranks"].tolist() == [0, 1, 2, 0, 1, 2]


def test_equal_images_of_equal_prompts_are_scored_once():
    calls = recorded("mine", version="1")
    batch = images(0, 1, 0, 0, 1, 1)
    got = score(suite(), batch)["mine"]
    assert calls == [["rose", "rose", "owl", "owl"]]  # 0, 1 of the first; 0, 1 of the second
    np.testing.assert_array_equal(got, means(batch, None, None))


@pytest.mark.parametrize(("exact", "calls_made"), [(True, 1), (False, 2)])
def test_only_exact_scores_are_remembered_between_calls(exact, calls_made):
    calls = recorded("mine", version="1", exact=exact)
    made = suite()
    first, second = score(made), score(made)
    assert len(calls) == calls_made
    np.testing.assert_array_equal(first["mine"], second["mine"])
    assert made.counts == {"scored": 6 * calls_made, "cached": 12 - 6 * calls_made}


def test_without_a_version_nothing_is_remembered():
    calls = recorded("mine", exact=True)
    made = suite()
    score(made, images(0, 0, 0, 0, 0, 0))
    score(made)
    assert [len(call) for call in calls] == [6, 6]


def test_the_cache_file_outlives_the_process_and_the_version_empties_it(tmp_path):
    file = str(tmp_path / "scores.sqlite")
    calls = recorded("mine", version="1", exact=True)
    expected = score(suite(cache=file))["mine"]
    got = score(suite(cache=file))["mine"]
    assert len(calls) == 1
    np.testing.assert_array_equal(got, expected)
    registry.REWARDS.entries.pop("mine")
    later = recorded("mine", version="2", exact=True)
    score(suite(cache=file))
    assert len(later) == 1


def test_what_is_no_cache_is_an_error_in_one_line(tmp_path):
    (tmp_path / "x").write_bytes(b"not a database at all, but long enough to be read as one")
    with pytest.raises(RewardError, match=r"reward.cache = '.*x': file is not a database"):
        ScoreCache(tmp_path / "x")
    with pytest.raises(RewardError, match="unable to open"):
        ScoreCache(tmp_path / "no" / "folder")


def test_a_full_or_locked_cache_is_an_error_and_not_a_wrong_score(tmp_path):
    cache = ScoreCache(tmp_path / "c")
    cache.keep(["a"], np.array([1.5]))
    cache._base.close()
    with pytest.raises(RewardError, match="closed database"):
        cache.keep(["b"], np.array([1.0]))
    with sqlite3.connect(tmp_path / "c") as base:
        assert base.execute("SELECT * FROM scores").fetchall() == [("a", 1.5)]


def test_the_address_holds_all_that_decides_a_score():
    image = SIX[0]
    other = image.copy()
    other[0, 0, 0] ^= 1
    made = {
        address("r", "1", image, "p", {}),
        address("s", "1", image, "p", {}),
        address("r", "2", image, "p", {}),
        address("r", "1", other, "p", {}),
        address("r", "1", image, "q", {}),
        address("r", "1", image, "p", {"text": "x"}),
        address("r", "1", image.reshape(4, 16, 3), "p", {}),
    }
    assert len(made) == 7


def test_an_error_names_the_image_of_the_whole_rollout():
    def bad(batch, prompts, metadata):
        return np.where(np.arange(len(batch)) == 1, np.nan, 0.0)

    recorded("mine", bad, batch_size=4)
    with pytest.raises(RewardError, match=r"'mine' is nan for image 1$"):
        score(suite())
    got = score(suite(on_error="drop"))["mine"]
    assert np.isnan(got).tolist() == [False, True, False, False, False, True]


# --- beginning early ---------------------------------------------------------------------------


def test_exact_and_remote_rewards_begin_while_images_still_come():
    started = []

    def slow(batch, prompts, metadata):
        started.append(len(batch))
        return means(batch, prompts, metadata)

    recorded("mine", slow, exact=True, version="1")
    recorded("far", slow, device="remote")
    recorded("late", slow)
    made = suite(terms={"mine": 1.0, "far": 1.0, "late": 1.0})
    with made.begin(PROMPTS, METADATA, describe=str) as scoring:
        scoring.add(SIX[:2])
        deadline = time.monotonic() + 300
        while started != [2, 2] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert started == [2, 2]  # both, and not the one that must see all
        scoring.add(SIX[2:])
        got = scoring.result()
    assert started[-1] == 6
    for name in ("mine", "far", "late"):
        np.testing.assert_array_equal(got[name], means(SIX, None, None))


def test_an_early_failure_names_the_right_image_and_leaves_no_thread_stuck():
    recorded("mine", lambda b, p, m: np.where(np.arange(len(b)) == 1, np.inf, 0), exact=True)
    with suite().begin(PROMPTS, METADATA, describe=lambda n: f"image {n}") as scoring:
        for part in (SIX[:1], SIX[1:2], SIX[2:3], SIX[3:]):
            scoring.add(part)
        with pytest.raises(RewardError, match="inf for image 4"):
            scoring.result()
    assert score(suite(terms={"jpeg_compressibility": 1.0}))


# --- scalings and options ------------------------------------------------------------------------


def test_a_named_scaling_is_maximised_and_the_raw_value_is_logged():
    terms, options = {"jpeg_compressibility": 2.0}, {"jpeg_compressibility": {"scaling": "/500"}}
    made = suite(terms=terms, options=options)
    raw = score(made)
    name = "jpeg_compressibility"
    by_group = {name: raw[name].reshape(2, 3)}
    np.testing.assert_allclose(made.total(by_group), 2 * by_group[name] / 500, rtol=1e-15)
    metrics = made.metrics(raw)
    assert metrics[f"reward/term/{name}"] == raw[name].mean()
    np.testing.assert_allclose(metrics[f"reward/scaled/{name}"], raw[name].mean() / 500)
    assert str(Affine(8.0, 18.0)) == "(s - 18) / 8"
    assert Affine(8.0, 18.0)(np.array([18.0, 26.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scalng": "raw"}, "did you mean 'scaling'"),
        ({"scaling": "/50"}, "reward.options.ocr.scaling = '/50'; valid: raw"),
        ({"rule": "lax"}, "reward.options.ocr: rule = 'lax': not a valid choice"),
        ({"batch_size": 0}, "batch_size = 0: input should be greater than or equal to 1"),
        ({"threads": "two"}, "threads = 'two': input should be a valid integer"),
    ],
)
def test_a_wrong_option_is_named(options, says):
    with pytest.raises(RewardNameError, match=says) as caught:
        create("ocr", None, options)
    assert "\n" not in str(caught.value)


def test_a_term_may_have_a_name_of_its_own():
    terms = {"small": 1.0, "large": 1.0}
    options = {"small": {"reward": "jpeg_compressibility"}, "large": {"reward": "ocrr"}}
    with pytest.raises(RewardNameError, match="no reward 'ocrr'; did you mean 'ocr'"):
        suite(terms=terms, options=options)
    options["large"]["reward"] = "jpeg_incompressibility"
    got = score(suite(terms=terms, options=options))
    np.testing.assert_array_equal(got["small"], -got["large"])


def test_options_are_set_from_the_command_line_and_must_belong_to_a_term():
    made = load(
        "emoji",
        [
            "reward.terms.embedded=10.0",
            "reward.terms.my.mod:fn=2.0",
            "reward.options.my.mod:fn.batch_size=7",
            'reward.options.embedded.scaling="raw"',
            "reward.ceilings.my.mod:fn=0.5",
        ],
    )
    assert made.reward.options == {"my.mod:fn": {"batch_size": 7}, "embedded": {"scaling": "raw"}}
    assert made.reward.ceilings == {"my.mod:fn": 0.5}
    assert to_tables(made)["reward"]["options"] == made.reward.options
    with pytest.raises(ConfigError, match=r"floors.embeded: no such term; terms has embedded"):
        load("emoji", ["reward.floors.embeded=1"])


# --- combination ---------------------------------------------------------------------------------

A = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]])
B = np.array([[3.0, 1.0, 0.5], [0.0, 9.0, 1.0]])


def test_the_minimum_is_the_worst_weighted_term():
    got = combine({"a": A, "b": B}, {"a": 1.0, "b": 2.0}, method="minimum")
    np.testing.assert_array_equal(got, [[1.0, 2.0, 1.0], [0.0, 5.0, np.nan]])


def test_more_than_a_ceiling_is_not_rewarded():
    got = combine({"a": A}, {"a": 2.0}, method="weighted_sum", ceilings={"a": 2.0})
    np.testing.assert_array_equal(got, [[2.0, 4.0, 4.0], [4.0, 4.0, np.nan]])


def test_below_a_floor_a_sample_is_worth_the_least_of_its_group():
    terms, weights = {"a": A, "b": B}, {"a": 1.0, "b": 1.0}
    got = combine(terms, weights, method="weighted_sum", floors={"b": 1.0})
    # Sums: [4, 3, 3.5] and [4, 14, nan]; the third and the fourth miss the floor of b.
    np.testing.assert_array_equal(got, [[4.0, 3.0, 3.0], [4.0, 14.0, np.nan]])


def test_evaluations_report_a_sum_where_training_compares_within_the_group():
    recorded("mine")
    made = suite(combine="group_zscore")
    by_group = {"mine": A}
    np.testing.assert_allclose(made.total(by_group)[0], np.array([-1, 0, 1]) * np.sqrt(1.5))
    np.testing.assert_array_equal(made.reported(by_group), A)
    least = suite(combine="minimum", ceilings={"mine": 2.0})
    np.testing.assert_array_equal(least.reported(by_group)[0], [1.0, 2.0, 2.0])


def test_the_time_of_each_term_is_reported():
    recorded("mine", lambda b, p, m: time.sleep(0.05) or means(b, p, m))
    made = suite(terms={"mine": 1.0, "jpeg_compressibility": 1.0})
    before = dict(made.seconds)
    start = time.perf_counter()
    score(made)
    whole = time.perf_counter() - start
    spent = made.times(before)
    assert set(spent) == {"time/reward/mine", "time/reward/jpeg_compressibility"}
    assert 0.05 <= spent["time/reward/mine"] <= whole
    assert made.times(dict(made.seconds)) == {name: 0.0 for name in spent}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    ("about", "calls_of_all"),
    [
        ({"batch_size": 2}, 3),  # in turn
        ({"groupwise": True}, 2),
        ({"version": "1", "exact": True}, 2),  # by part, as they are sampled
        ({}, 1),
    ],
)
def test_processes_share_the_calls_of_a_registered_reward(size, about, calls_of_all):
    calls = recorded("mine", **about)
    alone = score(suite())["mine"]
    calls.clear()

    def one(world):
        with suite().begin(PROMPTS, METADATA, lambda n: f"image {n}", world=world) as scoring:
            scoring.add(SIX[:4])
            scoring.add(SIX[4:])
            return scoring.result()["mine"]

    for values in together(size, one):
        np.testing.assert_array_equal(values, alone)
    assert len(calls) == calls_of_all


def test_a_plain_function_is_called_in_one_process(tmp_path, monkeypatch):
    code = (
        "CALLS = []\ndef mean(i, p, m):\n    CALLS.append(len(i))\n    return i.mean((1, 2, 3))\n"
    )
    (tmp_path / "plain_reward.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)

    def one(world):
        made = suite(terms={"plain_reward:mean": 1.0})
        with made.begin(PROMPTS, METADATA, lambda n: f"image {n}", world=world) as scoring:
            scoring.add(SIX)
            return scoring.result()["plain_reward:mean"]

    first, second = together(2, one)
    np.testing.assert_array_equal(first, means(SIX, None, None))
    np.testing.assert_array_equal(first, second)
    import plain_reward

    assert plain_reward.CALLS == [6]
