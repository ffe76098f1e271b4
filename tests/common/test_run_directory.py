"""A run directory is made once, found again, resumed only with the same numbers; logs survive."""

import errno
import json
import math
import os
import tomllib

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from common import config as configuration, noise, run_directory
from common.files import WriteError
from common.run_directory import MAY_CHANGE, RunDirectory, RunError

CONFIG = configuration.load("emoji")


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", CONFIG, {"backend": "cpu"})


def changed(*overrides: str) -> configuration.Config:
    return configuration.load("emoji", overrides)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- made and found again ------------------------------------------------------------------------


def test_create_then_open(run):
    assert names(run.path) == ["config.toml", "environment.json"]
    again = RunDirectory.open(run.path)
    assert (again.path, again.config) == (run.path, CONFIG)
    assert again.environment() == {
        "noise_fingerprint": noise.fingerprint(),
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


def test_a_creation_that_was_killed_can_be_repeated(run):
    (run.path / "config.toml").rename(run.path / ".config.toml.tmp-0badcafe")  # written last
    with pytest.raises(RunError, match=r"no run directory: config\.toml is missing"):
        RunDirectory.open(run.path)
    RunDirectory.create(run.path, CONFIG, {})
    assert RunDirectory.open(run.path).config == CONFIG


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
        "use the old values, or start anew in another --out"
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
    flat = configuration.to_tables(CONFIG)
    for key in MAY_CHANGE:
        table, name = key.split(".")
        assert name in flat[table]


def test_another_stream_of_random_numbers_may_not_resume(run, monkeypatch):
    monkeypatch.setattr(noise, "fingerprint", lambda: "0123456789abcdef")
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
    assert run.environment()["noise_fingerprint"] == noise.fingerprint()


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
        assert f"what {key} names, {file}, {fate} since the run was started" in str(caught.value)
        file.unlink(missing_ok=True)
    file.write_bytes(b"rose\nowl\n")
    run.check_resumable(config)


# --- logs ----------------------------------------------------------------------------------------


def test_only_one_process_at_a_time_holds_a_run(run):
    again = RunDirectory.open(run.path)
    with run.held(), pytest.raises(RunError, match=r"another process is training in .*; stop it"):
        again.held().__enter__()
    with again.held():
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_without_locks_does_not_stop_a_run(run, monkeypatch, number):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run_directory.fcntl, "flock", refuse)
    with run.held():
        run.append_metrics({"update": 1})
    with pytest.raises(OSError, match="the body's own"), run.held():
        raise OSError("the body's own")


def test_metrics_and_evaluations_come_back(run):
    assert run.metrics() == []
    assert run.evaluations() == []
    run.append_metrics({"update": 1, "reward/mean": 0.5})
    run.append_metrics({"update": np.int64(2), "reward/mean": np.float32(0.25)})
    run.append_evaluation({"update": 0, "prompts": ["größer", "b"], "by": np.array([1.0, 2.0])})
    assert RunDirectory.open(run.path).metrics() == [
        {"update": 1, "reward/mean": 0.5},
        {"update": 2, "reward/mean": 0.25},
    ]
    assert run.evaluations() == [{"update": 0, "prompts": ["größer", "b"], "by": [1.0, 2.0]}]


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_read(run):
    values = [math.nan, math.inf, -math.inf, np.float32("nan"), 1.0]
    run.append_metrics({"update": 1, "x": math.nan, "list": values, "table": {"y": -math.inf}})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    line = json.loads((run.path / "metrics.jsonl").read_text(), parse_constant=refuse)
    nothing = [None, None, None, None, 1.0]
    assert line == {"update": 1, "x": None, "list": nothing, "table": {"y": None}}
    (record,) = run.metrics()
    assert math.isnan(record["x"])
    assert math.isnan(record["table"]["y"])
    np.testing.assert_array_equal(record["list"], [math.nan] * 4 + [1.0])


@given(record=st.dictionaries(st.text(), st.floats() | st.integers() | st.booleans() | st.text()))
def test_any_record_is_one_line_of_strict_json(record):
    line = run_directory._json({**record, "update": 1})
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line).keys() == record.keys() | {"update"}


def test_a_record_needs_a_whole_update(run):
    for update in ({}, {"update": 1.0}, {"update": None}, {"update": "1"}):
        with pytest.raises(ValueError, match="needs 'update', a whole number"):
            run.append_metrics({**update, "x": 1.0})
    assert run.metrics() == []


@pytest.mark.parametrize("cut", range(1, 26))
def test_a_torn_last_line_is_dropped_and_never_glued(run, cut):
    file = run.path / "metrics.jsonl"
    run.append_metrics({"update": 1, "x": 0.5})
    first = file.read_bytes()
    run.append_metrics({"update": 2, "x": 0.75})
    whole = file.read_bytes()
    last = len(whole) - len(first)
    assert last == 25
    file.write_bytes(whole[: len(whole) - cut])
    kept = [1, 2] if cut == 1 else [1]  # without only its newline, the line still says all
    assert [record["update"] for record in run.metrics()] == kept
    run.append_metrics({"update": 3, "x": 1.0})
    assert [record["update"] for record in run.metrics()] == [*kept, 3]
    assert len(file.read_bytes().splitlines()) == len(kept) + 1


