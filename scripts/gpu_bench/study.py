"""The emoji study where noise of the optimizer is small: many small steps, several seeds at once.

A quarter of the recipes' learning rate and four times their updates, plain GRPO and DRIFT with the
same seeds, as many seeds as the time allows. First it is counted how many updates a second one
process makes, and then how many all of them make together.
"""

import multiprocessing
import os
import queue
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common import config as configuration
from common.backends import load
from common.config import Config
from common.progress import NullObserver
from common.runs.directory import RunDirectory
from common.trainer import Trainer
from scripts.gpu_bench.context import Context, spread

__all__ = ["study"]

METHODS = ("emoji-grpo", "emoji")
SHOWN = ("reward", "alignment_heldout", "diversity", "high_frequency")
FACTOR = 4
TINY = (
    *('prompts.names=["rose", "owl"]', "rollout.prompts=2", "rollout.group_size=2"),
    *("rollout.steps=4", "rollout.window=1", "evaluate.images=2", "evaluate.steps=2"),
    *("evaluate.grid=2", "run.updates=2"),
)


@dataclass(frozen=True)
class Job:
    """One run: a method and a seed, in a folder of its own."""

    method: str
    seed: int


def study(context: Context) -> dict[str, Any]:
    """Rates of one process and of many, and every run that came to its end."""
    workers = context.pick(8, 4, 2)
    budget = context.pick(120.0, 8.0, 10.0)
    figures: dict[str, Any] = {
        "workers": workers,
        "settings": list(changes("emoji-grpo", context)),
        "one_process": _work(context, 1, 1, context.pick(10.0, 4.0, 10.0))["rate"],
    }
    context.keep(figures)
    seeds = context.pick(64, 2, 1)
    figures |= _work(context, workers, seeds, budget)
    figures["updates_per_s"] = {"1": figures.pop("one_process"), str(workers): figures.pop("rate")}
    figures["pairs"] = pairs(figures["runs"])
    return figures


def changes(method: str, context: Context) -> tuple[str, ...]:
    """Changes to the recipe: its learning rate and its updates."""
    config = configuration.load(method, context.pick((), (), TINY))
    updates = FACTOR * config.run.updates if context.mode == "full" else 2
    return (
        *context.pick((), (), TINY),
        f"optimizer.learning_rate={config.optimizer.learning_rate / FACTOR}",
        f"run.updates={updates}",
        f"evaluate.every={updates}",
        f"checkpoint.every={updates}",
    )


def pairs(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """DRIFT less plain GRPO at the last update, over the seeds that both have ended."""
    plain, drift = (
        {run["seed"]: run["last"] for run in runs if run["method"] == m} for m in METHODS
    )
    seeds = sorted(plain.keys() & drift.keys())
    if not seeds:
        return {"seeds": []}
    differences = {
        name: spread([drift[seed][name] - plain[seed][name] for seed in seeds]) for name in SHOWN
    }
    return {"seeds": seeds, "differences": differences}


def _work(context: Context, workers: int, seeds: int, seconds: float) -> dict[str, Any]:
    """Let processes take jobs until the time is over; updates a second, and the runs that ended."""
    method = multiprocessing.get_context(context.pick("spawn", "spawn", "fork"))
    jobs, done = method.Queue(), method.Queue()
    for seed in range(seeds):
        for name in METHODS:
            jobs.put(Job(name, seed))
    start = method.Barrier(workers)
    folder = context.folder / f"study-{workers}"
    arguments = (context, jobs, done, start, seconds, folder)
    processes = [method.Process(target=_worker, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    reports = []
    while len(reports) < workers:
        try:
            reports.append(done.get(timeout=1.0))
        except queue.Empty:
            if any(process.exitcode for process in processes):
                raise RuntimeError("a process of the study failed; its log says why") from None
    for process in processes:
        process.join()
    runs = sorted((run for report in reports for run in report["runs"]), key=_order)
    unfinished = sum(report["unfinished"] for report in reports)
    return {
        "rate": sum(report["rate"] for report in reports),
        "runs": runs,
        "unfinished": unfinished,
    }


def _order(run: dict[str, Any]) -> tuple[int, int]:
    return run["seed"], METHODS.index(run["method"])


def _worker(context: Context, jobs: Any, done: Any, start: Any, seconds: float, out: Path) -> None:
    """Take jobs while there is time for another one."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // start.parties))
    backend = load(context.backend)
    start.wait()
    end, spent, runs, unfinished = time.monotonic() + seconds, [], [], 0
    while True:
        longest = max((run["seconds"] for run in runs), default=0.0)
        if time.monotonic() + longest >= end:
            break
        try:
            job = jobs.get_nowait()
        except queue.Empty:
            break
        ended, rows = _run(context, backend, job, out, end)
        spent += [row["seconds"] for row in rows[1:]]
        runs += [ended] if ended else []
        unfinished += ended is None
    rate = 1.0 / statistics.median(spent) if spent else 0.0
    done.put({"runs": runs, "rate": rate, "unfinished": unfinished})


def _run(
    context: Context, backend: Any, job: Job, out: Path, end: float
) -> tuple[dict[str, Any] | None, list[dict[str, float]]]:
    """Train one job; None where the time was over before its last update."""
    settings = (*changes(job.method, context), f"run.seed={job.seed}")
    config: Config = configuration.load(job.method, settings)
    directory = RunDirectory.create(out / f"{job.method}-{job.seed}", config, {})
    stop, start = threading.Event(), time.monotonic()
    timer = threading.Timer(max(end - start, 0.0), stop.set)
    timer.daemon = True
    timer.start()
    finished = Trainer(config, backend, directory, observer=NullObserver(), stop=stop).run()
    timer.cancel()
    rows = directory.metrics()
    if not finished:
        return None, rows
    measured = [{name: row[name] for name in SHOWN} for row in directory.evaluations()]
    return {
        "method": job.method,
        "seed": job.seed,
        "updates": len(rows),
        "seconds": time.monotonic() - start,
        "first": measured[0],
        "last": measured[-1],
    }, rows
