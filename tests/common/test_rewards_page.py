"""The code of docs/rewards.md runs, and what the page says of names and settings is so."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from common import config
from common.rewards import REWARDS, available, create

PAGE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for kind, text in BLOCKS if kind == language]


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(REWARDS, "entries", dict(REWARDS.entries))


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


def test_the_registered_one_works_with_its_options_and_scaling(registered):
    exec(compile(blocks("python")[1], "docs/rewards.md", "exec"), {})
    assert "brightness" in {info.name for info in available()}
    reward = create("brightness", None, {"channel": 2, "scaling": "/255"})
    images = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    images[..., 2] = 51
    assert reward.scale(reward(images, ["a"], [{}])).tolist() == [0.2]
    assert (reward.exact, reward.batch_size, reward.version) == (True, 64, "1")


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