def test_only_the_first_line_and_torn(run):
    file = run.path / "metrics.jsonl"
    file.write_bytes(b'{"update": 1, "x\xc3')
    assert run.metrics() == []
    run.append_metrics({"update": 1})
    assert run.metrics() == [{"update": 1}]


@pytest.mark.parametrize(
    "damage", [b'{"update": 2, "x"', b"", b"[]", b"{}", b'{"update": "2"}', b"\xff\xfe"]
)
def test_a_damaged_middle_line_is_told_with_its_number(run, damage):
    file = run.path / "metrics.jsonl"
    file.write_bytes(b'{"update": 1}\n' + damage + b'\n{"update": 3}\n')
    line = f"{file} line 2 is damaged: not a record with an update"
    for action in (run.metrics, lambda: run.rewind(1)):
        with pytest.raises(RunError) as caught:
            action()
        assert str(caught.value) == line


def test_rewind_drops_what_came_after_and_keeps_the_bytes_before(run):
    for update in (1, 2, 3, 4):
        run.append_metrics({"update": update, "x": 1 / update})
    for update in (0, 2, 4):
        run.append_evaluation({"update": update})
    before = (run.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run.path / ".metrics.jsonl.tmp-0badcafe").write_bytes(b"of a killed rewind")
    run.rewind(2)
    assert (run.path / "metrics.jsonl").read_bytes() == b"".join(before[:2])
    assert [record["update"] for record in run.evaluations()] == [0, 2]
    assert ".metrics.jsonl.tmp-0badcafe" not in names(run.path)
    run.rewind(0)
    assert run.metrics() == []
    assert [record["update"] for record in run.evaluations()] == [0]


def test_rewind_cuts_a_torn_line_and_ends_the_last_one(run):
    file = run.path / "metrics.jsonl"
    file.write_bytes(b'{"update": 1}\n{"upd')
    run.rewind(5)
    assert file.read_bytes() == b'{"update": 1}\n'
    file.write_bytes(b'{"update": 1}\n{"update": 2}')
    run.rewind(5)
    assert file.read_bytes() == b'{"update": 1}\n{"update": 2}\n'


def test_rewind_of_a_run_without_logs(run):
    run.rewind(3)
    assert names(run.path) == ["config.toml", "environment.json"]


def test_a_full_disk_leaves_the_log_as_it_was(run, monkeypatch):
    run.append_metrics({"update": 1})
    before = (run.path / "metrics.jsonl").read_bytes()

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    line = f"cannot write {run.path / 'metrics.jsonl'}: no space left on the device"
    for action in (lambda: run.append_metrics({"update": 2}), lambda: run.rewind(0)):
        with pytest.raises(OSError, match=r"no space left") as caught:
            action()
        assert str(caught.value) == line
        assert (run.path / "metrics.jsonl").read_bytes() == before
    assert names(run.path) == ["config.toml", "environment.json", "metrics.jsonl"]


# --- pictures ------------------------------------------------------------------------------------


def test_a_picture_comes_back(run):
    image = np.random.default_rng(0).integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
    file = run.save_picture("000020", image)
    assert file == run.path / "samples" / "000020.png"
    np.testing.assert_array_equal(np.asarray(Image.open(file)), image)
    run.save_picture("000020", 255 - image)
    np.testing.assert_array_equal(np.asarray(Image.open(file)), 255 - image)
    assert names(run.path / "samples") == ["000020.png"]


def test_a_picture_has_a_plain_name_and_three_channels(run):
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    for name in ("", "../escape", ".hidden", "a/b", "a b"):
        with pytest.raises(ValueError, match="picture name"):
            run.save_picture(name, image)
    for wrong in (image[..., 0], image.astype(np.float32), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"not uint8 \[H, W, 3\]"):
            run.save_picture("a", wrong)


def test_a_model_may_be_elsewhere_but_not_another(tmp_path):
    def folder(name, weights):
        part = tmp_path / name / "unet"
        part.mkdir(parents=True)
        (part / "config.json").write_text("{}")
        (part / "w.safetensors").write_bytes(weights)
        (tmp_path / name / "notes.md").write_text(name)  # none of the model's own
        return f"model.path={tmp_path / name}"

    def settings(path):
        family = ("model.family=sd15", "rollout.kernel=ddim")
        return configuration.load("emoji-grpo", [*family, path])

    mac, server, other = folder("mac", b"123"), folder("server", b"123"), folder("other", b"124")
    run = RunDirectory.create(tmp_path / "run", settings(mac), {})
    run.check_resumable(settings(server))
    with pytest.raises(RunError, match=r"with other settings: model\.path: .*/mac.* -> .*/other"):
        run.check_resumable(settings(other))
    (tmp_path / "mac" / "unet" / "w.safetensors").write_bytes(b"125")
    with pytest.raises(RunError, match=r"what model\.path names, .*/mac, has changed"):
        run.check_resumable(settings(mac))
