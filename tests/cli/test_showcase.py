"""`drift showcase`: adapters that are part of the toolkit, sampled, measured and compared."""

import json

import pytest

from common import pictures
from common.comparison.summary import from_json
from common.evaluation import measured_runs
from common.report import same_noise
from common.runs import checkpoint
from common.runs.directory import RunDirectory
from common.workflows.showcase import RUNS, showcase

FEW = {"images": 2, "steps": 1, "backend": "cpu", "progress": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder of a showcase of few images. Read only."""
    folder = tmp_path_factory.mktemp("showcase")
    showcase(folder, **FEW)
    return folder


def test_plain_grpo_and_drift_are_compared_from_their_adapters(place):
    summary = from_json((place / "compare.json").read_bytes())
    assert summary.baseline == "emoji-grpo"
    assert {"emoji", "emoji-shaping"} < set(summary.names)
    for run in RUNS.iterdir():
        updates = checkpoint.updates(run / "checkpoints")
        rows = [row for row in summary.point_rows() if row["method"] == run.name]
        assert [row["update"] for row in rows] == updates
    assert (place / "compare.html").stat().st_size > 20_000


def test_the_picture_has_checkpoints_of_one_reward(place):
    (run,) = measured_runs.read([place / "emoji-grpo"], "train").runs
    tuned = [variant for variant in run.records if variant.update]
    assert len(tuned) > 1
    for variant in tuned:
        reward = run.records[variant].mean("reward")
        assert same_noise.nearest(run, reward, "reward") == variant
    first, last = tuned[0], tuned[-1]
    shown = same_noise.panels([("plain", run, first), ("more", run, last)], "reward")
    titles = [panel.title for panel in shown]
    updates = [f"{variant.update} updates" for variant in (first, last)]
    assert titles == ["base model", f"plain, {updates[0]}", f"more, {updates[1]}"]
    assert f"reward {run.records[last].mean('reward'):.2f}" in shown[2].caption
    assert (shown[0].strips["fox"] != shown[2].strips["fox"]).any()
    assert pictures.load(place / "showcase.png").std() > 1


def test_the_adapters_are_whole_and_have_nothing_that_only_training_needs():
    for folder in sorted(RUNS.iterdir()):
        run = RunDirectory.open(folder)
        for update in checkpoint.updates(run.checkpoints):
            snapshot = checkpoint.load(run.checkpoints / f"{update:06d}")  # hashes are compared
            assert (snapshot.ema, snapshot.optimizer) == (None, {})
            assert snapshot.parameters
    assert sum(file.stat().st_size for file in RUNS.rglob("*") if file.is_file()) < 3e6


def test_a_second_call_measures_nothing_and_says_the_same(place, drift):
    before = {path.name: path.read_bytes() for path in place.rglob("records.jsonl")}
    few = ("--images", 2, "--steps", 1, "--backend", "cpu")
    result = drift("showcase", *few, "--out", place)
    assert result.exit_code == 0, result.output
    assert {path.name: path.read_bytes() for path in place.rglob("records.jsonl")} == before
    assert "More diversity at equal alignment" in result.stdout
    assert result.stdout.splitlines()[-1] == str(place / "compare.html")


def test_a_wrong_request_is_one_line(refused, tmp_path):
    (tmp_path / "used/emoji-grpo").mkdir(parents=True)
    (tmp_path / "used/emoji-grpo/config.toml").write_text("[run]\n")
    line = refused(2, "showcase", "--out", "used")
    assert "used/emoji-grpo/config.toml is not the one of this version" in line
    assert "tpu" in refused(2, "showcase", "--out", "new", "--backend", "tpu")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    assert "file is no folder; choose another --out" in refused(2, "showcase", "--out", "file")


def test_such_a_run_is_not_for_resuming(place, refused):
    line = refused(2, "run", "--resume", "--out", place / "emoji-grpo")
    assert "metrics.jsonl has no record of update 1" in line
    assert json.loads((place / "emoji-grpo/environment.json").read_text())["starts"]
