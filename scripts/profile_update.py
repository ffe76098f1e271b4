"""Where the wall time of an update goes: denoiser, scorers, noise, and the rest.

    python scripts/profile_update.py [--backend cpu] [--updates 5] [--set table.key=value]...

Counts the calls into the policy (a gradient call is forward, loss and backward together) and into
the scorers, and divides by the update's wall time. The first update warms up and is not counted.
"""

import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from common import config as configuration
from common.backends import load
from common.progress import NullObserver
from common.rewards import Scoring
from common.runs.directory import RunDirectory
from common.trainer import Trainer


class Profile(NullObserver):
    """An observer that adds up seconds by name; it starts again after the first update."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counted: dict[str, float] = {}
        self.rows: list[dict[str, float]] = []

    def timed(self, name: str, function: Callable[..., Any], finish: Callable[..., None]) -> Any:
        """The function, with the time of its calls, until their results are ready, under a name."""

        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            finish(result)
            self.seconds[name] += time.perf_counter() - start
            return result

        return call

    def updated(self, record: dict[str, float]) -> None:
        """Store the times of the update; drop those of the first."""
        if record["update"] > 1:
            self.rows.append(record)
            self.counted = dict(self.seconds)
        else:
            self.seconds.clear()


@click.command()
@click.option("--backend", "name", default="cpu", show_default=True)
@click.option("--updates", default=5, show_default=True)
@click.option("--set", "overrides", multiple=True)
def main(name: str, updates: int, overrides: tuple[str, ...]) -> None:
    """Profile a few updates of the emoji recipe."""
    extra = (f"run.updates={updates + 1}", "evaluate.every=1000000", "evaluate.images=2")
    config = configuration.load("emoji", [*extra, *overrides])
    backend, profile = load(name), Profile()

    def settle(result: Any) -> None:
        arrays = result if isinstance(result, tuple) else (result,)
        for array in arrays:
            backend.evaluate(*(array.values() if isinstance(array, dict) else (array,)))

    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory.create(Path(folder) / "run", config, {})
        trainer = Trainer(config, backend, run, observer=profile, stop=threading.Event())
        policy: Any = trainer.policy
        learner = trainer.learner
        forward = policy.predict
        # In the rollout only: inside a gradient call the plain function is traced.
        policy.predict = profile.timed("denoiser, sampling", forward, settle)
        gradients = learner.gradients

        def gradient_call(*args: Any, **named: Any) -> Any:
            policy.predict = forward
            try:
                return gradients(*args, **named)
            finally:
                policy.predict = timed_forward

        timed_forward = policy.predict
        learner.gradients = profile.timed("denoiser, learning", gradient_call, settle)
        assigner: Any = trainer.assigner
        assigner.features = profile.timed("scorers", assigner.features, lambda _: None)
        Scoring.result = profile.timed("scorers", Scoring.result, lambda _: None)
        trainer.run()
    report(profile)


def report(profile: Profile) -> None:
    """Print seconds and shares."""
    total = sum(row["seconds"] for row in profile.rows)
    known = profile.counted | {"host noise": sum(row["time/noise"] for row in profile.rows)}
    known["everything else"] = total - sum(known.values())
    for name, seconds in known.items():
        print(f"{name:22s} {seconds / len(profile.rows):8.3f} s  {100 * seconds / total:5.1f} %")
    print(f"{'one update':22s} {total / len(profile.rows):8.3f} s")


if __name__ == "__main__":
    main()
