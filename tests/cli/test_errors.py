"""A wrong request or a failure is one line, an exit code, and no harm to what is on disk."""

import errno
import resource
import textwrap

import click
import pytest

from common import backends, config, trainer
from common.backends import BackendUnavailableError
from common.cli import drift as drift_command
from common.commands.errors import explain
from common.commands.path_type import FilePath
from common.config import ConfigError
from common.errors import RequestError, existing, preparing
from common.rewards import RewardNameError
from common.runs import checkpoint
from common.runs.directory import RunDirectory

RUN = ["run", "--backend", "cpu"]

WRONG = {
    "unknown recipe": (["run", "emojo"], "no recipe 'emojo'; did you mean 'emoji'?"),
    "recipe that is not there": (["run", "no/such.toml"], "no/such.toml"),
    "misspelt key": (
        [*RUN, "--set", "rollout.group_sise=8"],
        "'rollout.group_sise'; did you mean 'rollout.group_size'?",
    ),
    "value out of range": ([*RUN, "--set", "rollout.group_size=1"], "rollout.group_size = 1"),
    "not a key at all": ([*RUN, "--set", "updates"], "write table.key=value"),
    "keeps more than there are": (
        [*RUN, "--set", "drift.subset.keep=8", "--set", "rollout.group_size=4"],
        "drift.subset.keep = 8 is more than rollout.group_size = 4",
    ),
    "unknown backend": (["run", "--backend", "mlxx"], "no backend 'mlxx'; did you mean 'mlx'?"),
    "unknown reward": (
        [*RUN, "--set", "reward.terms.jpeg_compresibility=1"],
        "did you mean 'jpeg_compressibility'?",
    ),
    "unknown prompt": ([*RUN, "--set", 'prompts.names=["strawbery"]'], "'strawberry'"),
    "resume without a run": (["run", "--resume"], "--resume needs --out DIR"),
    "resume of nothing": (["run", "--resume", "--out", "nothing"], "no run directory nothing"),
    "resume of a folder": (["run", "--resume", "--out", "."], "config.toml is missing"),
    "sample of nothing": (["sample", "nothing", "--prompt", "rose"], "no run directory nothing"),
    "recipes of nothing": (["recipes", "emojo"], "did you mean 'emoji'?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_says_what_and_what_is_valid(refused, case, tmp_path):
    words, expected = WRONG[case]
    assert expected in refused(2, *words)
    assert [path for path in tmp_path.rglob("*") if path.name != "runs"] == []  # nothing is left


def test_a_prompt_with_a_word_the_model_lacks(refused, finished, tmp_path, small):
    (tmp_path / "prompts.txt").write_text("rose\nrose zeppelin\n")
    words = small(prompts__source="prompts.txt", prompts__names="[]")
    line = refused(2, "run", *words, "--out", "new")
    assert "zeppelin" in line
    assert not (tmp_path / "new").exists()
    assert "zeppelin" in refused(2, "sample", finished, "--prompt", "rose zeppelin")


def test_a_backend_that_is_not_installed_says_what_to_install(refused, monkeypatch):
    monkeypatch.setattr(backends.registry, "find_spec", lambda name: None)
    assert "pip install 'drift-toolkit[torch]'" in refused(2, "run", "--backend", "cuda")
    assert "pip install 'drift-toolkit[mlx]'" in refused(2, "run", "--backend", "mlx")
    assert "neither PyTorch nor MLX is installed" in refused(2, "run")


def test_an_out_that_holds_a_run_or_cannot_be_written(refused, finished, small, tmp_path):
    assert "add --resume to go on" in refused(2, "run", *small(), "--out", finished)
    (tmp_path / "file").write_text("")
    assert "file/run" in refused(2, "run", *small(), "--out", "file/run")


def test_resume_names_the_keys_that_changed(refused, finished):
    recipe = config.load("emoji")
    change = ["--set", "rollout.group_size=6", "--set", "optimizer.learning_rate=0.1"]
    line = refused(2, "run", "--resume", "--out", finished, *change)
    assert "rollout.group_size: 4 -> 6" in line
    assert f"optimizer.learning_rate: {recipe.optimizer.learning_rate} -> 0.1" in line
    line = refused(2, "run", "emoji", "--resume", "--out", finished, "--backend", "cpu")
    assert f"rollout.steps: 3 -> {recipe.rollout.steps}" in line


def test_a_resume_that_fails_leaves_the_runs_settings(refused, finished, monkeypatch):
    before = {name: (finished / name).read_bytes() for name in ("config.toml", "environment.json")}

    def fail(*_, **__):
        raise RewardNameError("no such thing here")

    monkeypatch.setattr(trainer, "RewardSuite", fail)
    words = ["run", "--resume", "--out", finished, "--set", "run.updates=3"]
    assert "no such thing here" in refused(2, *words)
    assert {name: (finished / name).read_bytes() for name in before} == before


def test_resume_does_not_run_backwards(refused, finished):
    line = refused(2, "run", "--resume", "--out", finished, "--set", "run.updates=1")
    assert "update 2 already" in line
    assert RunDirectory.open(finished).config.run.updates == 2


@pytest.mark.parametrize("words", [["run", "--resume", "--out"], ["sample", "--prompt", "rose"]])
def test_a_damaged_checkpoint_names_the_file(refused, finished, words):
    file = finished / "checkpoints" / "000002" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    line = refused(2, *words, finished)
    assert "checkpoints/000002: adapter_model.safetensors is damaged" in line


@pytest.mark.usefixtures("no_report")
def test_a_full_disk_leaves_the_earlier_checkpoints(refused, drift, finished):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    again = ["run", "--resume", "--out", finished, "--set", "run.updates=3"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # less than the optimizer's state
    try:
        line = refused(1, *again)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "checkpoints/000003" in line
    assert checkpoint.load(finished / "checkpoints" / "000002").update == 2
    assert drift(*again).exit_code == 0
    assert [record["update"] for record in RunDirectory.open(finished).metrics()] == [1, 2, 3]


def test_a_disk_too_full_for_the_report_is_a_failure(refused, finished):
    (finished / "report.html").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # less than a report
    try:
        line = refused(1, "run", "--resume", "--out", finished)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "report.html: the file would be larger" in line
    assert not (finished / "report.html").exists()


REWARDS = """
    import time
    import numpy as np

    def raises(images, prompts, metadata):
        raise KeyError("lost")

    def hangs(images, prompts, metadata):
        time.sleep(600)

    def nan(images, prompts, metadata):
        return np.full(len(images), np.nan)

    def short(images, prompts, metadata):
        return np.zeros(len(images) - 1)
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raises", "raised KeyError: 'lost'"),
        ("hangs", "took more than 0.2 s"),
        ("nan", "is nan for prompt 'rose'"),
        ("short", "returned shape [3] for 4 images"),
    ],
)
def test_a_reward_that_fails(refused, small, tmp_path, name, expected):
    (tmp_path / "faulty_rewards.py").write_text(textwrap.dedent(REWARDS))
    limit = "0.2" if name == "hangs" else "300"
    change = {f"reward__terms__faulty_rewards:{name}": "1", "reward__timeout": limit}
    line = refused(1, "run", *small(**change), "--out", "run")
    assert line.startswith(f"drift: reward 'faulty_rewards:{name}'")
    assert expected in line
    assert RunDirectory.open(tmp_path / "run").metrics() == []


def test_a_reward_that_does_not_import_is_a_wrong_request(refused, small):
    line = refused(2, "run", *small(**{"reward__terms__no_such_module:f": "1"}))
    assert "cannot import 'no_such_module'" in line


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_names_and_out_are_checked_before_anything_is_loaded(
    refused, drift, small, monkeypatch, tmp_path, more
):
    def load(*_):
        raise AssertionError("a backend was loaded")

    monkeypatch.setattr(backends, "load", load)
    monkeypatch.setattr(backends, "best", load)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.png").touch()
    (tmp_path / "file").touch()
    cases = {
        ("--out", "full"): "full is not empty and holds no run (it has 'photo.png')",
        ("--out", "file"): "directory file: something else of that name is in the way",
        ("--out", "file/run"): "a folder on the way is a file",
        ("--set", "reward.terms.jpeg_compresibility=1"): "did you mean 'jpeg_compressibility'?",
        ("--set", "reward.terms.no_such_module:f=1"): "cannot import 'no_such_module'",
        ("--set", "reward.options.embedded.scalling=raw"): "'scalling'; did you mean 'scaling'?",
        ("--set", "drift.shaping.features=embeded"): "no features 'embeded'; did you mean",
        ("--set", "evaluate.features=embeded"): "no features 'embeded'; did you mean",
        ("--set", "prompts.source=animls"): "did you mean 'animals'?",
    }
    for words, says in cases.items():
        assert says in refused(2, "run", *small(), *words, *more)
    watched = ["--set", "audit.every=1", "--set", 'audit.scorers=["ocrr"]']
    assert "no reward 'ocrr'; did you mean 'ocr'" in refused(2, "run", *small(), *watched, *more)
    assert {path.name for path in tmp_path.iterdir()} == {"full", "file"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("run --steps 3", "Set the key by --set rollout.steps=3"),
        ("run --group-size=3", "Set the key by --set rollout.group_size=3"),
        ("run emoji --learning-rate 1e-4", "--set optimizer.learning_rate=1e-4"),
        ("run --rollout.steps 8", "--set rollout.steps=8"),
        ("run --keep", "--set drift.subset.keep=VALUE or --set checkpoint.keep=VALUE"),
        ("sweep emoji --out x --group-size 9", "--set rollout.group_size=9"),
        ("sweep emoji --out x --seed 9", "--seeds"),
        ("run --bakend cpu", "--backend"),
    ],
)
def test_an_option_that_is_a_key_is_answered_with_set(drift, words, says):
    result = drift(*words.split())
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_run_in_place_of_a_recipe_is_answered_with_resume(refused, finished):
    line = refused(2, "run", finished)
    assert f"is a run, and no recipe; `drift run --resume --out {finished}` goes on with it" in line


def test_what_there_is_is_listed_in_words(refused, finished):
    (finished / "checkpoints" / "000001").rename(finished / "aside")
    line = refused(2, "sample", finished, "--prompt", "rose", "--checkpoint", "3")
    assert line.endswith("no checkpoint after update 3 in " + f"{finished}; the only one is 2")
    assert "there are base, 2" in refused(2, "eval", finished, "--checkpoint", "3")
    line = refused(2, "run", "--resume", "--out", finished, "--from", "1")
    assert "no checkpoint after update 1; the only one is 2; 0 is the start" in line
    assert existing(["a", "b, c"]) == "; there are 'a', 'b, c'"
    assert existing([]) == ""


def test_debug_shows_the_traceback(drift):
    for words in (["run", "emojo", "--debug"], ["--debug", "run", "emojo"]):
        result = drift(*words)
        assert result.exit_code == 2
        assert "Traceback (most recent call last)" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("drift: no recipe")


SMALLER = "smaller groups, batches or images need less"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("two\nlines"), 2, "two lines"),
        (BackendUnavailableError("install it"), 2, "install it"),
        (FloatingPointError("the norm is nan"), 1, "the norm is nan"),
        (OSError(errno.ENOSPC, "No space left", "x/y"), 1, "No space left: x/y"),
        (OSError("odd"), 1, "OSError: odd (--debug shows the traceback)"),
        (MemoryError(), 1, f"out of memory: more was asked for than there is; {SMALLER}"),
        (MemoryError("no 9 GB"), 1, f"out of memory: no 9 GB; {SMALLER}"),
        (ValueError("shapes differ"), 1, "ValueError: shapes differ (--debug shows the traceback)"),
    ],
)
def test_explain(error, code, text):
    assert explain(error) == (code, text)


def test_a_value_error_is_a_request_only_while_preparing():
    with pytest.raises(RequestError, match="no word"), preparing():
        raise ValueError("no word")
    with pytest.raises(ConfigError), preparing():
        raise ConfigError("stays what it is")


def test_every_path_of_a_command_refuses_an_empty_text(refused):
    """As of a variable of the shell that is not set: it would be the current folder."""
    paths = {
        f"{name} {parameter.name}": parameter.type
        for name, command in drift_command.commands.items()
        for parameter in command.params
        if isinstance(parameter.type, click.Path)
    }
    assert len(paths) > 15
    assert [name for name, kind in paths.items() if not isinstance(kind, FilePath)] == []
    for words in (("runs", ""), ("showcase", "--out", ""), ("watch", ""), ("run", "--out", "")):
        assert "is empty: write a path" in refused(2, *words)
