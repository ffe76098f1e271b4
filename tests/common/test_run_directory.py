"""A run directory is made once, opened again, and resumed only with the same numbers."""

import errno
import json
import os
import tomllib

import pytest

from common import config as configuration, random
from common.runs.directory import MAY_CHANGE, RunDirectory, RunError
from common.runs.files import WriteError
from common.workflows import train

CONFIG = configuration.load("emoji")


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", CONFIG, {"backend": "cpu"})


def changed(*overrides: str) -> configuration.Config:
    return configuration.load("emoji", overrides)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- create and open ----------------------------------------------------------------------------


def test_create_then_open(run):
    assert names(run.path) == ["config.toml", "environment.json"]
    again = RunDirectory.open(run.path)
    assert (again.path, again.config) == (run.path, CONFIG)
    assert again.environment() == {
        "noise_fingerprint": random.fingerprint(),
        "sha256": {},
        "starts": [{"update": 0, "backend": "cpu"}],
    }
    tables = tomllib.loads((run.path / "config.toml").read_text(encoding="utf-8"))
    assert tables["drift"]["shaping"]["gamma"] == 1.0  # resolved: defaults are written too
    assert run.checkpoints == run.path / "checkpoints"
    assert run.report == run.path / "report.html"


def test_create_makes_parents_and_takes_an_empty_folder(tmp_path):
    (tmp_path / "there").mkdir()
    for path in (tmp_path / "there", tmp_path / "a" / "b" / "c"):
        RunDirectory.create(path, CONFIG, {})
        assert RunDirectory.open(path).config == CONFIG


def test_create_refuses_a_run(run):
    before = (run.path / "config.toml").read_bytes()
    with pytest.raises(RunError) as caught:
        RunDirectory.create(run.path, changed("run.seed=5"), {})
    assert str(caught.value) == (
        f"{run.path} already holds a run; add --resume to go on with it, or choose another --out"
    )
    assert (run.path / "config.toml").read_bytes() == before


def test_create_refuses_a_folder_with_other_things(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"not empty and holds no run \(it has 'thesis.tex'\)"):
        RunDirectory.create(tmp_path, CONFIG, {})
    assert names(tmp_path) == ["thesis.tex"]


def test_create_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path, why in (
        (tmp_path / "file" / "run", "a folder on the way is a file"),
        (tmp_path / "file", "something else of that name is in the way"),
    ):
        with pytest.raises(RunError) as caught:
            RunDirectory.create(path, CONFIG, {})
        assert str(caught.value) == f"cannot make run directory {path}: {why}"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_wrong_request(tmp_path, monkeypatch, number):
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(WriteError, match=r"cannot make run directory .*: ") as caught:
        RunDirectory.create(tmp_path / "run", CONFIG, {})
    assert caught.value.errno == number
    assert names(tmp_path / "run") == []


@pytest.fixture
def no_root(tmp_path):
    """Root may do everything, so a test of permissions drops its rights for the while."""
    if not hasattr(os, "geteuid"):
        pytest.skip("this system has no user ids")
    user = os.geteuid()
    (tmp_path / "closed").mkdir(mode=0o000)
    os.seteuid(65534 if user == 0 else user)
    yield
    os.seteuid(user)
    (tmp_path / "closed").chmod(0o700)


def test_without_permission(tmp_path, no_root):
    path = tmp_path / "closed" / "run"
    with pytest.raises(RunError) as caught:
        RunDirectory.create(path, CONFIG, {})
    assert str(caught.value) == f"cannot make run directory {path}: permission denied"
    with pytest.raises(RunError) as caught:
        RunDirectory.open(path)
    assert str(caught.value) == f"cannot open run directory {path}: permission denied"


def test_an_unknown_hash_of_an_input_is_one_line(run):
    (run.path / "environment.json").write_text(
        json.dumps(run.environment() | {"sha256": {"x": "1"}})
    )
    with pytest.raises(RunError, match=r"^cannot resume .*: a file, which x names, is not there"):
        run.check_resumable(CONFIG)


def test_a_creation_that_was_killed_can_be_repeated(run):
    (run.path / "config.toml").rename(run.path / ".config.toml.tmp-0badcafe")  # written last
    with pytest.raises(RunError, match=r"no run directory: config\.toml is missing"):
        RunDirectory.open(run.path)
    RunDirectory.create(run.path, CONFIG, {})
    assert RunDirectory.open(run.path).config == CONFIG
    assert names(run.path) == ["config.toml", "environment.json"]


