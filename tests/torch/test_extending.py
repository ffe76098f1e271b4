"""docs/extending.md, followed to the letter: its family, reward and prompts train a model."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from common import config as configuration, report
from common.cli import drift
from common.runs.directory import RunDirectory
from drift_torch.flux import FluxPolicy

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
TEXT = PAGE.read_text(encoding="utf-8")
SMALL = (
    *("run.updates=2", "rollout.prompts=2", "rollout.group_size=4", "rollout.steps=3"),
    "rollout.window=0",
    *("rollout.guidance=3.0", "drift.noise.strength=0.2", "evaluate.images=2", "evaluate.steps=2"),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the page's files, byte for byte, as the current one."""
    blocks = re.findall(r"^```\w+\n(# (\S+)\n.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    names = [name for _, name in blocks]
    assert names == ["blobs.py", "weights.py", "blobs.toml", "redness.py", "shapes.jsonl"]
    for text, name in blocks:
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(report, "build", lambda run: run.report)
    for name in ("blobs", "redness"):  # those of another test's folder
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.fixture
def followed(folder):
    """That folder with the weights of the page."""
    runpy.run_path("weights.py")
    return folder


def run(*words):
    return CliRunner().invoke(drift, ["run", *words, "--backend", "cpu", "--trust"])


def test_the_pages_files_and_commands_work_as_they_are_written(folder):
    (commands,) = re.findall(r"^```\n(python .*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    output = {}
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        if program == "python":
            runpy.run_path(*words)
            continue
        result = CliRunner().invoke(drift, words)
        assert result.exit_code == 0, (line, result.output)
        output[line] = result.output
    _, rehearsed, _, sampled, listed = commands.splitlines()
    assert "memory at its peak" in output[rehearsed]
    assert Path(output[sampled].strip()).is_file()
    assert "a scarlet ring" in output[listed]
    finished = RunDirectory.open(folder / "runs" / "blobs-cpu-seed0")
    assert [row["update"] for row in finished.metrics()] == [1, 2]
    base, tuned = finished.evaluations()
    assert base["reward_by_prompt"] != tuned["reward_by_prompt"]


def test_paths_and_names_of_the_page_are_there():
    paths = re.findall(r"[`(](?:\.\./)?((?:common|drift_\w+|tests)/[\w/]+\.py)[`)]", TEXT)
    assert len(paths) >= 8
    assert [path for path in paths if not (PAGE.parents[1] / path).is_file()] == []
    methods = [*re.findall(r"^\| `(\w+)\(", TEXT, re.MULTILINE), "_patch", "_parts", "DENOISER"]
    assert len(methods) == 8
    assert [name for name in methods if not hasattr(FluxPolicy, name)] == []


def test_the_pages_family_trains_with_guidance_and_prompt_noise(followed):
    small = [word for text in SMALL for word in ("--set", text)]
    done = run("blobs.toml", *small, "--out", "run")
    assert done.exit_code == 0, done.output
    finished = RunDirectory.open(followed / "run")
    first, second = finished.metrics()
    for row in (first, second):
        assert row["objective/ratio_max"] < 1e-6
        assert row["objective/gradient_norm"] > 0
    assert first["objective/kl"] == 0.0
    assert second["objective/kl"] > 0.0
    base, tuned = finished.evaluations()
    assert base["prompts"] == ["a red square", "a scarlet ring", "a blue dot", "a green line"]
    assert base["reward_by_prompt"] != tuned["reward_by_prompt"]
    drawn = CliRunner().invoke(drift, ["sample", "run", "--prompt", "a red dot", "--count", "2"])
    assert drawn.exit_code == 0, drawn.output


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["model.family=blobs:Blub"], "'blobs' has no 'Blub'; did you mean 'Blobs'?"),
        (["model.family=bloobs:Blobs"], "cannot import 'bloobs'"),
        (["model.family=blobs:"], "write module:Class"),
        (["adapter.targets=['middle']"], "no linear is called 'middle'; valid: inp, out"),
        (["model.path=nothing.safetensors"], "nothing.safetensors"),
    ],
)
def test_what_is_wrong_with_a_family_of_ones_own_is_one_line(changes, says, followed):
    words = [word for text in changes for word in ("--set", text)]
    result = run("blobs.toml", *words, "--out", "run")
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert says in lines[0]
    assert result.exit_code == (1 if "nothing" in says else 2)
    assert not (followed / "run").exists()


def test_a_class_over_diffusers_may_be_named_too(checkpoint, tmp_path):
    """What ships can be named as a class of one's own can: any pipeline, no family's checks."""
    from common import backends

    own = ("model.family=drift_torch.sd3:SD3Policy", f"model.path={checkpoint('sd3')}")
    shared = ("model.max_tokens=20", "adapter.targets=['attn.to_q']")
    config = configuration.load("emoji-grpo", [*own, *shared])
    policy = backends.load("cpu").policy(config.model, config.adapter, seed=0)
    assert policy.encode(["owl"]).tokens.shape == (1, 97, 32)
    assert all(".attn.to_q." in name for name in policy.parameters())
