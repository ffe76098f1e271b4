"""The results page: its tables and plots are those of the stored comparisons, and nothing else."""

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from common import config as configuration
from common.comparison.methods import gather
from common.comparison.summarise import summarise
from common.comparison.summary import from_json, to_json
from scripts import make_results, run_study
from tests.common.synthetic_study import better_curve, make_run

DOCS = Path(make_results.DOCS)
PAGE = """# Results
<!-- results: main protocol -->
<!-- end -->
<!-- results: main gains -->
old
<!-- end -->
<!-- results: main points -->
<!-- end -->
<!-- results: main front -->
<!-- end -->
the end
"""


@pytest.fixture
def docs(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / "runs" / f"a{seed}", seed=seed)
        make_run(tmp_path / "runs" / f"b{seed}", better_curve, recipe="emoji", seed=seed)
    study = gather(sorted((tmp_path / "runs").iterdir()), "test")
    summary = summarise(study, "emoji-grpo", replicas=100)
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    (folder / "main.json").write_text(to_json(summary))
    (folder.parent / "results.md").write_text(PAGE)
    return folder.parent


def run(*arguments):
    return CliRunner().invoke(make_results.main, [str(a) for a in arguments])


def test_the_page_is_filled_and_then_stays_unchanged(docs):
    assert run("--check", "--docs", docs).exit_code == 1
    assert run("--docs", docs).exit_code == 0
    text = (docs / "results.md").read_text()
    summary = from_json((docs / "results" / "main.json").read_bytes())
    gain = summary.gain("emoji", "diversity", 0.75)
    assert f"| {gain.estimate:+.0%} ({gain.low:+.0%} to {gain.high:+.0%}".replace("-", "−") in text
    assert "old" not in text
    assert text.startswith("# Results\n")
    assert text.endswith("the end\n")
    points = re.findall(r"^\| (?:emoji|emoji-grpo) \| update \d+ \|", text, re.MULTILINE)
    assert len(points) == sum(len(method.points) for method in summary.methods)
    assert (docs / "results" / "main.svg").read_bytes().startswith(b"<?xml")
    assert run("--check", "--docs", docs).exit_code == 0


def test_other_data_makes_another_page(docs):
    run("--docs", docs)
    file = docs / "results" / "main.json"
    summary = from_json(file.read_bytes())
    gain = summary.gain("emoji", "diversity", 0.75)
    file.write_text(file.read_text().replace(f'"estimate": {gain.estimate}', '"estimate": 9.87'))
    assert run("--check", "--docs", docs).exit_code == 1
    run("--docs", docs)
    assert "+987%" in (docs / "results.md").read_text()


def test_a_part_that_there_is_not_is_named(docs):
    page = docs / "results.md"
    page.write_text(page.read_text().replace("main gains", "main gain"))
    result = run("--docs", docs)
    assert result.exit_code == 1
    assert "'gain' is none of front, gains, shares, points, protocol" in result.output


def test_a_search_is_read_against_the_baseline_at_equal_alignment():
    def point(alignment, diversity):
        return {
            "update": 20,
            "alignment": alignment,
            "diversity": diversity,
            "high_frequency": 0.03,
        }

    data = {
        "protocol": "how",
        "baseline": "plain",
        "base": point(1.0, 0.5),
        "runs": [
            {"setting": "plain", "points": [point(2.0, 0.3), point(3.0, 0.2)]},
            {"setting": "other", "points": [point(1.5, 0.5), point(3.5, 0.9), point(2.5, 0.2)]},
        ],
    }
    rows = [line.split(" | ") for line in make_results.search(data).splitlines()[5:]]
    assert [row[0][2:] for row in rows] == ["plain", "plain", "other", "other", "other"]
    assert [row[4] for row in rows] == ["", "", "+25.0%", "", "\N{MINUS SIGN}20.0%"]


@pytest.mark.parametrize("name", run_study.PARTS)
def test_every_run_of_the_study_is_one_that_can_be_made(name):
    part = run_study.PARTS[name]
    for sweep in part.sweeps:
        for recipe in sweep.recipes:
            changes = [*sweep.common, f"run.updates={sweep.updates}", *sweep.settings]
            config = configuration.load(recipe, changes)
            held_out = config.prompts.source == "emoji-animals" and config.prompts.split == "train"
            assert held_out == (sweep.common is run_study.COMMON)
            assert config.run.updates == sweep.updates


@pytest.mark.parametrize("name", run_study.LEVERS)
def test_every_lever_changes_the_recipe_it_is_compared_with(name):
    recipe = configuration.load("emoji", run_study.COMMON)
    changed = configuration.load("emoji", (*run_study.COMMON, *run_study.LEVERS[name]))
    moved = configuration.differences(recipe, changed, frozenset())
    assert len(moved) == len(run_study.LEVERS[name])


def test_the_published_page_is_that_of_its_data(tmp_path):
    copy = shutil.copytree(DOCS, tmp_path / "docs")
    assert run("--check", "--docs", copy).exit_code == 0


def test_the_readme_shows_the_published_gains():
    summary = from_json((DOCS / "results" / "main.json").read_bytes())
    readme = (DOCS.parent / "README.md").read_text()
    for gain in (
        summary.gain("emoji", "diversity", 0.75),
        summary.gain("emoji", "alignment", 0.95),
    ):
        values = [gain.estimate, gain.low, gain.high]
        first, low, high = (f"{x:+.0%}".replace("-", "\N{MINUS SIGN}")[:-1] + " %" for x in values)
        assert f"{first} ({low} to {high})" in readme
