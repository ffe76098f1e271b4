"""A comparison as data: it holds all that its page shows, and the page and plots say no more."""

import html
import json
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from common.comparison import methods, summary as summaries
from common.comparison.summarise import summarise
from common.comparison.summary import SummaryError, from_json, to_json
from common.evaluation.records import MEASURES, Variant
from common.report import comparison, front, other_axes
from common.report.figure import LIGHT

HERE = Path(__file__)
STUDY = runpy.run_path(str(HERE.with_name("synthetic_study.py")))
Page = runpy.run_path(str(HERE.with_name("test_report.py")))["Page"]
make_run, BASE, PROMPTS = STUDY["make_run"], STUDY["BASE"], STUDY["PROMPTS"]
GRPO, DRIFT = "emoji-grpo", "emoji"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        make_run(folder / f"grpo{seed}", seed=seed, grids=True)
        make_run(
            folder / f"drift{seed}", STUDY["better_curve"], recipe=DRIFT, seed=seed, grids=True
        )
        for weight in (0.02, 0.1):
            make_run(
                folder / f"kl{weight}-{seed}",
                lambda done, weight=weight: (5 + 1.6 * done, 0.4 - (0.2 + weight) * done),
                recipe="emoji-kl", seed=seed, overrides=[f"objective.kl_weight={weight}"],
            )  # fmt: skip
    return methods.gather([folder], "test")


@pytest.fixture(scope="module")
def summary(study):
    return summarise(study, GRPO, axis="alignment_heldout", replicas=200)


@pytest.fixture(scope="module")
def source(summary, study):
    return comparison.render(summary, comparison.panels(summary, study))


def exact(study, name, update):
    """(alignment, diversity) of a method's only strength, straight from the records."""
    runs = study.method(name).strengths[0].runs
    records = [run.records[Variant(update)] for run in runs]
    return (
        np.mean([record.mean("alignment_heldout") for record in records]),
        np.mean([record.mean("diversity") for record in records]),
    )


def test_gains_are_those_of_the_curves(study, summary):
    """Curves are straight, so the values at a level are known from the ends."""
    (a0, d0), (a1, d1) = exact(study, GRPO, 0), exact(study, GRPO, 40)
    (b0, e0), (b1, e1) = exact(study, DRIFT, 0), exact(study, DRIFT, 40)
    level = a0 + 0.75 * (a1 - a0)
    theirs = d0 + 0.75 * (d1 - d0)
    ours = e0 + (level - b0) / (b1 - b0) * (e1 - e0)
    gain = summary.gain(DRIFT, "diversity", 0.75)
    np.testing.assert_allclose(
        (gain.level, gain.value, gain.baseline, gain.estimate),
        (level, ours, theirs, ours / theirs - 1),
        rtol=1e-4,  # six digits are stored; points are joined from means of rounded noise
    )
    assert gain.low < gain.estimate < gain.high
    assert gain.reached == 1
    over = summary.gain(DRIFT, "alignment", 0.8)
    assert over.level == pytest.approx(0.8 * d0, rel=1e-5)
    expected = (over.value - a0) / (over.baseline - a0) - 1
    assert over.estimate == pytest.approx(expected, rel=1e-3)
    units = summary.gain(DRIFT, "alignment_units", 0.8)
    assert units.estimate == pytest.approx(over.value - over.baseline, rel=1e-3)


def test_what_is_not_reached_says_why(summary):
    stays = summary.gain(DRIFT, "alignment", 0.6)
    assert (stays.estimate, stays.low, stays.why) == (None, None, "stays more diverse")
    assert stays.value is None
    assert stays.baseline is not None
    short = summary.gain("emoji-kl", "diversity", 0.9)
    assert (short.estimate, short.why) == (None, "is never as aligned")


def test_points_hold_every_measure_and_every_seed(study, summary):
    drift = summary.method(DRIFT)
    assert [point.update for point in drift.points] == [10, 20, 30, 40]
    for point in drift.points:
        assert point.measures.keys() == {*MEASURES, "frechet"}
        alignment, diversity = exact(study, DRIFT, point.update)
        assert point.measures["alignment_heldout"] == pytest.approx(alignment, rel=1e-5)
        assert np.mean(point.by_seed["diversity"]) == pytest.approx(diversity, rel=1e-5)
        assert point.front
    kl = summary.method("emoji-kl")
    assert [(point.strength, point.front) for point in kl.points] == (
        [(0, True)] * 4 + [(1, False)] * 4
    )
    changes = [strength.changes for strength in kl.strengths]
    assert changes == [{"objective.kl_weight": 0.02}, {"objective.kl_weight": 0.1}]
    assert summary.settings["objective.kl_weight"] == 0
    assert summary.base["alignment_heldout"] == pytest.approx(exact(study, GRPO, 0)[0], rel=1e-5)


