"""What share of the attainable gain a method has: in the summary, on the page, in the terminal."""

import numpy as np
import pytest

from common.comparison.methods import gather
from common.comparison.summarise import summarise
from common.comparison.summary import from_json, to_json
from common.evaluation import attainable_records
from common.evaluation.records import RecordError
from common.report import attainable, comparison, front, gain_tables, notes, page
from tests.common.synthetic_study import better_curve, make_run, save_fronts

GRPO, AXES = "emoji-grpo", {"axis": "alignment_heldout", "replicas": 20}


@pytest.fixture
def runs(tmp_path):
    """A plain run and a better one, without spread. At 50 % of the gain: 0.25 and 0.325."""
    how = {"spread": 0.0, "prompts": ("rose", "owl")}
    return [
        make_run(tmp_path / "runs" / "plain", **how),
        make_run(tmp_path / "runs" / "drift", better_curve, recipe="emoji", **how),
    ]


def summary_of(runs, **more):
    return summarise(gather([run.path for run in runs], "test"), GRPO, **(AXES | more))


def test_shares_are_between_both_fronts_at_equal_alignment(runs):
    for run in runs:
        save_fronts(run)
    summary = summary_of(runs)
    limit = summary.attainable
    assert (limit.samples, limit.ratio, limit.confidence) == (256, 32, 0.95)
    # At alignment 6 the fronts have 0.3 and 0.365.
    for name, diversity in ((GRPO, 0.25), ("emoji", 0.325)):
        share = limit.share(name, 0.5)
        assert (share.level, share.value) == pytest.approx((6.0, diversity))
        assert (share.kl, share.best) == pytest.approx((0.3, 0.365))
        assert share.estimate == pytest.approx((diversity - 0.3) / 0.065)
    points = {p.update: p.attained for p in summary.method("emoji").points}
    assert points[20] == pytest.approx(0.025 / 0.065, rel=1e-5)
    by_reward = summary_of(runs, axis="reward").attainable.share("emoji", 0.5)
    assert by_reward.level == pytest.approx(6.1)
    assert by_reward.estimate == pytest.approx(0.025 / 0.065)
    assert from_json(to_json(summary)) == summary


@pytest.mark.parametrize(
    ("width", "share", "why"), [(0.06, 0.5, "nothing to win there"), (0.01, 0.5, None)]
)
def test_no_share_where_the_fronts_are_nearer_than_their_intervals(runs, width, share, why):
    for run in runs:
        save_fronts(run, width=width)
    summary = summary_of(runs)
    cell = summary.attainable.share("emoji", share)
    assert cell.why == why
    assert (cell.estimate is None) == (why is not None)
    assert all((p.attained is None) == (why is not None) for p in summary.method("emoji").points)


def test_beyond_the_fronts_and_below_them(runs):
    save_fronts(runs[0])
    axis = attainable_records.load(runs[0]).entries[0].fronts[0].axes["alignment_heldout"]
    assert axis.between(7.1) is None
    assert axis.between(3.0) == axis.between(5.0)
    assert axis.between(6.025).kl == pytest.approx(0.2975)
    holes = axis.model_copy(
        update={"kl": axis.kl.model_copy(update={"value": [None] * 40 + [0.2]})}
    )
    assert holes.between(5.5) is None


def test_only_what_all_runs_have_is_drawn(runs):
    assert summary_of(runs).attainable is None
    assert "attainable" not in to_json(summary_of(runs))
    save_fronts(runs[0])
    half = summary_of(runs)
    assert (half.attainable, half.unattainable) == (None, ["drift"])
    said = notes.notes(half)[-1]
    assert said.startswith("no attainable fronts: drift have none")
    assert "(`drift eval RUN --attainable --split test` makes them)" in said
    study = gather([run.path for run in runs], "test")
    made = f"(`drift eval {runs[1].path} --attainable --split test --prompts 2` makes them)"
    assert made in notes.notes(half, study)[-1]
    save_fronts(runs[1], samples=128, ratio=16.0)
    assert summary_of(runs).unattainable == ["plain", "drift"]
    save_fronts(runs[1])
    for run in runs:
        save_fronts(run, samples=512, ratio=20.0)
        save_fronts(run, samples=512, ratio=64.0)
    assert (summary_of(runs).attainable.samples, summary_of(runs).attainable.ratio) == (512, 64)
    assert summary_of(runs, diversity="vendi").attainable is None
    # Another reward is another front.
    options = ["reward.options={embedded = {}}"]
    place, prompts = runs[0].path.parent / "kl", ("rose", "owl")
    other = make_run(place, recipe="emoji-kl", spread=0.0, prompts=prompts, overrides=options)
    file = attainable_records.FILE
    (other.path / file).write_bytes((runs[0].path / file).read_bytes())
    assert summary_of([*runs, other]).unattainable == ["kl"]


def test_a_damaged_file_is_one_line(runs):
    (runs[0].path / attainable_records.FILE).write_text("{}}")
    with pytest.raises(RecordError, match=r"attainable.json: not what `drift eval --attainable`"):
        summary_of(runs)
    ((_, text, _),) = attainable.of_run(runs[0])
    assert "attainable.json" in text


def test_the_page_and_the_plot_have_both_fronts(runs):
    for run in runs:
        save_fronts(run)
    summary = summary_of(runs)
    *_, table = gain_tables.tables(summary)
    assert table.title == "Share of the attainable gain"
    assert [row.method for row in table.rows] == [GRPO, "emoji"]
    assert [table.rows[1].cells[1].text, table.rows[0].cells[1].text] == ["38%", "−77%"]
    assert table.rows[1].cells[1].detail == "0.325 between 0.300 and 0.365"
    html = comparison.render(summary, [])
    for text in (
        "KL front",
        "diversity front",
        "N = 256 images of each prompt, none more than c = 32",
    ):
        assert text in html
    plain = summary.model_copy(update={"attainable": None})
    assert front.files(plain)["svg"] != front.files(summary)["svg"]
    assert "KL front" not in comparison.render(plain, [])
    alone = summary_of(runs[:1])
    assert [table.title for table in gain_tables.tables(alone)] == ["Share of the attainable gain"]


def test_the_report_of_a_run_begins_with_how_much_there_is_to_win(runs):
    assert "How much there is to win" not in page.render(runs[0])
    save_fronts(runs[0])
    html = page.render(runs[0])
    assert html.index("How much there is to win") < html.index("Base against tuned")
    assert "2 test prompts" in html
    assert "at equal reward up to" in html
    solved = attainable_records.load(runs[0]).entries[0].fronts[0]
    gain = solved.axes["reward"].gain.value[36]
    assert f"up to +{gain:.0%} diversity" in attainable.sentence(solved, "reward")
    save_fronts(runs[1], width=0.1)
    (nothing,) = attainable_records.load(runs[1]).entries[0].fronts
    assert attainable.sentence(nothing, "reward").startswith(attainable.NOTHING)
    assert {row["gain"] for row in attainable.rows(nothing, "reward")} == {"within intervals"}
    assert np.isfinite([row["level"] for row in attainable.numbers(solved, "reward")]).all()
