"""A report at any time: how the run goes, its time, its prompts, and the command that makes it."""

import json
import shlex

import pytest

from common import config as configuration, report
from common.report import by_prompt, course
from common.report.page import render
from tests.common.synthetic_run import ENDS_ONLY, ENVIRONMENT, evaluation_record, make_run
from tests.common.test_report import Page

BEGAN = {"began": "2026-01-01T00:00:00+00:00"}


def text_of(run):
    return Page(render(run)).text


def test_a_run_that_goes_on_says_so_while_it_has_the_lock(tmp_path):
    run = make_run(tmp_path / "run", done=3, evaluated=())
    run.adopt(run.config, ENVIRONMENT | {"began": "2000-01-01T00:00:00+00:00"}, update=3)
    with run.locked():
        text = text_of(run)
        assert "Running: update 3 of 60" in text
        assert int(text.partition(" h ")[0].rpartition(" ")[2]) > 200_000, "counted until now"
    assert "Ended without a word at update 3 of 60" in text_of(run)
    with run.locked():
        pass  # the report did not keep the lock


def test_a_failed_run_says_why_and_its_text_is_escaped(tmp_path):
    run = make_run(tmp_path / "run", done=3, evaluated=())
    run.end_start("failed: no <b>room</b> left", 75.0)
    page = Page(render(run))
    assert "Failed at update 3 of 60 288 images, 1 min 15 s" in page.text
    assert "Failed: no <b>room</b> left" in page.text
    assert page.all("b") == []
    run.adopt(run.config, ENVIRONMENT, update=3)
    run.end_start("stopped", 5.0)
    assert "Stopped at update 3 of 60 288 images, 1 min 20 s" in text_of(run)


@pytest.mark.parametrize("seconds", ["x", None, -5, True, [1]])
def test_times_that_are_no_numbers_count_as_not_there(tmp_path, seconds):
    run = make_run(tmp_path / "run", done=1, evaluated=())
    run.adopt(run.config, {"seconds": seconds, "began": "yesterday"}, update=1)
    assert course.course(run, run.metrics(), [], []).seconds == pytest.approx(4.07, abs=0.05)
    report.build(run)


OVERRIDES = (
    'prompts.names=["rose", "owl"]', "reward.terms.jpeg_compressibility=0.5",
    "objective.kl_weight=1e-05", "rollout.train_last_step=true", 'model.path="a b/it\'s \"x\".bin"',
)  # fmt: skip


@pytest.mark.parametrize("recipe", ["emoji", "emoji-grpo", "emoji-gardo"])
def test_the_command_makes_the_same_configuration(tmp_path, recipe):
    run = make_run(tmp_path / "run", done=0, evaluated=(), overrides=OVERRIDES)
    run.config = configuration.load(recipe, [*OVERRIDES, "run.backend=cpu"])
    drift, verb, name, backend, value, *words = shlex.split(course.command(run))
    assert (drift, verb, name, backend, value) == ("drift", "run", recipe, "--backend", "cpu")
    assert set(words[::2]) == {"--set"}
    assert configuration.load(name, [*words[1::2], "run.backend=cpu"]) == run.config
    assert len(words[1::2]) <= len(OVERRIDES)


def test_a_recipe_of_the_user_is_written_out(tmp_path):
    run = make_run(tmp_path / "run", done=0, evaluated=(), overrides=("run.recipe=mine",))
    words = shlex.split(course.command(run))
    assert words[:3] == ["drift", "run", "emoji"]
    assert 'run.recipe="mine"' in words
    assert "drift run emoji --backend" in text_of(run)


def test_each_prompt_has_its_numbers_before_and_after(tmp_path):
    run = make_run(tmp_path / "run", done=0, evaluated=())
    for update, shift in ((0, 0.0), (60, 0.5)):
        by = {"reward_by_prompt": [1.0 + shift, 2.0], "diversity_by_prompt": [0.4, 0.3 - shift / 5]}
        record = evaluation_record(0, update=update, prompts=["<i>rose</i>", "owl"], **by)
        run.append_evaluation(record)
    page = Page(render(run))
    assert "Prompt Reward Diversity <i>rose</i> 1.00 → 1.50 +0.50 0.400 → 0.400 +0.000" in page.text
    assert "owl 2.00 → 2.00 +0.00 0.300 → 0.200 −0.100" in page.text
    assert page.all("i") == []


@pytest.mark.parametrize("values", [None, "x", [1.0], [None, "y"], {}])
def test_values_by_prompt_that_do_not_fit_are_left_out(values):
    record = {"prompts": ["a", "b"], "reward_by_prompt": values}
    assert by_prompt.table(record, record).rows == []


def test_the_emoji_scorer_says_nothing_of_other_models(tmp_path):
    run = make_run(tmp_path / "run", **ENDS_ONLY)
    assert "Held-out alignment" in text_of(run)
    model = run.config.model.model_copy(update={"family": "sd15", "path": "somewhere"})
    run.config = run.config.model_copy(update={"model": model})
    page = Page(render(run))
    assert "lignment" not in page.text.partition("Configuration")[0]
    assert "Reward what training maximises 5.42 5.97" in page.text


def test_held_out_rewards_and_further_features_have_lines_and_curves(tmp_path):
    run = make_run(tmp_path / "run", **ENDS_ONLY)
    file = run.path / "evaluations.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"heldout/ocr": 0.25 + 0.5 * number, "diversity/clip": 0.5 - 0.1 * number}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = Page(render(run))
    assert "ocr a reward that is not trained on 0.250 0.750 +0.500" in shown.text
    assert "Diversity, clip the same in other features 0.500 0.400 −0.100 80% of base" in shown.text
    drawn = [figure["id"] for figure in shown.all("figure") if figure.get("class") == "plot"]
    assert {"plot-heldout-0", "plot-diversity-1"} <= {*drawn}
