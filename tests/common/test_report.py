"""The report says what a run's records say, in any state of the run, as one valid file.

Runs are synthetic: their numbers are made here, so that what the page must show is known.
"""

import base64
import io
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import pictures, report
from common.report.page import render, warnings
from common.report.plots import plots
from common.runs.directory import RunDirectory, RunError
from common.runs.files import WriteError
from tests.common.synthetic_run import (
    ENDS_ONLY,
    ENVIRONMENT,
    PROMPTS,
    emoji_images,
    evaluation_record,
    make_run,
    metrics_record,
)


class Page(HTMLParser):
    """The page as a browser would read it: every tag, attribute and text."""

    VOID = frozenset({"meta", "link", "img", "br", "hr"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute given twice in <{tag}>"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> closes itself outside SVG"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


CHANGES = ('prompts.names=["rose", "owl"]', "drift.shaping.weight=0.7")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return make_run(tmp_path_factory.mktemp("runs") / "finished", overrides=CHANGES)


@pytest.fixture(scope="module")
def page(finished: RunDirectory) -> Page:
    return Page(report.build(finished).read_text(encoding="utf-8"))


# --- the file -------------------------------------------------------------------------------


def test_the_report_is_one_valid_file_that_loads_nothing(page: Page, finished: RunDirectory):
    assert (page.tags[0][0], page.all("html")[0]["lang"]) == ("html", "en")
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (name, value)
    source = finished.report.read_text(encoding="utf-8")
    assert "@import" not in source
    assert re.findall(r"url\((?!#)", source) == []
    assert re.findall(r"https?://", source) == []
    assert "default-src 'none'" in source


def test_ids_are_unique_and_every_reference_finds_its_target(page: Page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for name in ("href", "xlink:href", "aria-labelledby"):
            value = attributes.get(name) or ""
            if value and (name == "aria-labelledby" or value[0] == "#"):
                assert value.removeprefix("#") in ids
        for target in re.findall(r"url\(#([^)]*)\)", " ".join(map(str, attributes.values()))):
            assert target in ids


def test_pictures_and_plots_say_what_they_show(page: Page):
    assert all(image["alt"] for image in page.all("img"))
    drawings = page.all("svg")
    assert len(drawings) == 12
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in drawings)
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(header.get("scope") in ("row", "col") for header in page.all("th"))


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, finished: RunDirectory):
    first = report.build(finished).read_bytes()
    again = make_run(tmp_path / "again", overrides=CHANGES)
    assert report.build(again).read_bytes() == first
    assert report.build(again) == again.path / "report.html"
    assert [file.name for file in again.path.iterdir() if ".tmp" in file.name] == []


def test_no_matplotlib_setting_of_the_user_changes_a_report(finished: RunDirectory):
    import matplotlib as mpl

    before = render(finished)
    with mpl.rc_context({"xtick.major.size": 9, "font.family": "serif", "font.size": 30}):
        assert render(finished) == before


def test_nothing_heavy_is_imported_before_a_report_is_built():
    program = "import sys, common.report; print({'matplotlib', 'jinja2'} & sys.modules.keys())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "set()"


# --- what it says ---------------------------------------------------------------------------


def test_the_title_says_what_was_run_and_how_far_it_got(page: Page, tmp_path: Path):
    assert page.text.startswith("emoji, cpu, seed 0 · DRIFT")
    assert "Finished: 60 updates" in page.text
    assert "5,760 images, 4 min 13 s" in page.text  # four evaluations included
    stopped = make_run(tmp_path / "stopped", done=23, evaluated=(0, 20))
    assert "Stopped at update 23 of 60" in Page(render(stopped)).text


def test_the_headline_compares_the_first_and_the_last_evaluation(page: Page):
    rows = re.search(r"Measure (Base .*?) Pictures", page.text)
    assert rows is not None
    assert rows[1] == (
        "Base update 0 Tuned update 60 Difference "
        "Reward what training maximises 5.42 5.97 +0.55 "
        "Held-out alignment 10 × cosine, by a scorer not trained on 5.77 6.23 +0.46 "
        "Diversity mean cosine distance between images of a prompt 0.392 0.372 −0.020 95% of base "
        "High-frequency energy rises when images degrade 0.0412 0.0420 +0.0008 102% of base"
    )


def test_each_prompt_has_its_own_strip_before_and_after(page: Page):
    between = [x for x in page.all("img") if ", Update " in (x["alt"] or "")]
    assert len(between) == 2 * len(PROMPTS), "the evaluations after 20 and 40 updates"
    images = [image for image in page.all("img") if image not in between]
    assert len(images) == 2 * len(PROMPTS)
    expected = {
        f"Images of “{prompt}” by the {side} model": strip
        for side, diverse in (("base", True), ("tuned", False))
        for prompt, strip in zip(
            PROMPTS,
            pictures.rows(pictures.grid(emoji_images(PROMPTS, 8, diverse=diverse)), 4),
            strict=True,
        )
    }
    for image in images:
        content = base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(content)) as png:
            np.testing.assert_array_equal(np.asarray(png), expected.pop(image["alt"] or ""))
    assert not expected


