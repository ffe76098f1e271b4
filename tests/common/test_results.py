"""The results page: its tables and plots are those of the stored comparisons, and nothing else."""

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from common import config as configuration
from common.commands import sweep as sweep_command
from common.comparison.methods import gather
from common.comparison.summarise import summarise
from common.comparison.summary import from_json, to_json
from common.runs.directory import MAY_CHANGE
from common.sweep import plan as planning
from scripts import low_rate_study, make_results, noise_course, run_study
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
    assert (
        "'gain' is none of front, course, gains, shares, drift, points, protocol" in result.output
    )


def test_the_page_of_noise_has_its_table_and_the_course_of_each_measure(tmp_path):
    runs, folder = tmp_path / "runs", tmp_path / "docs" / "results"
    make_run(runs / "grpo", spread=0.0)
    coin = {"recipe": "emoji-neutral", "scorers": ("embedded",)}
    make_run(runs / "coin", lambda done: (5 - done, 0.4 - 0.1 * done), spread=0.0, **coin)
    folder.mkdir(parents=True)
    summary = summarise(gather([runs], "test"), "emoji-grpo", replicas=100)
    (folder / "noise.json").write_text(to_json(summary))
    (folder.parent / "results.md").write_text("# Results\n")
    page = folder.parent / "noise.md"
    blocks = (
        f"<!-- results: noise {part} -->\nold\n<!-- end -->\n" for part in ("drift", "course")
    )
    page.write_text("".join(blocks))
    assert run("--check", "--docs", folder.parent).exit_code == 1
    assert run("--docs", folder.parent).exit_code == 0
    text = page.read_text().replace("\N{MINUS SIGN}", "-")
    assert "| noise alone, 1 neutral run | -1.00 | -1.00 | -0.100 |" in text
    assert "Not fit to show what a reward does: 1 neutral run of 40 updates moves" in text
    assert "reward +2.00 with a reward and -1.00 to -1.00 without" in text
    assert "diversity -0.300 with a reward and -0.100 to -0.100 without" in text
    assert "](results/noise.svg)" in text
    svg = (folder / "noise.svg").read_text()
    for words in ("reward", "held-out alignment", "diversity", "noise alone, 1 coin", "updates"):
        assert f">{words}<" in svg
    before = page.read_bytes(), svg
    assert run("--check", "--docs", folder.parent).exit_code == 0
    assert run("--docs", folder.parent).exit_code == 0
    assert (page.read_bytes(), (folder / "noise.svg").read_text()) == before
    course = noise_course.of_neutral(summary, summary.noise, "diversity")
    assert course == [pytest.approx([0, -0.025, -0.05, -0.075, -0.1], abs=1e-5)]
    plain = noise_course.of_baseline(summary, "reward")
    assert plain[-1] == pytest.approx(2.0, abs=1e-5)
    without = summary.model_copy(update={"noise": None})
    (folder / "noise.json").write_text(to_json(without))
    assert "noise: the comparison has no neutral runs" in run("--docs", folder.parent).output


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


@pytest.fixture
def commands(monkeypatch):
    """The `drift` commands of a part of variable length; a comparison writes an empty file."""
    called = []

    def record(*words):
        called.append([str(word) for word in words])
        if words[0] == "compare":
            out = Path(words[words.index("--out") + 1])
            out.mkdir(parents=True)
            (out / "compare.json").write_text("{}")

    monkeypatch.setattr(low_rate_study, "drift", record)
    return called


def planned(commands):
    """Every run that the recorded sweeps would make."""
    for words in commands:
        if words[0] == "sweep":
            made = sweep_command.sweep.make_context("sweep", list(words[1:])).params
            yield from planning.plan(
                made["recipes"], over=made["over"], seeds=made["seeds"], overrides=made["overrides"]
            )


def study(*arguments):
    return CliRunner().invoke(run_study.main, [str(a) for a in arguments])


def test_the_study_at_the_low_rate_has_drift_twice_as_long_and_three_coins(tmp_path, commands):
    options = ["--seeds", "0", "--updates", 80, "--jobs", 1, "--results", tmp_path / "results"]
    assert study(tmp_path, "low-rate", *options).exit_code == 0
    runs = list(planned(commands))
    by_method = {}
    for run in runs:
        by_method.setdefault(run.config.run.recipe, []).append(run.config)
    assert {name: [each.run.updates for each in made] for name, made in by_method.items()} == {
        "emoji-grpo": [80],
        "emoji-shaping": [160],
        "emoji": [160],
        "emoji-neutral": [80, 80, 80],
    }
    assert {run.config.optimizer.learning_rate for run in runs} == {2.5e-4}
    for name in ("emoji-shaping", "emoji"):
        assert by_method[name][0].drift.shaping.weight == 0.8
        assert by_method[name][0].objective.statistics == "global"
    coins = [config.reward.options["coin"]["seed"] for config in by_method["emoji-neutral"]]
    assert coins == [0, 1, 2]
    stored = sorted(path.stem for path in (tmp_path / "results").iterdir())
    assert stored == ["low-rate", "low-rate-heldout", "low-rate-unseen"]


def test_neutral_runs_differ_from_plain_grpo_in_their_reward_alone(tmp_path, commands):
    options = ["--rate", 5e-4, "--updates", 12, "--results", tmp_path / "results"]
    assert study(tmp_path, "neutral", *options).exit_code == 0
    assert [path.stem for path in (tmp_path / "results").iterdir()] == ["noise-0.0005"]
    plain, *_, last = (run.config for run in planned(commands))
    assert plain.optimizer.learning_rate == 5e-4
    assert plain.run.updates == last.run.updates == 12
    changed = configuration.differences(plain, last, MAY_CHANGE | {"run.seed"})
    assert all(text.startswith("reward.") for text in changed)


def test_only_parts_of_variable_length_take_a_length(tmp_path, commands):
    refused = study(tmp_path, "main", "--updates", 5)
    assert refused.exit_code == 2
    assert "the protocol of main is fixed: it takes no --updates" in refused.output
    assert "takes no --rate" in study(tmp_path, "low-rate", "--rate", 1e-3).output
    assert commands == []


@pytest.mark.parametrize("name", run_study.LEVERS)
def test_every_lever_changes_the_recipe_it_is_compared_with(name):
    recipe = configuration.load("emoji", run_study.COMMON)
    changed = configuration.load("emoji", (*run_study.COMMON, *run_study.LEVERS[name]))
    moved = configuration.differences(recipe, changed, frozenset())
    assert len(moved) == len(run_study.LEVERS[name])


def test_the_published_page_is_that_of_its_data(tmp_path):
    copy = shutil.copytree(DOCS, tmp_path / "docs")
    assert run("--check", "--docs", copy).exit_code == 0


def test_the_readme_and_the_page_begin_with_the_published_gains():
    summary = from_json((DOCS / "results" / "low-rate.json").read_bytes())
    gains = (
        summary.gain("emoji-shaping", "diversity", 0.75),
        summary.gain("emoji-shaping", "alignment", 0.95),
    )
    for page in (DOCS.parent / "README.md", DOCS / "results.md"):
        text = page.read_text()
        for gain in gains:
            assert f"{gain.estimate:+.0%}"[:-1] + " %" in text, page
