"""Neutral runs in a comparison: drift by noise alone, which is no method and changes no gain."""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from common import config
from common.comparison import methods, noise as drifts
from common.comparison.summarise import summarise
from common.comparison.summary import from_json, to_json
from common.evaluation import neutral_runs
from common.evaluation.measured_runs import StudyError
from common.evaluation.records import FILE, RecordError, Variant
from common.report import comparison, front, gain_tables, noise as report, notes
from common.rewards import REWARDS, RewardNameError

HERE = Path(__file__)
STUDY = runpy.run_path(str(HERE.with_name("synthetic_study.py")))
make_run, better_curve = STUDY["make_run"], STUDY["better_curve"]
GRPO, DRIFT = "emoji-grpo", "emoji"
COINS = ((-0.4, -0.02), (-0.3, 0.03), (0.1, -0.04))
"""What each coin moves alignment and diversity by."""


def make_coin(path, number=0, moves=COINS[0], **more):
    """A neutral run whose images were scored by the reward of the others."""
    more = {"scorers": ("embedded",)} | more
    overrides = [f"reward.options.coin.seed={number}", *more.pop("overrides", [])]
    alignment, diversity = moves
    return make_run(
        path, lambda done: (5 + alignment * done, 0.4 + diversity * done),
        recipe="emoji-neutral", overrides=overrides, **more,
    )  # fmt: skip