def test_every_curve_is_drawn_and_spoken(page: Page):
    plots = [figure["id"] for figure in page.all("figure") if figure.get("class") == "plot"]
    assert plots == [
        *["plot-reward", "plot-alignment", "plot-diversity", "plot-plane"],
        *["plot-subset-size", "plot-best-dropped", "plot-shaping", "plot-clip-fraction"],
        *["plot-kl", "plot-ratio", "plot-gradient-norm", "plot-time"],
    ]
    spoken = [svg["aria-label"] or "" for svg in page.all("svg")]
    assert "training scorer: 5.42 at update 0, 5.97 at update 60" in spoken[1]
    assert spoken[3] == (
        "Path from alignment 5.77, diversity 0.392 at update 0 "
        "to alignment 6.23, diversity 0.372 at update 60."
    )
    assert "rollout 66.0 s, 26%" in spoken[-1]


def test_the_configuration_emphasises_what_is_not_the_default(page: Page, finished: RunDirectory):
    source = finished.report.read_text(encoding="utf-8")
    emphasised = re.findall(r'<strong class="changed">([^<]*)</strong>', source)
    # The first is the word itself, in the sentence above the tables.
    assert {"rose, owl", "mad", "0.15", "terminal", "0.7"} <= set(emphasised[1:])
    assert not {"lora", "cads", "weighted_sum", "embedded = 10.0"} & set(emphasised)
    assert "default none" in source
    for name, key, value in (
        ("drift.subset", "rule", "mad"),
        ("optimizer", "weight_decay", "0.0001"),
        ("reward", "terms", "embedded = 10.0"),
    ):
        assert re.search(rf"{name} Key Value .*{key} [^.]* {value}", page.text), (name, key)


def test_the_environment_is_listed(page: Page):
    assert "Started at update 0 Fact Value backend cpu python 3.11.9" in page.text
    assert "torch.version 2.13.0 torch.tf32 no The whole run Fact Value noise_f" in page.text


def test_after_a_hand_over_the_latest_start_heads_and_all_are_listed(tmp_path: Path):
    run = make_run(tmp_path / "run", done=9, evaluated=())
    for update, backend in ((3, "cpu"), (5, "mlx"), (9, "mlx")):
        run.adopt(run.config, {**ENVIRONMENT, "backend": backend}, update=update)
    text = Page(render(run)).text
    assert "emoji mlx seed 0 Stopped at update 9 of 60" in text
    latest, first = (
        text.index(f"Started at update {updates} Fact Value backend {backend} python")
        for updates, backend in (("5, 9", "mlx"), ("0, 3", "cpu"))
    )
    assert latest < first
    assert text.count("Started at") == 2


def test_html_in_a_prompt_is_shown_and_not_obeyed(tmp_path: Path):
    prompts = ['<script>alert("x")</script>', "a & b", "</figcaption><b>", "'\" onerror=1"]
    page = Page(render(make_run(tmp_path / "run", **ENDS_ONLY, prompts=prompts)))
    assert page.all("script") == page.all("b") == []
    for prompt in prompts:
        assert prompt in page.text
        assert f"Images of “{prompt}” by the base model" in [x["alt"] for x in page.all("img")]


def test_a_report_that_cannot_be_written_is_no_wrong_request(tmp_path: Path):
    run = make_run(tmp_path / "run", done=0, evaluated=())
    (run.report / "in the way").mkdir(parents=True)
    with pytest.raises(WriteError, match=rf"^cannot write {run.report}: "):
        report.build(run)


# --- runs that are not whole ----------------------------------------------------------------


def test_a_run_that_has_not_begun_has_a_report(tmp_path: Path):
    page = Page(render(make_run(tmp_path / "run", done=0, evaluated=())))
    for words in ("Stopped at update 0 of 60", "No evaluation yet", "No update yet"):
        assert words in page.text
    assert "No warnings." in page.text
    assert page.all("svg") == page.all("img") == []


def test_one_evaluation_is_shown_without_a_comparison(tmp_path: Path):
    page = Page(render(make_run(tmp_path / "run", done=3, evaluated=(0,))))
    assert "Only one evaluation so far" in page.text
    assert "5.42 – –" in page.text
    assert len(page.all("img")) == len(PROMPTS)


def test_what_was_not_measured_is_left_out(tmp_path: Path):
    run = make_run(tmp_path / "run", done=0, evaluated=())
    for update in range(1, 4):
        nothing = dict.fromkeys(metrics_record(1, 60), math.nan)
        run.append_metrics(
            nothing | {"update": update, "reward/mean": math.nan if update == 2 else 5}
        )
    page = Page(render(run))
    assert [x["id"] for x in page.all("figure") if x.get("class") == "plot"] == ["plot-reward"]
    assert "NaN" not in page.text
    assert "nan" not in page.text.split()


