"""A sweep's plan by hand: names, grid and order; what is there, what is left, what is refused."""

import itertools
import json

import pytest

from common.config import ConfigError, load
from common.runs import checkpoint
from common.runs.directory import RunDirectory, RunError
from common.sweep.plan import Progress, SweepError, latest_metrics, plan, progress


def names(*recipes, **more):
    return [run.name for run in plan(recipes, **more)]


def refused(*recipes, **more):
    with pytest.raises(SweepError) as caught:
        plan(recipes, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names and order -----------------------------------------------------------------------------


def test_the_grid_is_named_by_recipe_key_and_seed_with_seeds_outermost():
    over = ["objective.kl_weight=0.01,4e-2", "run.updates=5"]
    assert names("emoji", "emoji-kl", over=over, seeds=[0, 3]) == [
        f"{recipe}-kl_weight={weight}-updates=5-seed{seed}"
        for seed, recipe, weight in itertools.product(
            (0, 3), ("emoji", "emoji-kl"), ("0.01", "0.04")
        )
    ]


def test_each_run_has_its_values_and_its_configuration():
    runs = plan(
        ["emoji-kl"], over=["objective.kl_weight=0.1,0.2"], seeds=[7], overrides=["run.updates=9"]
    )
    assert [run.config.objective.kl_weight for run in runs] == [0.1, 0.2]
    for run in runs:
        assert run.config == load(run.recipe, run.overrides)
        assert (run.config.run.seed, run.config.run.updates) == (7, 9)


def test_without_seeds_each_recipe_has_its_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('extends = "emoji"\n[run]\nseed = 5\n')
    assert names("emoji", str(file)) == ["emoji-seed0", "mine-seed5"]


def test_a_grid_that_is_extended_keeps_the_names_it_had():
    few = names("emoji", over=["drift.shaping.weight=0.5"], seeds=[0])
    assert few == ["emoji-weight=0.5-seed0"]
    wide = ["drift.shaping.weight=0.2,0.50"]
    assert set(few) < set(names("emoji", over=wide, seeds=[0, 1]))


@pytest.mark.parametrize(
    ("over", "shown"),
    [
        ("optimizer.learning_rate=1e-3", "learning_rate=0.001"),
        ("optimizer.learning_rate=0.00012345678", "learning_rate=0.00012345678"),
        ("rollout.steps=9", "rollout.steps=9"),  # evaluate.steps is another one
        ("drift.noise.schedule=cads", "noise.schedule=cads"),
        ("checkpoint.keep=1", "checkpoint.keep=1"),
        ("rollout.train_last_step=true", "train_last_step=true"),
        ("rollout.window_range=[0, 0.5]", "window_range=0+0.5"),
        ('prompts.names=["owl", "cat face"]', "names=owl+cat_face"),
        ("reward.terms.jpeg_compressibility=0.5", "jpeg_compressibility=0.5"),
        ('reward.terms={"a:b" = 1.0}', "terms=a_b=1"),
        ("prompts.source=../x.txt", "source=.._x.txt"),
    ],
)
def test_how_a_value_is_written_in_a_name(over, shown):
    assert names("emoji", over=[over]) == [f"emoji-{shown}-seed0"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("rollout.window_range=[0, 0.5],[0.5, 1]", [(0.0, 0.5), (0.5, 1.0)]),
        ("drift.subset.rule=mad, upper", ["mad", "upper"]),
        ('drift.subset.rule="mad", "upper"', ["mad", "upper"]),
        ('prompts.names=["owl"],["fox", "a, b"],[]', [("owl",), ("fox", "a, b"), ()]),
        ("reward.terms={embedded = 1.0},{jpeg = 2.0}", [{"embedded": 1.0}, {"jpeg": 2.0}]),
        ("rollout.train_last_step=false,true", [False, True]),
        ("objective.kl_weight=0.1,0.2,", [0.1, 0.2]),
    ],
)
def test_values_are_the_parts_of_a_toml_array(text, values):
    key = text.partition("=")[0].split(".")
    parsed = []
    for run in plan(["emoji"], over=[text]):
        value = load("emoji", run.overrides)
        for part in key:
            value = getattr(value, part)
        parsed.append(value)
    assert parsed == values