def test_the_folder_of_a_killed_creation_is_free_again(run, tmp_path):
    assert not RunDirectory.is_abandoned(run.path)
    (run.path / "config.toml").rename(run.path / ".config.toml.tmp-0badcafe")
    assert RunDirectory.is_abandoned(run.path)
    assert train._is_free(run.path)
    with run.locked():  # as by a process that makes a run there
        assert not RunDirectory.is_abandoned(run.path)
        assert not train._is_free(run.path)
        with pytest.raises(RunError, match="another process makes a run in"):
            RunDirectory.create(run.path, CONFIG, {})
    (run.path / "notes.txt").write_text("mine")
    assert not RunDirectory.is_abandoned(run.path)
    assert not RunDirectory.is_abandoned(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert not RunDirectory.is_abandoned(tmp_path / "empty")


def test_a_sweep_removes_what_killed_processes_left_in_the_run(run):
    leftovers = [".metrics.jsonl.tmp-0badcafe"]
    for folder in ("samples", "checkpoints", "evaluation"):
        (run.path / folder).mkdir()
        leftovers.append(f"{folder}/.x.png.tmp-0badcafe")
    for name in (*leftovers, "samples/x.png"):
        (run.path / name).write_bytes(b"half")
    run.sweep()
    assert not [name for name in leftovers if (run.path / name).exists()]
    assert (run.path / "samples" / "x.png").exists()


def test_open_says_what_is_missing_or_damaged(run, tmp_path):
    config, environment = run.path / "config.toml", run.path / "environment.json"
    good = config.read_bytes()
    cases = [
        (config, b"[run\n", "config.toml is damaged: "),
        (config, good[: len(good) // 2].rsplit(b"=", 1)[0], "config.toml is damaged: "),
        (config, b"\xff", "config.toml is damaged: "),
        (config, b"[run]\nupdates = 0\n", "config.toml is damaged: run.updates = 0: "),
        (config, None, "config.toml is missing"),
        (environment, b"{", "environment.json is damaged: not a JSON object"),
        (environment, b"[]", "environment.json is damaged: not a JSON object"),
        (environment, b'{"starts": 1}', "environment.json is damaged: not a JSON object"),
        (environment, b'{"starts": [1]}', "environment.json is damaged: not a JSON object"),
        (environment, b'{"sha256": [1]}', "environment.json is damaged: 'sha256' is no table"),
        (environment, None, "environment.json is missing"),
    ]
    for file, content, message in cases:
        before = file.read_bytes()
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(RunError) as caught:
            RunDirectory.open(run.path)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        file.write_bytes(before)
    with pytest.raises(RunError, match="it is not there"):
        RunDirectory.open(tmp_path / "nowhere")
    with pytest.raises(RunError, match="it is a file"):
        RunDirectory.open(config)


# --- resuming ------------------------------------------------------------------------------------


def test_the_same_configuration_and_the_free_keys_may_resume(run):
    run.check_resumable(CONFIG)
    run.check_resumable(
        changed(
            "run.updates=90",
            "run.backend=mlx",
            "run.recipe=mine",
            "checkpoint.every=3",
            "checkpoint.keep=1",
            "evaluate.every=7",
            "evaluate.grid=2",
            "rollout.batch_size=16",
            "objective.micro_batch=8",
        )
    )


def test_every_other_key_may_not_change(run):
    tables = configuration.to_tables(CONFIG)
    for table, key, value in (
        ("run", "seed", 1),
        ("rollout", "group_size", 16),
        ("optimizer", "learning_rate", 1e-5),
        ("adapter", "rank", 4),
        ("reward", "terms", {"embedded": 1.0}),
        ("model", "path", "other.safetensors"),
        ("drift", "shaping", {**tables["drift"]["shaping"], "weight": 0.9}),
        ("prompts", "names", ["owl"]),
        ("evaluate", "images", 4),
        ("evaluate", "steps", 9),
        ("evaluate", "prompts", 2),
    ):
        other = configuration.parse({**tables, table: {**tables[table], key: value}})
        with pytest.raises(RunError, match=f"cannot resume .*: {table}.{key}"):
            run.check_resumable(other)


def test_all_differences_are_listed_in_one_line(run):
    with pytest.raises(RunError) as caught:
        run.check_resumable(changed("rollout.steps=12", "run.seed=3", "checkpoint.every=3"))
    assert str(caught.value) == (
        f"cannot resume {run.path} with other settings: rollout.steps: 10 -> 12; run.seed: 0 -> 3; "
        "use the old values, or start a new run in another --out"
    )


def test_the_length_is_fixed_when_the_prompt_noise_falls_over_the_run(tmp_path):
    falling = "drift.noise.training_schedule=linear"
    run = RunDirectory.create(tmp_path / "run", changed(falling), {})
    run.check_resumable(changed(falling, "checkpoint.every=3"))
    with pytest.raises(
        RunError, match=r"run\.updates: \d+ -> 90 \(drift\.noise\.training_schedule"
    ):
        run.check_resumable(changed(falling, "run.updates=90"))


def test_free_keys_exist():
    for key in MAY_CHANGE:
        table, name = key.split(".")
        assert name in type(getattr(CONFIG, table)).model_fields


def test_another_stream_of_random_numbers_may_not_resume(run, monkeypatch):
    monkeypatch.setattr(random, "fingerprint", lambda: "0123456789abcdef")
    with pytest.raises(RunError, match=r"numpy .* draws other random numbers"):
        run.check_resumable(CONFIG)


def test_adopt_makes_the_new_configuration_the_runs_own(run):
    run.adopt(changed("run.updates=90"), {"backend": "cpu"}, update=4)
    assert run.config.run.updates == 90
    assert RunDirectory.open(run.path).config.run.updates == 90
    with pytest.raises(RunError):
        run.adopt(changed("run.seed=1"), {"backend": "mlx"}, update=4)
    assert RunDirectory.open(run.path).config == changed("run.updates=90")
    assert len(run.starts()) == 2


def test_each_start_is_noted(run):
    run.adopt(CONFIG, {"backend": "mlx", "cores": "8"}, update=20)
    run.adopt(CONFIG, {"backend": "cpu"}, update=30)
    assert RunDirectory.open(run.path).starts() == [
        {"update": 0, "backend": "cpu"},
        {"update": 20, "backend": "mlx", "cores": "8"},
        {"update": 30, "backend": "cpu"},
    ]
    assert run.environment()["noise_fingerprint"] == random.fingerprint()


@pytest.mark.parametrize("key", ["prompts.source", "model.path"])
def test_a_file_that_the_run_was_started_with_must_not_change(tmp_path, key):
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"rose\nowl\n")
    config = changed(f'{key}="{file}"')
    run = RunDirectory.create(tmp_path / "run", config, {})
    digest = "a97fa9ae8b8549f4e263c04e3cf052d24d266ee540a8f92266c285c682465d99"
    assert run.environment()["sha256"] == {key: digest}
    run.check_resumable(config)
    file.write_bytes(b"rose\ncat\n")
    for fate in ("has changed", "is not there any more"):
        with pytest.raises(RunError) as caught:
            run.check_resumable(config)
        assert f"{file}, which {key} names, {fate} since the run was started" in str(caught.value)
        file.unlink(missing_ok=True)
    file.write_bytes(b"rose\nowl\n")
    run.check_resumable(config)


@pytest.mark.parametrize("key", ["path", "weights"])
def test_a_model_may_be_elsewhere_but_not_another(tmp_path, key):
    def folder(name, weights):
        part = tmp_path / name / "unet"
        part.mkdir(parents=True)
        (part / "config.json").write_text("{}")
        (part / "w.safetensors").write_bytes(weights)
        (tmp_path / name / "notes.md").write_text(name)  # none of the model's own
        return f"model.{key}={tmp_path / name}"

    def settings(path):
        return configuration.load("emoji-grpo", ["model.family=sd3", "model.path=some/one", path])

    mac, server, other = folder("mac", b"123"), folder("server", b"123"), folder("other", b"124")
    run = RunDirectory.create(tmp_path / "run", settings(mac), {})
    run.check_resumable(settings(server))
    with pytest.raises(RunError, match=rf"with other settings: model\.{key}: .*/mac.* -> .*/other"):
        run.check_resumable(settings(other))
    (tmp_path / "mac" / "unet" / "w.safetensors").write_bytes(b"125")
    with pytest.raises(RunError, match=rf".*/mac, which model\.{key} names, has changed"):
        run.check_resumable(settings(mac))
