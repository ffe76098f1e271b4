"""Files of others never hang, fill memory, or lead out of their folder: a line says why instead."""

import json
import os
import resource
import subprocess
import sys

import pytest
from click.testing import CliRunner

from common import config as configuration, pictures, reading
from common.cli import drift
from common.config import ConfigError, PromptsConfig
from common.prompts import PromptError, load
from common.runs import checkpoint, line_log
from common.runs.checkpoint import CheckpointError
from common.runs.directory import RunDirectory, RunError
from tests.common.synthetic_checkpoint import LORA, snapshot

DEEP = 100_000
HOSTILE = {
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
    "deep": lambda path: path.write_text('{"a":' + "[" * DEEP + "]" * DEEP + "}"),
    "deep toml": lambda path: path.write_text("a = " + "[" * DEEP + "]" * DEEP),
    "nested": lambda path: path.write_text('{"a":' + "[" * 200 + "]" * 200 + "}"),
    "surrogate": lambda path: path.write_text('{"a": "\\ud800", "update": 1}'),
    "huge number": lambda path: path.write_text('{"update": 1e400}'),
    "digits": lambda path: path.write_text('{"update": 1' + "0" * 5000 + "}"),
    "large number": lambda path: path.write_text('{"update": 1' + "0" * 400 + "}"),
    "nothing": lambda path: path.write_text(""),
    "zeros": lambda path: path.write_bytes(bytes(1 << 20)),
    "vast": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
}


HARMLESS = {
    ("metrics.jsonl", "nothing"),
    ("environment.json", "huge number"),
    ("environment.json", "large number"),
}
"""What is a valid file of that name, if an odd one."""


@pytest.fixture
def run(tmp_path):
    config = configuration.load("emoji")
    return RunDirectory.create(tmp_path / "run", config, {})


@pytest.fixture
def saved(tmp_path):
    return checkpoint.save(tmp_path / "checkpoints", snapshot(), adapter=LORA, keep=0)


def put(path, kind):
    if path.exists():
        path.unlink()
    HOSTILE[kind](path)


def one_line(error):
    text = str(error)
    assert 0 < len(text) < 500
    assert text.isprintable()
    text.encode()
    return text


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", ["config.toml", "environment.json", "metrics.jsonl"])
def test_a_run_folder_of_somebody_else(name, kind, run):
    path = run.path / name
    put(path, kind)
    if (name, kind) in HARMLESS:
        assert RunDirectory.open(run.path).metrics() == []
        return
    if name == "metrics.jsonl" and path.is_file() and path.stat().st_size < 1 << 30:
        with path.open("ab") as file:
            file.write(b"\n")  # a line without its end would not count
    with pytest.raises(RunError) as caught:
        RunDirectory.open(run.path).metrics()
    assert name in one_line(caught.value)


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_recipe_of_somebody_else(kind, tmp_path):
    path = tmp_path / "a.toml"
    put(path, kind)
    if kind == "nothing":
        assert configuration.load(str(path)).run.recipe == "a"
        return
    with pytest.raises(ConfigError) as caught:
        configuration.load(str(path))
    one_line(caught.value)