def make_methods(folder):
    for seed in (0, 1):
        make_run(folder / f"grpo{seed}", seed=seed)
        make_run(folder / f"drift{seed}", better_curve, recipe=DRIFT, seed=seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two methods of two seeds and three coins. Read only."""
    folder = tmp_path_factory.mktemp("runs")
    make_methods(folder)
    for number, moves in enumerate(COINS):
        make_coin(folder / f"coin{number}", number, moves)
    return folder


@pytest.fixture(scope="module")
def study(folder):
    return methods.gather([folder], "test")


@pytest.fixture(scope="module")
def summary(study):
    return summarise(study, GRPO, replicas=100)


def test_neutral_runs_are_no_method_and_change_no_gain(folder, study, summary):
    assert [method.name for method in study.methods] == [DRIFT, GRPO]
    assert study.seeds == (0, 1)
    assert len(study.neutral) == 3
    paths = [path for path in folder.iterdir() if not path.name.startswith("coin")]
    alone = summarise(methods.gather(sorted(paths), "test"), GRPO, replicas=100)
    assert alone.noise is None
    assert summary.model_copy(update={"noise": None}).model_dump() == alone.model_dump()


def test_the_drift_of_each_measure_is_averaged_with_its_spread(summary):
    noise = summary.noise
    assert (noise.runs, noise.updates) == (["coin0", "coin1", "coin2"], 40)
    assert noise.measures == ["reward", "alignment_heldout", "diversity"]
    # Seed 0 of every coin: `make_run` adds the same spread to all at the end.
    (reward, held_out, diversity) = noise.drift
    own = reward.mean - np.mean([moves[0] for moves in COINS])
    moves = np.array([moves[0] for moves in COINS]) + own
    for each in (reward, held_out):
        assert (each.low, each.high) == pytest.approx((moves.min(), moves.max()), abs=1e-5)
        assert each.size == pytest.approx(np.abs(moves).mean(), abs=1e-5)
    assert abs(own) < 0.05
    assert diversity.high > 0 > diversity.low
    assert diversity.size > abs(diversity.mean)


def test_the_reward_is_the_one_that_the_others_maximise(study, summary):
    """A coin's own reward is 0.5 in every record; its images are scored as the others' are."""
    for run in study.neutral:
        record = run.records[Variant(40)]
        assert record.protocol == study.protocol
        expected = np.array(record.by_prompt["alignment_train"])  # stored with float32's digits
        np.testing.assert_allclose(record.by_prompt["reward"], expected, rtol=2**-23)
        assert {*record.by_prompt} == {*study.protocol.measures}
    assert [point.update for point in summary.noise.points] == [10, 20, 30, 40]
    assert min(summary.noise.points[-1].by_run["reward"]) > 4.5


def test_two_rewards_of_another_family_are_added_up_by_their_weights(tmp_path):
    """Stable Diffusion has no scorers of its own: only what it is asked to be measured with."""
    recipe = "sd15-compressibility-ddpo"
    how: dict = {"recipe": recipe, "features": "clip", "sampler": "guidance 5", "spread": 0.0}
    terms = "reward.terms={jpeg_compressibility=4.0,jpeg_incompressibility=6.0}"
    make_run(tmp_path / "ddpo", overrides=[terms], **how)
    coin = ["reward.terms={coin=1.0}", "reward.options.coin.seed=5"]
    some: dict = {"overrides": coin, **how, "scorers": ("jpeg_compressibility", "ocr")}
    complete(make_run(tmp_path / "coin", **some))
    line = refusal(tmp_path, recipe)
    assert "was not scored by jpeg_incompressibility, as the others were: run `drift eval" in line
    assert "--scorer jpeg_compressibility --scorer jpeg_incompressibility --feature clip`" in line
    shutil.rmtree(tmp_path / "coin")
    some["scorers"] += ("jpeg_incompressibility",)
    make_run(tmp_path / "coin", lambda done: (5 - done, 0.4), **some)
    study = methods.gather([tmp_path], "test")
    noise = summarise(study, recipe, replicas=9).noise
    assert noise.measures == ["reward", "diversity"]
    (record, *_) = study.neutral[0].records.values()
    assert {*record.by_prompt} == {*study.protocol.measures}
    assert noise.drift[0].mean == pytest.approx(-1.0, abs=1e-5)
    assert noise.shares(recipe)["reward"] == pytest.approx(0.5, abs=1e-4)


def test_each_method_has_noise_as_a_share_of_what_it_moves(summary):
    sizes = {each.measure: each.size for each in summary.noise.drift}
    for name in (GRPO, DRIFT):
        (end,) = [point for point in summary.method(name).points if point.update == 40]
        for measure, share in summary.noise.shares(name).items():
            moved = end.measures[measure] - summary.base[measure]
            assert share == pytest.approx(sizes[measure] / abs(moved), rel=1e-3)
    plain, better = summary.noise.shares(GRPO), summary.noise.shares(DRIFT)
    assert better["diversity"] == pytest.approx(2 * plain["diversity"], rel=0.01)


def test_a_line_says_whether_the_setting_is_fit(summary, tmp_path):
    assert summary.noise.fit(GRPO)
    assert not summary.noise.fit(GRPO, 0.1)
    line = report.sentence(summary)
    assert line in notes.notes(summary)
    assert re.match(
        r"Fit to show what a reward does: 3 neutral runs of 40 updates move reward by 1\d%, "
        r"held-out alignment by 1\d%, diversity by \d+% of what emoji-grpo moves; less than 25% is "
        r"fit, 10% the aim\.$",
        line,
    )
    make_run(tmp_path / "grpo")
    make_coin(tmp_path / "coin", moves=(-3.0, -0.1))
    wild = summarise(methods.gather([tmp_path], "test"), GRPO, replicas=100)
    line = report.sentence(wild)
    assert line.startswith("Not fit to show what a reward does: 1 neutral run of 40 updates moves ")
    assert line.endswith("more samples, helps. Several are needed: they differ.")
    (table,) = gain_tables.tables(wild)
    assert [cell.detail for cell in table.rows[0].cells] == ["", "", ""]


def test_a_baseline_that_does_not_move_is_not_fit(tmp_path):
    make_run(tmp_path / "grpo", lambda done: (5.0, 0.4), spread=0.0)
    make_coin(tmp_path / "coin", moves=(0.0, 0.0), spread=0.0)
    still = summarise(methods.gather([tmp_path], "test"), GRPO, replicas=100)
    assert set(still.noise.shares(GRPO).values()) == {None}
    assert not still.noise.fit(GRPO)
    assert "moves reward (which emoji-grpo does not), held-out" in report.sentence(still)


def test_tables_and_page_have_a_line_of_their_own_for_noise(summary):
    table = gain_tables.tables(summary)[-1]
    assert table.title == "Drift by noise alone"
    assert table.columns == ["reward", "held-out alignment", "diversity"]
    assert [row.method for row in table.rows] == ["noise alone, 3 neutral runs", GRPO, DRIFT]
    share = summary.noise.shares(DRIFT)["diversity"]
    assert table.rows[2].cells[2].detail == f"noise {share:.0%}"
    for other in gain_tables.tables(summary)[:-1]:
        assert not any("noise" in row.method for row in other.rows)
    page = comparison.render(summary, [])
    assert "noise alone <small>3 neutral runs</small>" in page
    assert page.count('aria-label="noise alone, no reward, update 40, reward ') == 2
    assert page.count('class="noise"') == 2 * 3  # line and ends, in both views and the other axis
    assert "It is no method, and no gain is read from it" in page
    assert "The table of noise alone has no intervals." in page
    assert "Noise alone ends at" in front.alt_text(summary)


def test_it_survives_json_and_the_plot_is_drawn_from_it_alone(summary):
    text = to_json(summary)
    assert from_json(text) == summary
    assert ">noise alone<" in front.files(from_json(text))["svg"].decode()


def test_a_method_that_was_not_measured_when_noise_ends_has_no_share(tmp_path):
    make_run(tmp_path / "grpo")
    variants = [Variant(0), Variant(20)]
    make_run(tmp_path / "drift", better_curve, recipe=DRIFT, variants=variants)
    make_coin(tmp_path / "coin")
    got = summarise(methods.gather([tmp_path], "test"), GRPO, replicas=100)
    assert set(got.noise.shares(DRIFT).values()) == {None}
    (row,) = [row for row in gain_tables.drift(got)[0].rows if row.method == DRIFT]
    assert {(cell.text, cell.detail, cell.missing) for cell in row.cells} == {
        ("none", "not measured at update 40", True)
    }


# --- what is refused ------------------------------------------------------------------------------


def refusal(folder, baseline=GRPO, **more):
    with pytest.raises(StudyError) as caught:
        summarise(methods.gather([folder], "test"), baseline, replicas=9, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_neutral_runs_alone_are_no_comparison(tmp_path):
    make_coin(tmp_path / "coin")
    assert refusal(tmp_path) == (
        f"nothing to compare: the only reward of {tmp_path}/coin is a control; name the run, too, "
        "that they are the control of"
    )


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            {"overrides": ["optimizer.learning_rate=5e-4"]},
            "in more than the reward: optimizer.learning_rate is 0.0005 and 0.001; a neutral run",
        ),
        ({"overrides": ["prompts.names=['fox']"]}, "the reward: prompts.names is ['fox'] and ["),
        (
            {"variants": [Variant(n) for n in (0, 10, 20)]},
            "was measured up to update 20 and emoji-grpo up to 40: train and measure it up to "
            "there, or compare with --until 20",
        ),
        ({"model": "1" * 64}, "they have other base models (000000000000 and 111111111111)"),
    ],
)
def test_what_is_no_control_of_the_baseline_is_refused(tmp_path, more, expected):
    run = make_run(tmp_path / "grpo")
    coin = make_coin(tmp_path / "coin", **more)
    complete(coin)
    line = refusal(tmp_path)
    assert expected in line
    assert str(coin.path) in line
    assert run.path.exists()


def test_the_same_coin_twice_and_coins_of_other_settings_are_refused(tmp_path):
    make_run(tmp_path / "grpo")
    make_run(tmp_path / "slow", overrides=["optimizer.learning_rate=5e-4"])
    make_coin(tmp_path / "a")
    twin = make_coin(tmp_path / "b")
    assert "are the same neutral run, with the same coin and seed (0)" in refusal(tmp_path)
    for file in twin.path.rglob("*"):
        if file.is_file():
            file.unlink()
    make_coin(tmp_path / "c", 1, overrides=["optimizer.learning_rate=5e-4"])
    assert "the neutral runs" in refusal(tmp_path)
    assert "optimizer.learning_rate is 0.0005 and 0.001" in refusal(tmp_path)


def complete(run, updates=(10, 20, 30, 40)):
    """What makes folders look like checkpoints to those that only list them."""
    for update in updates:
        folder = run.checkpoints / f"{update:06d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"scorers": ()}, "was not scored by embedded, as the others were"),
        ({"images": 6}, "was not measured as the others were"),
        ({"split": "train"}, "was not measured as the others were"),
        ({"variants": []}, "was not measured as the others were"),
    ],
)
def test_what_was_not_measured_comes_with_the_command(tmp_path, more, reason):
    make_run(tmp_path / "grpo")
    coin = make_coin(tmp_path / "a coin", **more)
    assert refusal(tmp_path) == f"the neutral run {coin.path} has no checkpoint to measure"
    complete(coin)
    line = refusal(tmp_path)
    assert reason in line
    command = shlex.split(line.partition("run `")[2].rstrip("`"))
    assert command[:3] == ["drift", "eval", str(coin.path)]
    assert " ".join(command[3:]) == (
        "--split test --prompts 4 --images 8 --checkpoint base --checkpoint 10 --checkpoint 20 "
        "--checkpoint 30 --checkpoint 40 --scorer embedded"
    )


def test_an_axis_that_neutral_runs_lack_is_refused(tmp_path):
    """No held-out scorers add up to a reward with a floor, so that noise has no reward."""
    make_run(tmp_path / "grpo", overrides=["reward.floors={embedded=0.1}"])
    make_coin(tmp_path / "coin")
    line = refusal(tmp_path, axis="reward")
    assert "has no reward to compare" in line
    assert "choose another --axis: alignment_heldout, alignment_train" in line
    study = methods.gather([tmp_path], "test")
    other = summarise(study, GRPO, axis="alignment_heldout", replicas=9)
    assert other.noise.measures == ["alignment_heldout", "diversity"]
    page = comparison.render(other, [])
    assert "Drift by noise alone" in page


def test_images_made_elsewhere_are_no_baseline_of_neutral_runs(study):
    elsewhere = methods.Method("theirs", (methods.Strength("", (), ()),))
    with pytest.raises(StudyError, match="the baseline theirs was not trained here"):
        drifts.check(study, elsewhere)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], {"embedded": 10.0}),
        (["reward.terms={embedded=1.0,jpeg_compressibility=0.5}"], None),
        (["reward.combine=group_zscore"], {"embedded": 10.0}),
        (["reward.combine=minimum"], {"embedded": 10.0}),
        (["reward.floors={embedded=0.1}"], {}),
        (["reward.ceilings={embedded=0.9}"], {}),
        (["reward.options.embedded.batch_size=4"], {}),
        (["reward.terms={embedded=1.0,incompressibility=1.0}", "reward.combine=minimum"], {}),
    ],
)
def test_a_weighted_sum_of_scorers_stands_for_a_reward(changes, expected):
    reward = config.load(GRPO, changes).reward
    assert neutral_runs.weights(reward) == (dict(reward.terms) if expected is None else expected)


def test_a_control_is_what_is_registered_as_one():
    assert REWARDS.is_control("coin")
    assert not REWARDS.is_control("embedded")
    assert not REWARDS.is_control("no.such.module:coin")  # nothing is imported
    assert not REWARDS.is_control("nothing")


def test_a_run_whose_plugin_is_broken_is_no_control(monkeypatch):
    def broken(name):
        raise RewardNameError(f"{name} cannot be imported")

    monkeypatch.setattr(REWARDS, "_entry", broken)
    assert not REWARDS.is_control("coin")


def test_long_and_odd_values_stay_on_one_line(tmp_path):
    make_run(tmp_path / "grpo")
    names = [f"a\nb {number}" for number in range(300)]
    make_coin(tmp_path / "coin", overrides=[f"prompts.names={json.dumps(names)}"])
    line = refusal(tmp_path)
    assert "prompts.names is ['a\\nb 0'" in line
    assert len(line) < 600


def test_a_damaged_neutral_run_is_reported(tmp_path):
    make_run(tmp_path / "grpo")
    coin = make_coin(tmp_path / "coin")
    with (coin.path / FILE).open("a") as file:
        file.write('{"variant": NaN}\n')
    with pytest.raises(RecordError, match="line 6"):
        methods.gather([tmp_path], "test")
