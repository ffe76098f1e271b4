"""Seconds of one update on each backend, each in its own process, and their ratio.

    python -m scripts.bench_backends --backends cpu,mlx [--updates 3] [--set table.key=value]...

The backends take turns at every update, A B A B, so that a machine that slows down does so for
all. The first update of each is a warm-up and not counted. `mlx+compile` is MLX with
`model.compile`. Prints medians of the wall time; quote the ratio.
"""

import statistics

import click

from scripts.peers.backends import EMBEDDED, take_turns


@click.command()
@click.option("--backends", default="cpu,mlx", show_default=True)
@click.option("--updates", default=3, show_default=True)
@click.option("--set", "changes", multiple=True)
def main(backends: str, updates: int, changes: tuple[str, ...]) -> None:
    """Time updates of the emoji recipe on each backend, one after the other."""
    names = backends.split(",")
    spent = take_turns(names, EMBEDDED, "tiny", updates, changes)
    medians = {name: statistics.median([c.wall for c in spent[name]]) for name in names}
    for name, median in medians.items():
        ratio = median / medians[names[0]]
        print(f"{name:12s} {median:8.2f} s an update   {ratio:6.2f} x {names[0]}")


if __name__ == "__main__":
    main()
