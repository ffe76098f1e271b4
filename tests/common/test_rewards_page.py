"""The code of docs/rewards.md runs, and what the page says of names and settings is so."""

import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from common import config
from common.cli import drift
from common.rewards import REWARDS, RewardNameError, available, create

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for kind, text in BLOCKS if kind == language]


def test_the_function_of_ten_lines_works_under_the_name_that_the_page_gives(tmp_path, monkeypatch):
    code = blocks("python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (tmp_path / "my_rewards.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (name,) = re.findall(r"reward\.terms\.(my_rewards:\w+)=", PAGE)
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    images[1, ..., 0] = 255
    assert list(create(name, None)(images, ["a", "b"], [{}, {}])) == [0.0, 1.0]


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """A folder with my_factory.py as the page has it, as the current one."""
    monkeypatch.setattr(REWARDS, "entries", dict(REWARDS.entries))
    (tmp_path / "my_factory.py").write_text(blocks("python")[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_factory", raising=False)
    yield tmp_path
    sys.modules.pop("my_factory", None)


def blue():
    images = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    images[..., 2] = 51
    return images, ["a"], [{}]


def settings_of_the_command(name):
    """The configuration of the page's command that names that reward."""
    (line,) = re.findall(rf"drift run (--set reward\.terms\.{name}=\S+ .*)$", PAGE, re.MULTILINE)
    return config.load("emoji", [word for word in line.split() if word != "--set"]).reward


def test_the_factory_works_from_its_file(factory):
    reward = settings_of_the_command("my_factory:brightness")
    ((name, options),) = reward.options.items()
    assert reward.terms == {name: 1.0}
    REWARDS.check(name, options)
    made = create(name, None, {**options, "scaling": "/255"})
    assert made.scale(made(*blue())).tolist() == [0.2]
    assert (made.exact, made.batch_size, made.version) == (True, 64, "1")
    with pytest.raises(RewardNameError, match=r"channel = 3: input should be less than or equal"):
        create(name, None, {"channel": 3})


def test_the_factory_works_from_an_installed_package(factory, monkeypatch):
    (project,) = (tomllib.loads(text) for text in blocks("toml") if "[project]" in text)
    assert project["tool"]["setuptools"]["py-modules"] == ["my_factory"]
    about = project["project"]
    points = about["entry-points"]["drift.rewards"]
    installed = factory / f"my_rewards-{about['version']}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {about['name']}\nVersion: {about['version']}\n")
    lines = [f"{name} = {where}" for name, where in points.items()]
    (installed / "entry_points.txt").write_text("\n".join(["[drift.rewards]", *lines]))
    result = CliRunner().invoke(drift, ["rewards", "brightness"])
    assert result.exit_code == 0, result.output
    assert "mean of one channel" in result.output
    made = create("brightness", None, {"channel": 2, "scaling": "/255"})
    assert made.scale(made(*blue())).tolist() == [0.2]


def test_every_reward_is_in_the_table_with_its_scalings():
    table = {}
    section = PAGE.split("## The rewards")[1].split("\n## ")[0]
    for row in re.findall(r"^\| (`.*) \|$", section, flags=re.MULTILINE):
        first, *_, last = row.split(" | ")
        for name in re.findall(r"`(\w+)`", first):
            table[name] = set(re.findall(r"`([^`]+)`", last))
    infos = {info.name: {name for name, _ in info.scalings} for info in available()}
    assert table == infos


def test_settings_of_the_page_are_valid():
    (options,) = (tomllib.loads(text) for text in blocks("toml") if "reward.terms" in text)
    parsed = config.parse(options)
    for name, values in parsed.reward.options.items():
        spec, _ = REWARDS._entry(values.get("reward", name))
        spec.parse(name, values)
    for line in (line for text in blocks("") for line in text.splitlines()):
        settings = re.findall(r"--set (?:'([^']+)'|(\S+))", line)
        for quoted, plain in settings:
            key = (quoted or plain).partition("=")[0]
            parts = config.split_key(key)
            known = ".".join(parts[:2]) if parts[0] == "reward" else key
            assert known in config.known_keys(), key