@pytest.mark.parametrize("kind", HOSTILE)
def test_prompts_of_somebody_else(kind, tmp_path):
    path = tmp_path / "prompts.jsonl"
    put(path, kind)
    with pytest.raises(PromptError) as caught:
        load(PromptsConfig(source=str(path)))
    one_line(caught.value)


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "optimizer.safetensors"])
def test_a_checkpoint_of_somebody_else(name, kind, saved):
    path = saved
    put(path / name, kind)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    one_line(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../state.json": {"size": 1, "sha256": "0"}}},
        {"files": {"/etc/passwd": {"size": 1, "sha256": "0"}}},
        {"files": {"state.json": {"size": 1}}},
        {"files": {"state.json": {"size": None, "sha256": None}}},
        {"files": {"state.json": None}},
        {"files": []},
        {"files": {}},
        {"format": [1]},
    ],
)
def test_a_manifest_that_was_written_by_hand(change, saved):
    path = saved
    manifest = json.loads((path / "manifest.json").read_bytes()) | change
    del manifest["sha256"]
    manifest["sha256"] = checkpoint._digest(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    one_line(caught.value)


@pytest.mark.parametrize("kind", [*HOSTILE, "a list"])
def test_the_newest_record_of_somebody_else_is_none(kind, tmp_path):
    """It is polled, so it neither waits nor raises."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("[1]\n") if kind == "a list" else put(path, kind)
    assert line_log.newest(path) == {}


def test_a_name_stays_in_its_folder(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "good.png").write_bytes(b"good")
    (folder / "same.png").symlink_to("good.png")
    assert reading.inside(folder, "good.png").read_bytes() == b"good"
    assert reading.inside(folder, "same.png").read_bytes() == b"good"
    for name in ("../secret.png", "link.png", "/etc/passwd", "", ".", "..", "a/b.png", None, 3):
        with pytest.raises(ValueError, match=r"plain file name|leads out of"):
            reading.inside(folder, name)


def test_a_picture_of_somebody_else(tmp_path):
    for kind in ("pipe", "device", "folder", "vast", "nothing"):
        path = tmp_path / f"{kind}.png"
        put(path, kind)
        with pytest.raises(pictures.PictureError):
            pictures.load(path)


@pytest.mark.parametrize("name", ["../../secret", "a/b", "..", ".hidden", "a\x1b[2J", "x" * 101])
def test_a_recipe_is_called_by_a_plain_name(name, run):
    """It names the folder that a run is written to."""
    with pytest.raises(ConfigError, match="is no plain name"):
        configuration.load("emoji", [f"run.recipe={json.dumps(name)}"])


def test_what_is_read_is_bounded(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert reading.content(path, 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, and at most 4 are read"):
        reading.content(path, 4)
    assert reading.json_document("[" * 64 + "]" * 64)
    with pytest.raises(ValueError, match="nested more than 64 levels"):
        reading.json_document("[" * 65 + "]" * 65)
    assert reading.json_document('"\\ud83d\\ude00"') == "\U0001f600"


def test_nothing_of_a_name_reaches_the_terminal_raw():
    """An escape sequence in a key or a name would set the title of a terminal, or worse."""
    for text in ("reward.floors.\x1b]0;X\x07a=1", "run.recipe=\x1b[2J/", "\x1b[31m.a=1"):
        result = CliRunner().invoke(drift, ["run", "--set", text])
        assert result.exit_code == 2
        assert result.output.rstrip("\n").isprintable()
        assert "\\x1b" in result.output
    assert reading.printable("a\n b\x1b\ud800") == "a b\\x1b\\ud800"
    assert reading.printable("x" * 10 + "y" * 10, most=4) == "xx ... yy"


def test_set_takes_a_deep_value_in_one_line():
    result = CliRunner().invoke(drift, ["run", "--set", f"run.seed={'[' * DEEP}"])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1
    assert len(result.output) < 500


@pytest.mark.parametrize("kind", ["pipe", "device", "vast", "deep"])
def test_a_hostile_run_ends_in_bounded_memory(kind, run):
    put(run.path / "metrics.jsonl", kind)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    code = "from common.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "eval", str(run.path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) < 2_000_000


def test_a_byte_order_mark_is_no_part_of_a_document():
    assert reading.toml_document(b"\xef\xbb\xbf[run]\nseed = 1\n") == {"run": {"seed": 1}}
    assert reading.json_document(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((2, 2.0), (-0.5, -0.5), (True, None), ("1", None), (None, None)),
        *((float("nan"), None), (float("inf"), None), (10**400, None)),
    ],
)
def test_a_number_of_a_document_is_finite_or_none(value, number):
    assert reading.finite(value) == number
