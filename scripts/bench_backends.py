"""How long one update takes on each backend, in turn in one process, and their ratio.

    python scripts/bench_backends.py --backends cpu,mlx [--updates 3] [--set table.key=value]...

The first update of each warms up and is not counted. Prints medians; quote the ratio.
"""

import statistics
import tempfile
import threading
from pathlib import Path

import click

from common import config as configuration
from common.backends import load
from common.run_directory import RunDirectory
from common.trainer import Silent, Trainer


@click.command()
@click.option("--backends", default="cpu,mlx", show_default=True)
@click.option("--updates", default=3, show_default=True)
@click.option("--set", "overrides", multiple=True)
def main(backends: str, updates: int, overrides: tuple[str, ...]) -> None:
    """Time updates of the emoji recipe on each backend, one after the other."""
    config = configuration.load("emoji", overrides)
    names = backends.split(",")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {}
        for name in names:
            run = RunDirectory.create(Path(folder) / name, config, {})
            trainers[name] = Trainer(
                config, load(name), run, observer=Silent(), stop=threading.Event()
            )
        for update in range(updates + 1):
            for name, trainer in trainers.items():
                record = trainer.step()
                if update:
                    seconds[name].append(record["seconds"])
    first = statistics.median(seconds[names[0]])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:6s} {median:8.2f} s an update   {median / first:6.2f} x {names[0]}")


if __name__ == "__main__":
    main()
