"""A recipe or a run of somebody else imports no code and writes nowhere, until the user agrees."""

import json
import shutil
import sys

import pytest
from click.testing import CliRunner

from common import consent
from common.cli import drift
from common.errors import RequestError

EVIL = """
from pathlib import Path
Path("was-here").write_text("")

def reward(images, prompts, metadata):
    return [float(i) for i in range(len(images))]
"""
TINY = (
    *("run.updates=1", 'prompts.names=["rose", "owl"]', "rollout.prompts=2", "rollout.steps=3"),
    *("rollout.group_size=2", "rollout.window=0", "rollout.batch_size=4", "evaluate.images=2"),
    *("evaluate.steps=1", "evaluate.grid=2"),
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with evil.py in it, and a home of its own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("evil", None)
    (tmp_path / "evil.py").write_text(EVIL)
    yield tmp_path
    sys.modules.pop("evil", None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of this machine."""
    path = tmp_path_factory.mktemp("trained") / "mine"
    assert invoke("run", "emoji", "--out", path, *sets()).exit_code == 0
    return path


@pytest.fixture
def run(folder, trained):
    """A run whose configuration names evil.py, as if it came from another machine."""
    for name in ("mine", "theirs"):
        shutil.copytree(trained, folder / name)
    config = folder / "theirs" / "config.toml"
    text = config.read_text().replace("embedded = 10.0", '"evil:reward" = 1.0')
    assert "evil" in text
    config.write_text(text)
    return "theirs"


def invoke(*words):
    return CliRunner().invoke(drift, [str(word) for word in words])


def sets(*more):
    return [word for text in (*TINY, *more) for word in ("--set", text)]


COMMANDS = {
    "eval": ("eval", "theirs", "--images", "2", "--prompts", "1", "--steps", "1"),
    "audit": ("audit", "theirs", "--images", "2", "--prompts", "1"),
    "resume": ("run", "--resume", "--out", "theirs", "--set", "run.updates=2"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stored_run_imports_nothing_by_itself(command, run, folder):
    result = invoke(*COMMANDS[command])
    assert result.exit_code == 2, result.output
    assert "theirs would import 'evil' and run its code" in result.output
    assert "--trust" in result.output
    assert not (folder / "was-here").exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("key", ["scorers", "more_features"])
def test_the_records_of_a_stored_run_name_no_code(key, run, folder):
    assert invoke("eval", "mine", *COMMANDS["eval"][2:]).exit_code == 0
    file = folder / "mine" / "evaluation" / "records.jsonl"
    lines = []
    for record in map(json.loads, file.read_text().splitlines()):
        record["protocol"][key] = ["evil:reward"]
        measured = record["by_prompt"]
        if key == "scorers":
            measured["heldout/evil:reward"] = measured["reward"]
        else:
            record["overall"] = {"frechet/evil:reward": record["frechet"]}
            for name in ("diversity", "vendi", "recall", "coverage"):
                measured[f"{name}/evil:reward"] = measured[name]
        lines.append(json.dumps(record))
    file.write_text("\n".join(lines) + "\n")
    words = ("--split", "train", "--baseline", "emoji", "--with", "scale", "--out", "page")
    result = invoke("compare", "mine", *words)
    assert result.exit_code == 2, result.output
    assert "mine would import 'evil' and run its code" in result.output
    assert not (folder / "was-here").exists()


def test_code_for_measuring_that_the_user_names_is_run(run, folder):
    config = folder / "mine" / "config.toml"
    assert "evil" not in config.read_text()
    code = "def seen(images):\n    return images.mean(axis=(1, 2))\n"
    (folder / "sizes.py").write_text(code)
    for more in ((), ("--attainable", "--samples", "16", "--ratio", "2")):
        usual = ("--prompts", "1", "--steps", "1", "--split", "train", "--feature", "sizes:seen")
        result = invoke("eval", "mine", *usual, *more)
        assert result.exit_code == 0, result.output


def test_a_model_class_of_a_stored_run_is_not_imported(run, folder):
    config = folder / "theirs" / "config.toml"
    text = config.read_text().replace('"evil:reward" = 1.0', "embedded = 10.0")
    config.write_text(text.replace('family = "embedded"', 'family = "evil:Model"'))
    result = invoke("sample", "theirs", "--prompt", "rose")
    assert result.exit_code == 2, result.output
    assert "theirs would import 'evil'" in result.output
    assert not (folder / "was-here").exists()


def test_trust_is_given_once_for_a_place(run, folder):
    result = invoke(*COMMANDS["resume"], "--trust")
    assert "would import" not in result.output
    assert (folder / "was-here").exists()
    (folder / "was-here").unlink()
    sys.modules.pop("evil")
    invoke(*COMMANDS["resume"])
    assert (folder / "was-here").exists()
    shutil.copytree(folder / "theirs", folder / "elsewhere")
    sys.modules.pop("evil")
    words = ["elsewhere" if word == "theirs" else word for word in COMMANDS["resume"]]
    assert "elsewhere would import 'evil'" in invoke(*words).output


def test_a_recipe_file_asks_and_the_command_line_does_not(folder):
    (folder / "a.toml").write_text('extends = "emoji"\n[reward.terms]\n"evil:reward" = 1.0\n')
    for more in ((), ("--dry-run",)):
        result = invoke("run", "a.toml", "--out", "a", *sets(), *more)
        assert result.exit_code == 2, result.output
        assert "a.toml would import 'evil'" in result.output
    assert not (folder / "was-here").exists()
    assert not (folder / "a").exists()
    named = sets("reward.terms={}", "reward.terms.evil:reward=1.0")
    result = invoke("run", "emoji", "--out", "b", *named)
    assert result.exit_code == 0, result.output
    assert (folder / "was-here").exists()
    sys.modules.pop("evil")
    assert invoke("eval", "b", *COMMANDS["eval"][2:]).exit_code == 0  # my own run


@pytest.mark.parametrize("where", ["/tmp/../{}/scores", "../scores"])
def test_a_cache_elsewhere_asks(where, run, folder):
    config = folder / "theirs" / "config.toml"
    file = where.format(str(folder).lstrip("/"))
    text = config.read_text().replace('"evil:reward" = 1.0', "embedded = 10.0")
    config.write_text(text.replace("[reward]\n", f'[reward]\ncache = "{file}"\n'))
    result = invoke(*COMMANDS["resume"])
    assert result.exit_code == 2, result.output
    assert "would keep scores in" in result.output
    assert not (folder / "scores").exists()
    assert not (folder.parent / "scores").exists()


@pytest.mark.parametrize(
    ("overrides", "allowed"),
    [
        (["reward.terms.evil:reward=1.0"], True),
        (['reward.terms."evil:reward"=1.0'], True),
        (["model.family=evil:reward"], True),
        (['audit.scorers=["a:b", "evil:reward"]'], True),
        ({"reward.terms": {"evil:reward": 5.0}}, True),
        (["reward.terms.notevil:reward=1.0"], False),
        (["reward.terms.a.evil:reward=1.0"], False),
        (["model.family=evil:rewards"], False),
        ({"reward.terms": {"evil:reward2": 5.0}}, False),
    ],
)
def test_only_the_whole_name_that_the_user_wrote_is_allowed(overrides, allowed, folder):
    with consent.required_for(folder, overrides, trust=False):
        if allowed:
            consent.require("evil:reward", "import 'evil'")
            return
        with pytest.raises(RequestError, match="--trust"):
            consent.require("evil:reward", "import 'evil'")


def test_consent_that_cannot_be_stored_or_is_damaged_is_asked_again(folder, monkeypatch):
    file = folder / "home" / "drift" / "trusted.json"
    file.parent.mkdir(parents=True)
    for damage in ("[", "[]", '{"x": 1}', "{}"):
        file.write_text(damage)
        with (
            consent.required_for(folder, (), trust=False),
            pytest.raises(RequestError, match="--trust"),
        ):
            consent.require("a:b", "import 'a'")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/nothing")
    with consent.required_for(folder, (), trust=True):
        consent.require("a:b", "import 'a'")
    consent.require("a:b", "import 'a'")  # nobody is asked: a program's own
