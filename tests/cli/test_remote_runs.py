"""Runs whose reward is served elsewhere: who may name the server, and a server that restarts."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from common.rewards.hosts import HOSTS
from common.rewards.registry import NamedReward
from common.rewards.server import RewardServer
from tests.common.served_reward import value

ELSEWHERE = "http://203.0.113.7:8765"  # of a network that is kept for documentation
TERMS = f"""
[reward.terms]
far = 1.0

[reward.options.far]
reward = "remote"
url = "{ELSEWHERE}"
"""


@pytest.fixture
def connections(monkeypatch):
    """The addresses that the client connects to, none of which answers."""
    asked = []

    def connect(address, *_, **__):
        asked.append(address)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.delenv(HOSTS, raising=False)
    monkeypatch.setattr("socket.create_connection", connect)
    return asked


@pytest.fixture
def stranger(finished):
    """A run whose stored configuration names a server."""
    path = finished / "config.toml"
    before, rest = path.read_text().split("[reward.terms]\n")
    path.write_text(before + TERMS + "\n[" + rest.partition("\n[")[2])
    return finished


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "run"],
        ["audit", "run"],
        ["run", "--resume", "--out", "run"],
        ["run", "stranger.toml", "--backend", "cpu"],
        ["run", "stranger.toml", "--backend", "cpu", "--dry-run"],
    ],
)
def test_a_file_alone_sends_nothing_to_another_machine(
    words, refused, stranger, connections, monkeypatch, tmp_path
):
    monkeypatch.setenv("DRIFT_REWARD_TOKEN", "s3cret")
    Path("stranger.toml").write_text('extends = "emoji"\n' + TERMS)
    line = refused(2, *words)
    assert f"{HOSTS}=203.0.113.7:8765" in line
    assert connections == []
    monkeypatch.setenv(HOSTS, "203.0.113.7")
    assert "no connection: ConnectionRefusedError" in refused(2, *words)
    assert {*connections} == {("203.0.113.7", 8765)}


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_the_command_line_names_a_server(more, refused, small, connections):
    words = ["--set", "reward.terms.remote=1", "--set", f"reward.options.remote.url={ELSEWHERE}"]
    line = refused(2, "run", *small(), *words, *more)
    assert "no connection: ConnectionRefusedError" in line
    assert connections


def test_the_runs_and_evaluations_of_a_sweep_may_use_the_server_it_names(drift, monkeypatch):
    seen = []
    monkeypatch.delenv(HOSTS, raising=False)
    monkeypatch.setattr("common.sweep.jobs.run", lambda *_, **__: seen.append(os.environ[HOSTS]))
    words = ["--set", "reward.terms.remote=1", "--set", f"reward.options.remote.url={ELSEWHERE}"]
    drift("sweep", "emoji", "--out", "sweep", "--eval", *words)
    assert seen == ["203.0.113.7:8765"]
    assert HOSTS not in os.environ


def test_a_variable_with_another_secret_is_refused(refused, stranger, connections, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    path = stranger / "config.toml"
    path.write_text(path.read_text().replace("url =", 'token_env = "AWS_SECRET_ACCESS_KEY"\nurl ='))
    line = refused(2, "eval", "run")
    assert "token_env = 'AWS_SECRET_ACCESS_KEY'" in line
    assert "DRIFT_" in line
    assert connections == []


class Restarting:
    """A server that stops after some images and listens again at its port a while later."""

    def __init__(self, after=None):
        self.scored, self.restarts, self._after = 0, 0, after
        self._server = RewardServer(NamedReward("mine", self._value))
        self.url, self._ended = self._server.url, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _value(self, images, prompts, metadata):
        self.scored += len(images)
        if self._after is not None and self.scored > self._after:
            self._after = None
            self._server.shutdown()
        return [v / 1e6 for v in value(images, prompts, metadata)]

    def _run(self):
        while True:
            self._server.serve_forever()
            if self._ended.is_set():
                return
            time.sleep(1.2)
            self.restarts += 1
            port = int(self.url.rpartition(":")[2])
            self._server = RewardServer(NamedReward("mine", self._value), port=port)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._server.shutdown()
        self._thread.join(30)


def rewards(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["reward/mean"] for row in rows]


@pytest.mark.usefixtures("no_report")
def test_a_run_goes_on_when_its_server_restarts(drift, small, tmp_path):
    scores = []
    for name, after in [("steady", None), ("restarted", 12)]:
        with Restarting(after) as server:
            words = [f"reward.options.remote.url={server.url}", "reward.terms={remote=1.0}"]
            sets = [word for text in words for word in ("--set", text)]
            result = drift("run", *small(), *sets, "--out", name)
            assert result.exit_code == 0, result.output
        scores.append(rewards(tmp_path / name))
    assert server.restarts == 1
    assert scores[0] == scores[1]
    assert len(scores[0]) == 2
