"""The audit's statistics by hand, its verdict at every threshold, and its page."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from common.algorithm import quality
from common.audit import statistics as S, verdict
from common.audit.measure import STATISTICS, Side, compare
from common.prompts import Prompt
from common.report import audit_page

rng = np.random.default_rng(0)


# --- statistics ----------------------------------------------------------------------------------


def test_spread_and_effect_are_within_prompts():
    base = np.array([[0.0, 2.0], [100.0, 102.0]])  # spread 1 within, 50 between
    assert S.spread(base) == 1.0
    assert S.effect(base, base + 3) == pytest.approx(3.0)
    assert S.effect(base, base - 0.5) == pytest.approx(-0.5)
    assert S.effect(base, base) == 0.0


def test_without_a_spread_there_is_no_unit():
    flat = np.ones((2, 3))
    assert S.effect(flat, flat) == 0.0
    assert math.isnan(S.effect(flat, flat + 1))
    assert S.effect(np.zeros((2, 3)), np.zeros((2, 3))) == 0.0


def test_what_a_statistic_explains_is_the_square_of_its_correlation_within_prompts():
    x = rng.normal(size=(6, 40))
    noise = rng.normal(size=(6, 40))
    reward = 2 * x + noise + 1000 * np.arange(6)[:, None]
    within = [v - v.mean(axis=1, keepdims=True) for v in (x, reward)]
    r = np.corrcoef(*(v.ravel() for v in within))[0, 1]
    assert S.r_squared(reward, x) == pytest.approx(r**2)
    assert S.r_squared(reward, -5 * x + 3) == pytest.approx(r**2)
    assert S.r_squared(3 * x, x) == pytest.approx(1.0)


def test_several_explain_at_least_as_much_as_one_and_not_their_sum():
    x, y = rng.normal(size=(2, 4, 50))
    reward = x + y + rng.normal(size=(4, 50))
    together = S.r_squared(reward, x, y)
    assert together > max(S.r_squared(reward, x), S.r_squared(reward, y))
    assert S.r_squared(reward, x, 2 * x) == pytest.approx(S.r_squared(reward, x))


def test_constants_explain_nothing_and_need_no_explanation():
    x = rng.normal(size=(3, 5))
    between = np.arange(3.0)[:, None] * np.ones((3, 5))
    assert S.r_squared(x, between) == 0.0
    assert S.r_squared(between, x) == 0.0
    assert S.r_squared(np.full((3, 5), 0.1), x) == 0.0


def test_disagreement_is_where_the_reward_alone_is_high():
    reward = np.array([[1.0, 0.0, 0.0, 1.0]])
    other = np.array([[1.0, 0.0, 1.0, 0.0]])
    got = S.disagreement(reward, [other])
    assert got.tolist() == [[0.0, 0.0, -2.0, 2.0]]
    assert S.disagreement(reward, [np.zeros((1, 4))])[0, 0] == 1.0


def test_calibration_is_the_gap_between_groups_in_spreads():
    values = np.array([[0.0, 2.0], [2.0, 4.0], [10.0, 12.0]])
    means, gap = S.calibration(values, ["a", "a", "b"])
    assert means == {"a": 2.0, "b": 11.0}
    assert gap == pytest.approx(9.0)
    assert S.calibration(np.ones((2, 2)), ["a", "b"])[1] == 0.0


def test_intervals_hold_the_effect_and_shrink_with_prompts():
    base = rng.normal(size=(40, 8))
    tuned = base + 1 + rng.normal(size=(40, 1)) * 0.2
    draws = rng.integers(40, size=(300, 40))
    low, high = S.intervals({"x": base}, {"x": tuned}, draws)["x"]
    assert low < S.effect(base, tuned) < high
    assert 0.05 < high - low < 0.4


# --- image statistics ----------------------------------------------------------------------------

WHITE = np.full((1, 8, 8, 3), 255, dtype=np.uint8)


def test_edges_are_counted_across_and_down():
    split = WHITE.copy()
    split[:, :, 4:] = 0
    assert quality.edge_density(WHITE)[0] == 0
    assert quality.edge_density(split)[0] == pytest.approx(8 / 112)
    assert quality.edge_density(split.swapaxes(1, 2))[0] == pytest.approx(8 / 112)
    faint = WHITE.copy()
    faint[:, :, 4:] = 224  # 31 below white: less than an eighth
    assert quality.edge_density(faint)[0] == 0


def test_colour_entropy_counts_bins():
    assert quality.color_entropy(WHITE)[0] == 0
    half = WHITE.copy()
    half[:, :4] = [255, 0, 0]
    assert quality.color_entropy(half)[0] == pytest.approx(np.log(2) / np.log(512))
    levels = np.arange(0, 256, 32, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, 16, 32, 3)
    assert quality.color_entropy(cube)[0] == pytest.approx(1.0)


def test_saturation_is_that_of_hsv():
    colors = np.array([[255, 0, 0], [0, 0, 0], [100, 50, 100], [7, 7, 7]], dtype=np.uint8)
    assert quality.saturation(colors[:, None, None]).tolist() == [1.0, 0.0, 0.5, 0.0]


@given(arrays(np.uint8, (2, 5, 4, 3)))
def test_image_statistics_are_in_their_range(images):
    for name in ("edge_density", "color_entropy", "saturation"):
        values = getattr(quality, name)(images)
        assert values.shape == (2,)
        assert ((values >= 0) & (values <= 1)).all()


# --- verdict -------------------------------------------------------------------------------------

FINE = {
    "reward": 1.0,
    "heldout": {"a": 0.5, "b": 0.0},
    "drift": {"edges": 0.4},
    "explained": {"edges": 0.2},
    "diversity": 0.9,
}


@pytest.mark.parametrize(
    ("change", "level", "about"),
    [
        ({}, "fine", ""),
        ({"heldout": {"a": 0.5, "b": -0.2}}, "suspicious", "a held-out scorer (b)"),
        ({"heldout": {"a": 0.5, "b": -0.31}}, "alarming", "a held-out scorer (b)"),
        ({"heldout": {"a": 0.2}}, "suspicious", "transfer (a)"),
        ({"diversity": 0.6}, "suspicious", "diversity"),
        ({"diversity": 0.4}, "alarming", "diversity"),
        ({"drift": {"edges": -1.5}}, "suspicious", "image statistics (edges)"),
        ({"drift": {"edges": 0.1, "size": 2.5}}, "alarming", "image statistics (size)"),
        ({"drift": {"edges": math.nan}}, "alarming", "image statistics (edges)"),
        ({"explained": {"edges": 0.6}}, "suspicious", "explained reward (edges)"),
        ({"explained": {"edges": 0.9}}, "alarming", "explained reward (edges)"),
        ({"heldout": {}}, "fine", ""),
        ({"heldout": {"a": math.nan}}, "fine", ""),
        # A scorer that falls while the reward does not rise is bad tuning, but no hacking.
        ({"reward": 0.1, "heldout": {"a": -1.0}}, "fine", ""),
    ],
)
def test_each_threshold(change, level, about):
    got = verdict.judge(**{**FINE, **change})
    assert got.level == level
    assert about in got.sentence
    assert len(got.findings) == len(verdict.RULES)


# --- everything together -------------------------------------------------------------------------


def side(seed, *, hacked=False, prompts=4, count=6):
    draws = np.random.default_rng(seed)
    images = draws.integers(0, 256, (prompts, count, 16, 16, 3), dtype=np.uint8)
    if hacked:
        images[:, :, ::2] //= 8
    flat = images.reshape(-1, 16, 16, 3)
    measured = {name: of(flat).reshape(prompts, count) for name, of in STATISTICS.items()}
    heldout = draws.normal(size=(prompts, count)) - 2 * hacked
    reward = 3 * measured["edge density"] + 5 * hacked
    return Side(images, reward, {"r": reward}, {"<b>judge</b>": heldout}, measured, {"clip": 0.3})


@pytest.fixture(scope="module")
def audit():
    prompts = [Prompt(i, f"<p{i}>", {"kind": "xy"[i % 2]}) for i in range(4)]
    return compare(
        side(0), side(1, hacked=True), prompts, skipped={"ocr": "has no text"}, group_by="kind",
        seed=0,
    )  # fmt: skip


def test_a_hacked_model_is_flagged_and_one_that_is_level_is_not(audit):
    assert audit.verdict.level == "alarming"
    assert audit.explained["edge density"][1] == pytest.approx(1.0)
    assert set(audit.effects) == {"reward", "<b>judge</b>", *STATISTICS}
    prompts = [Prompt(i, str(i)) for i in range(4)]
    level = compare(side(0), side(0), prompts, skipped={}, group_by=None, seed=0)
    assert {f.rule.name: f.level for f in level.verdict.findings}["image statistics"] == "fine"
    assert (level.effects["reward"], level.calibration) == (0.0, {})


def jpeg_side(seed, *, tuned=False):
    """Images whose reward is their JPEG size."""
    made = side(seed)
    size = made.statistics["JPEG size (kB)"] + 5 * tuned
    made.statistics["JPEG size (kB)"] = size
    return replace(made, reward=size, terms={"jpeg": size}, heldout={})


@pytest.mark.parametrize("name", ["jpeg_compressibility", "jpeg_incompressibility"])
def test_a_reward_that_is_a_statistic_is_not_judged_by_it(name):
    sides, prompts = (jpeg_side(0), jpeg_side(0, tuned=True)), [Prompt(i, str(i)) for i in range(4)]
    how = {"skipped": {}, "group_by": None, "seed": 0}
    unknown = compare(*sides, prompts, **how)
    assert unknown.verdict.level == "alarming"
    got = compare(*sides, prompts, **how, maximised={name})
    assert got.verdict.level == "fine", got.verdict.sentence
    assert got.explained["JPEG size (kB)"][1] == pytest.approx(1.0)
    assert got.not_judged == {
        "JPEG size (kB)": "the run maximises or minimises it",
        "explained reward": "the whole reward is an image statistic",
    }
    text = audit_page.render(got, title="run", facts=[])
    assert "Not judged: JPEG size (kB), since the run maximises" in text
    mixed = compare(*sides, prompts, **how, maximised={name, "embedded"})
    assert mixed.not_judged.keys() == {"JPEG size (kB)"}
    about = {finding.rule.name: finding.about for finding in mixed.verdict.findings}
    assert about["explained reward"] in set(STATISTICS) - {"JPEG size (kB)"}


def test_diversity_is_judged_in_features_that_do_not_shape_the_reward(audit):
    base = replace(audit.base, diversity={"dino": 0.5, "clip": 0.4})
    tuned = replace(audit.tuned, diversity={"dino": 0.5, "clip": 0.1})
    kept = {}
    for shaping in ((), ("dino",), ("dino", "clip")):
        got = compare(
            base, tuned, audit.prompts, skipped={}, group_by=None, seed=0, shaping=shaping
        )
        findings = {finding.rule.name: finding.value for finding in got.verdict.findings}
        kept[shaping] = findings["diversity"]
        text = audit_page.render(got, title="run", facts=[])
        marked = "features dino, which shape the reward: 0.500 before, 0.500 after" in text
        assert marked == bool(shaping)
    assert kept == {(): 1.0, ("dino",): pytest.approx(0.25), ("dino", "clip"): 1.0}


def test_an_audit_repeats_itself(audit):
    again = compare(audit.base, audit.tuned, audit.prompts, skipped={}, group_by="kind", seed=0)
    assert again.intervals == audit.intervals


def test_the_page_shows_everything_and_escapes_it(audit):
    text = audit_page.render(audit, title="run <1>", facts=["update 3"])
    assert "Audit of run &lt;1&gt;" in text
    assert "<b>judge" not in text
    assert "&lt;b&gt;judge" in text
    assert "<p1>" not in text
    assert text.count("data:image/png;base64,") == 2 * audit_page.PICTURES
    for words in ("has no text", *STATISTICS, "Between groups of prompts", "Suspicious"):
        assert words in text, words
    assert all(rule.name in text for rule in verdict.RULES.values())
    assert text == audit_page.render(audit, title="run <1>", facts=["update 3"])
    assert "http://" not in text
    assert "<script" not in text