def test_it_survives_json_and_is_the_same_every_time(study, summary):
    text = to_json(summary)
    assert from_json(text) == summary
    assert to_json(from_json(text)) == text
    assert to_json(summarise(study, GRPO, axis="alignment_heldout", replicas=200)) == text
    assert json.loads(text)["format"] == 1
    points = [line for line in text.splitlines() if '"by_seed"' in line]
    assert len(points) == 4 + 4 + 8  # a line each, so that changes of stored results can be read
    assert "/" not in text  # no folders


def test_a_baseline_that_gained_nothing_has_no_levels(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / f"grpo{seed}", lambda done: (5 - done, 0.4 - 0.01 * done), seed=seed)
        make_run(tmp_path / f"drift{seed}", lambda done: (5 + done, 0.4), recipe=DRIFT, seed=seed)
    fallen = summarise(methods.gather([tmp_path], "test"), GRPO, replicas=100)
    gain = fallen.gain(DRIFT, "diversity", 0.25)
    assert (gain.estimate, gain.level, gain.why) == (
        None,
        None,
        "the baseline gained nothing over the base model",
    )
    axes = Figure().subplots()
    front._draw(axes, fallen, LIGHT)
    low, high = axes.get_ylim()
    assert high - low < 0.1, "no line of a level that no curve reaches stretches the plot"
    page = html.unescape(comparison.render(fallen, []))
    assert "the base model's alignment, over which emoji-grpo gained nothing" in page
    assert "Dotted, where a curve reaches them: shares of the base model" in page


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.update(format=2), "format: Input should be 1"),
        (lambda d: d.pop("gains"), "gains: Field required"),
        (lambda d: d["methods"][0].update(colour="red"), "methods.0.colour: Extra inputs"),
    ],
)
def test_other_json_is_refused(summary, change, expected):
    document = json.loads(to_json(summary))
    change(document)
    with pytest.raises(SummaryError, match=re.escape(expected)):
        from_json(json.dumps(document))
    with pytest.raises(SummaryError, match="not a comparison"):
        from_json("{")


