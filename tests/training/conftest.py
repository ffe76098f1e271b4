"""Tiny real runs: the shipped model, two prompts, four samples, three steps."""

import threading

import pytest

from common import config as configuration
from common.backends import load
from common.runs.directory import RunDirectory
from common.trainer import Trainer

TINY = (
    'prompts.names=["rose", "owl"]',
    "run.updates=2",
    "rollout.prompts=2",
    "rollout.group_size=4",
    "rollout.steps=3",
    "rollout.window=0",
    "rollout.batch_size=8",
    "objective.micro_batch=8",
    "evaluate.images=2",
    "evaluate.steps=2",
    "evaluate.grid=2",
    "checkpoint.every=1",
)


class Record:
    """An observer that remembers."""

    def __init__(self):
        self.plan, self.updates, self.evaluations, self.paths = {}, [], [], []
        self.parts = []

    def rewritten(self, done, total):
        self.rewrote = done, total

    def started(self, plan):
        self.plan = plan

    def advanced(self, stage, done, total):
        self.parts.append((stage, done, total))

    def updated(self, record):
        self.updates.append(record)

    def evaluated(self, record):
        self.evaluations.append(record)

    def saved(self, path):
        self.paths.append(path)


@pytest.fixture(scope="session", params=["cpu", "mlx"])
def backend(request):
    """Both backends; the same tests hold on each."""
    return load(request.param)


@pytest.fixture(scope="session")
def tiny_settings():
    """What makes a run tiny, as `--set` writes it."""
    return TINY


@pytest.fixture(scope="session")
def tiny():
    """Makes the tiny configuration, with changes."""
    return lambda *changes: configuration.load("emoji", [*TINY, *changes])


@pytest.fixture(scope="session")
def train(tmp_path_factory):
    """Runs a configuration in a directory of its own; gives (run directory, record, finished)."""

    def run(config, backend, path=None, stop_after=None):
        path = path or tmp_path_factory.mktemp("run") / "run"
        exists = (path / "config.toml").exists()
        directory = RunDirectory.open(path) if exists else RunDirectory.create(path, config, {})
        record, stop = Record(), threading.Event()
        if stop_after is not None:
            original = record.updated

            def updated(row):
                original(row)
                if len(record.updates) == stop_after:
                    stop.set()

            record.updated = updated
        finished = Trainer(config, backend, directory, observer=record, stop=stop).run()
        return directory, record, finished

    return run


@pytest.fixture(scope="session")
def final_bytes():
    """Bytes of the trained parameters of a run's newest checkpoint, or of that of an update."""

    def read(directory, update=None):
        newest = max(path for path in directory.checkpoints.iterdir() if path.name.isdigit())
        where = newest if update is None else directory.checkpoints / f"{update:06d}"
        (file,) = [*where.glob("adapter_model.safetensors"), *where.glob("model.safetensors")]
        return file.read_bytes()

    return read