def test_the_command_of_a_run_starts_it_or_goes_on(tmp_path):
    (run,) = plan(["emoji"], over=["run.updates=4"], seeds=[1], overrides=["rollout.steps=9"])
    assert run.command(tmp_path, backend=None, resume=False) == (
        *("run", "emoji", "--out", str(tmp_path)),
        *("--set", "rollout.steps=9", "--set", "run.updates=4", "--set", "run.seed=1"),
    )
    words = run.command(tmp_path, backend="mlx", resume=True)
    assert words[4:7] == ("--resume", "--backend", "mlx")


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"over": ["run.updates"]}, "--over run.updates: write table.key=v1,v2"),
        ({"over": ["updates=1,2"]}, "--over updates=1,2: write table.key=v1,v2"),
        ({"over": ["run.updates="]}, "--over run.updates=: a value is missing"),
        ({"over": ["drift.subset.rule=mad,,upper"]}, "rule=mad,,upper: a value is missing"),
        ({"over": ["run.seed=1,2"]}, "run.seed is set by --seeds, as --seeds 0,1,2"),
        ({"overrides": ["run.seed=1"]}, "run.seed is set by --seeds"),
        ({"overrides": ["run.recipe=x"]}, "run.recipe names the runs"),
        ({"over": ["run.updates=1", "run.updates=2"]}, "run.updates is given by --over and once"),
        ({"over": ["run.updates=1"], "overrides": ["run.updates=2"]}, "run.updates is given by"),
        ({"over": ["run.backend=cpu"], "backend": "mlx"}, "run.backend is given by --over"),
        ({"seeds": [1, 1]}, "--seeds: 1 is there twice"),
        (
            {"over": ["objective.kl_weight=0.1,0.10"]},
            "two runs of this sweep would be called 'emoji-kl_weight=0.1-seed0'",
        ),
        ({"over": [f'prompts.source="{"x" * 300}.txt"']}, "characters: put what the runs share"),
    ],
)
def test_a_sweep_that_cannot_be_planned(more, says):
    assert says in refused("emoji", **more)


def test_the_same_recipe_twice_and_two_of_one_name(tmp_path):
    assert "called 'emoji-seed0'" in refused("emoji", "emoji")
    (tmp_path / "emoji.toml").write_text("")
    assert "called 'emoji-seed0'" in refused("emoji", str(tmp_path / "emoji.toml"))


def test_every_point_of_the_grid_is_checked_before_any_runs():
    with pytest.raises(ConfigError, match=r"unknown configuration key .run\.updats"):
        plan(["emoji"], over=["run.updats=1,2"])
    with pytest.raises(ConfigError, match=r"keep = 25 is more than rollout.group_size = 24"):
        plan(["emoji-random"], over=["drift.subset.keep=20,25"])
    with pytest.raises(ConfigError, match="no recipe 'emojy'"):
        plan(["emoji", "emojy"])


# --- how far a run is ----------------------------------------------------------------------------


@pytest.fixture
def planned():
    (run,) = plan(["emoji"], overrides=["run.updates=4"])
    return run


@pytest.fixture
def made(tmp_path, planned):
    return RunDirectory.create(tmp_path / "run", planned.config, {})


def save(run, update):
    snapshot = checkpoint.Snapshot(update, {}, None, {}, {})
    checkpoint.save(run.checkpoints, snapshot, adapter=run.config.adapter, keep=0)


def test_progress_from_nothing_to_complete(planned, made, tmp_path):
    assert progress(planned, tmp_path / "other") == Progress("missing")
    assert progress(planned, made.path) == Progress("incomplete")
    save(made, 3)
    assert progress(planned, made.path) == Progress("incomplete", 3)
    save(made, 4)
    assert progress(planned, made.path) == Progress("incomplete", 4)
    made.append_evaluation({"update": 4})
    assert progress(planned, made.path) == Progress("incomplete", 4)
    made.report.write_text("")
    assert progress(planned, made.path) == Progress("complete", 4)


def test_a_creation_that_was_killed_counts_as_missing(planned, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "environment.json").write_text("{}")
    assert progress(planned, tmp_path / "run") == Progress("missing")


def test_more_updates_make_a_complete_run_incomplete(planned, made):
    save(made, 4)
    made.append_evaluation({"update": 4})
    made.report.write_text("")
    (longer,) = plan(["emoji"], overrides=["run.updates=6"])
    assert progress(longer, made.path) == Progress("incomplete", 4)
    (shorter,) = plan(["emoji"], overrides=["run.updates=3"])
    with pytest.raises(SweepError, match=r"is at update 4 already; run.updates = 3 is less"):
        progress(shorter, made.path)


def test_another_configuration_under_the_same_name_is_refused(made):
    (other,) = plan(["emoji"], overrides=["run.updates=4", "rollout.steps=9"])
    with pytest.raises(SweepError, match=r"another configuration: rollout.steps: 10 -> 9; choose"):
        progress(other, made.path)
    (schedule,) = plan(["emoji"], overrides=["drift.shaping.training_schedule=linear"])
    with pytest.raises(SweepError, match="training_schedule: constant -> linear"):
        progress(schedule, made.path)


def test_a_schedule_over_training_fixes_the_number_of_updates(tmp_path):
    changes = ["drift.shaping.training_schedule=linear"]
    (run,) = plan(["emoji"], overrides=[*changes, "run.updates=4"])
    RunDirectory.create(tmp_path / "run", run.config, {})
    (longer,) = plan(["emoji"], overrides=[*changes, "run.updates=6"])
    message = r"drift.shaping.training_schedule = 'linear' spans all updates of a run"
    with pytest.raises(RunError, match=message):
        progress(longer, tmp_path / "run")


def test_the_newest_metrics_are_those_of_the_last_whole_line(tmp_path):
    assert latest_metrics(tmp_path) == {}
    file = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"update": update, "x": "y" * 300}) for update in range(1, 400)]
    file.write_text("\n".join(rows) + '\n{"update": 400')
    assert latest_metrics(tmp_path)["update"] == 399
    file.write_text('{"update": 1')
    assert latest_metrics(tmp_path) == {}