def test_one_seed_and_other_measures(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", STUDY["better_curve"], recipe=DRIFT)
    study = methods.gather([tmp_path], "test")
    got = summarise(study, GRPO, axis="reward", diversity="modes", reading="path", replicas=9)
    gain = got.gain(DRIFT, "diversity", 0.5)
    # modes = 1 + 8 diversity: halfway the baseline has 1 + 8 x .25, the method 1 + 8 x .325.
    assert gain.estimate == pytest.approx(3.6 / 3.0 - 1, rel=0.01)
    assert gain.level == pytest.approx(BASE[0] + 0.1 + 1, rel=0.01)
    assert (gain.low, gain.high) == (None, None)
    page = comparison.render(got, [])
    assert "One seed: the spread between runs is unknown, so there are no intervals" in page
    assert "More modes at equal alignment" in page


def test_matched_points_are_nearest_to_the_baselines_level(summary):
    points = summary.matched()
    level = summary.gain(DRIFT, "diversity", 0.75).level
    for name, point in points.items():
        distances = [abs(summary.axes(p)[0] - level) for p in summary.method(name).points]
        assert abs(summary.axes(point)[0] - level) == min(distances)
    assert {name: point.update for name, point in points.items()} == {
        GRPO: 30, DRIFT: 30, "emoji-kl": 40,
    }  # fmt: skip


# --- the page -------------------------------------------------------------------------------------


def test_the_page_is_whole_and_needs_nothing_else(source):
    page = Page(source)
    assert page.all("script") == []
    for tag in page.all("img"):
        assert tag["src"].startswith("data:image/png;base64,")
    assert set(re.findall(r"https?://[\w.]+", source)) <= {"http://www.w3.org"}  # of SVG
    assert "NaN" not in page.text
    assert "None" not in page.text


def test_the_tables_say_what_the_summary_says(summary, source):
    text = Page(source).text
    gain = summary.gain(DRIFT, "diversity", 0.75)
    assert f"{gain.estimate:+.0%} {gain.low:+.0%} to {gain.high:+.0%}" in text
    area = summary.gain(DRIFT, "hypervolume")
    assert f"emoji {area.estimate:.2f} {area.low:.2f} to {area.high:.2f}" in text
    assert "not reached stays more diverse" in text
    assert "not reached is never as aligned" in text
    assert "More diversity at equal alignment where emoji-grpo has made that share" in text


def test_every_point_can_be_reached_and_says_what_it_is(summary, source):
    spots = [tag for tag in Page(source).all("span") if "spot" in (tag.get("class") or "")]
    points = sum(len(method.points) for method in summary.methods)
    assert len(spots) == 2 * (1 + points)  # for wide and for narrow screens
    assert {spot["tabindex"] for spot in spots} == {"0"}
    labels = [spot["aria-label"] for spot in spots]
    (point,) = [p for p in summary.method(DRIFT).points if p.update == 30]
    assert any(
        label.startswith(
            f"emoji, update 30, held-out alignment {summary.axes(point)[0]:.2f} (seeds"
        )
        for label in labels
    )
    assert any(label.startswith("emoji-kl, kl_weight 0.1, update 20, held-out") for label in labels)
    assert any(label.startswith("base model, before tuning, held-out") for label in labels)


def test_pictures_of_every_method_stand_side_by_side(source, summary):
    alts = [tag["alt"] for tag in Page(source).all("img")]
    assert alts == [
        f"Images of “{prompt}” by {name}"
        for name in ("base model", GRPO, DRIFT)
        for prompt in PROMPTS
    ]
    assert "No picture was kept." in source  # of emoji-kl


def test_a_damaged_picture_is_reported(study, summary):
    run = study.method(DRIFT).strengths[0].runs[0]
    file = run.path / "evaluation" / run.records[Variant(30)].grid
    kept = file.read_bytes()
    try:
        file.write_bytes(kept[:99])
        assert f"The picture {file.name} is damaged." in str(comparison.panels(summary, study))
        file.unlink()
        assert f"The picture {file.name} is missing." in str(comparison.panels(summary, study))
    finally:
        file.write_bytes(kept)


def test_configurations_begin_with_what_differs(source):
    text = Page(source).text
    weak = text.index("emoji-kl, kl_weight 0.02 seed 0, seed 1")
    first = text.index("objective.kl_weight 0.02 emoji-grpo: 0.0", weak)
    assert first < text.index("adapter.rank 8", weak)
    assert "drift.subset.rule mad emoji-grpo: none" in text


def test_html_in_names_is_shown_and_not_obeyed(tmp_path):
    name = '<script>alert("x")<script>'
    prompts = ("<b>", "a & b", "'\" onerror=1", "x")
    make_run(tmp_path / "a", prompts=prompts, grids=True)
    make_run(tmp_path / "b", name=name, prompts=prompts, grids=True, recipe=DRIFT)
    study = methods.gather([tmp_path], "test")
    got = summarise(study, GRPO, replicas=9)
    page = Page(comparison.render(got, comparison.panels(got, study)))
    assert page.all("script") == []
    assert name in page.text
    assert all(prompt in page.text for prompt in prompts)


# --- plots ----------------------------------------------------------------------------------------


def test_the_reward_is_the_default_and_the_other_alignments_stand_beside_it(study, summary):
    (svg,) = other_axes.plots(summary)
    assert "diversity against reward" in svg
    by_reward = summarise(study, GRPO, replicas=9)
    assert by_reward.alignment == "reward"
    (svg,) = other_axes.plots(by_reward)
    assert "diversity against held-out alignment" in svg
    page = comparison.render(by_reward, [])
    assert svg in page
    assert "The same points on the other axes of alignment" in page
    assert f"{GRPO} reaches " in svg
    for number in range(len(by_reward.methods)):
        assert f"var(--{front.marks(by_reward)[number].colour})" in svg


def test_plots_are_drawn_from_stored_json_alone(summary, tmp_path):
    stored = from_json(to_json(summary))
    plots = front.files(stored)
    assert plots == front.files(summary)
    assert plots["png"].startswith(b"\x89PNG")
    svg = plots["svg"].decode()
    HTMLParser().feed(svg)
    for words in (GRPO, DRIFT, "emoji-kl", "base model", "held-out alignment", "75%", "80%"):
        assert f">{words}<" in svg
    assert "#0101" not in svg  # colours of the page are no colours of a file


def test_points_on_the_page_lie_where_the_plot_has_them(summary):
    """Left to right by alignment and top to bottom by diversity, in proportion."""
    wide, narrow = front.views(summary)
    assert (wide.kind, narrow.kind) == ("wide", "narrow")
    axes = [summary.origin, *(summary.axes(p) for m in summary.methods for p in m.points)]
    for view in (wide, narrow):
        assert not re.search(r"#[0-9a-f]{6}\b", view.svg)
        spots = np.array([(spot.left, spot.top) for spot in view.spots])
        assert (spots > 0).all()
        assert (spots < 1).all()
        for column, sign in ((0, 1), (1, -1)):
            correlation = np.corrcoef(spots[:, column], np.array(axes)[:, column])[0, 1]
            assert correlation == pytest.approx(sign, abs=1e-9)


def test_every_method_has_a_look_of_its_own(summary):
    crowd = [summary.methods[0]] + [
        summary.methods[1].model_copy(update={"name": str(n)}) for n in range(30)
    ]
    looks = front.marks(summary.model_copy(update={"methods": crowd}))
    assert len({(mark.colour, mark.shape, mark.dashed) for mark in looks}) == 31
    assert (looks[0].colour, looks[0].dashed) == ("ink", True)


def test_measures_all_have_names():
    assert front.NAMES.keys() == set(summaries.ALL_MEASURES)


def test_the_style_sheet_has_the_colours_of_files():
    css = "".join(
        (HERE.parents[2] / "common/report" / name).read_text()
        for name in ("report.css", "compare.css")
    )
    light = css.replace(re.search(r"@media screen.*?\n}\n", css, flags=re.S)[0], "")
    for name, colour in front.figure.LIGHT.items():
        assert f"--{name}: {colour};" in light