@pytest.mark.parametrize("damage", ["missing", "truncated", "not a picture"])
def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path, damage: str):
    run = make_run(tmp_path / "run", **ENDS_ONLY)
    file = run.path / "samples" / "000060.png"
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:999] if damage == "truncated" else b"text")
    page = Page(render(run))
    verdict = "is missing" if damage == "missing" else "is damaged"
    assert f"update 60 cannot be shown: samples/000060.png {verdict}." in page.text
    assert len(page.all("img")) == len(PROMPTS)
    assert len(re.findall(r"no picture\b", page.text)) == len(PROMPTS)


def test_a_grid_that_does_not_split_is_shown_whole(tmp_path: Path):
    prompts = ["more", "prompts", "than", "there", "are"]
    run = make_run(tmp_path / "run", **ENDS_ONLY, prompts=prompts)
    page = Page(render(run))
    assert [x["alt"] for x in page.all("img")] == [
        f"Images of “more, prompts, than, there, are” by the {side} model"
        for side in ("base", "tuned")
    ]


# --- warnings -------------------------------------------------------------------------------

HEALTHY = [metrics_record(update, 3) for update in (1, 2, 3)]


def judged(**tuned: float) -> str:
    return " ".join(warnings(HEALTHY, [evaluation_record(0), evaluation_record(1, **tuned)]))


def test_a_healthy_run_has_no_warnings(page: Page):
    assert judged() == ""
    assert "No warnings." in page.text
    assert page.text.count("warning") == 1


@pytest.mark.parametrize(
    ("tuned", "words"),
    [
        ({"high_frequency": 0.0412 * 1.11}, "High-frequency energy rose by 11%"),
        ({"alignment_heldout": 5.27}, "while held-out alignment fell by 0.50: reward hacking"),
        ({"diversity": 0.392 * 0.49}, "Diversity fell to 49% of the base model's"),
        ({"reward": 5.32}, "The reward did not rise (5.42 to 5.32)"),
    ],
)
def test_each_bad_outcome_is_reported(tuned: dict[str, float], words: str):
    assert words in judged(**tuned)
    assert len(warnings(HEALTHY, [evaluation_record(0), evaluation_record(1, **tuned)])) == 1


@pytest.mark.parametrize(
    "tuned", [{"high_frequency": 0.0412 * 1.09}, {"diversity": 0.392 * 0.51}, {"reward": 5.43}]
)
def test_outcomes_just_within_bounds_are_not(tuned: dict[str, float]):
    assert judged(**tuned) == ""


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"objective/ratio_max": 3e-6}, "1 update, first of update 2, ratios were up to 3.0e-06"),
        ({"group/invalid": 5.0}, "5 samples had no finite reward"),
        ({"group/zero_std": 1.0}, "In 1 update every group had equal rewards"),
        ({"subset/fallback": 0.75}, "removed the signal of 25% of the groups"),
    ],
)
def test_each_bad_update_is_reported(update: dict[str, float], words: str):
    metrics = [HEALTHY[0], HEALTHY[1] | update, HEALTHY[2]]
    assert len(warnings(metrics, [])) == 1
    assert words in warnings(metrics, [])[0]


def test_nulls_raise_no_warning():
    nothing = [dict.fromkeys(HEALTHY[0], math.nan) | {"update": 1}] * 2
    unknown = [dict.fromkeys(evaluation_record(0), math.nan) | {"update": 0, "prompts": []}] * 2
    assert warnings(nothing, unknown) == []


def test_warnings_are_counted_at_the_top(tmp_path: Path):
    run = make_run(tmp_path / "run", done=1, updates=1, evaluated=(0,))
    run.append_evaluation(evaluation_record(1, update=1, diversity=0.1, grid="000000.png"))
    page = Page(render(run))
    assert "96 images, 10.5 s 1 warning Base" in page.text
    assert "Diversity fell to 26%" in page.text


# --- plots and pictures ---------------------------------------------------------------------


def test_a_deviation_of_zero_is_drawn_at_the_floor_and_spoken_as_zero():
    ratio = next(x for x in plots([metrics_record(5, 60)], []) if x.name == "ratio")
    assert "largest |ratio − 1|: 0 at update 5" in ratio.svg
    assert ">1e-9<" in ratio.svg


@pytest.mark.parametrize("value", ["x", "", [1.0], {}, 10**400])
def test_a_value_that_is_no_number_is_named(value):
    record = metrics_record(5, 60) | {"objective/kl": value}
    with pytest.raises(RunError, match=r"^the record of update 5 is damaged: objective/kl is no"):
        plots([metrics_record(4, 60), record], [])


def test_plots_use_the_pages_colours_only():
    for plot in plots(HEALTHY, [evaluation_record(0), evaluation_record(1, update=3)]):
        assert re.findall(r"#[0-9a-f]{6}\b", plot.svg) == [], plot.name
        assert "var(--accent)" in plot.svg
