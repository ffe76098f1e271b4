"""How fast a machine is: one forward pass, one update and its memory, of a model on a backend.

An update is the trainer's own. Real models have their published size and random weights, so
nothing is downloaded. Each case is measured in a process of its own: libraries that share one also
share symbols (PyTorch beside MLX would multiply with MLX's OpenBLAS), and a process has one peak.
"""

import multiprocessing
import os
import signal
import statistics
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import DriftError, RequestError

if TYPE_CHECKING:
    from common.backends import Backend, Policy
    from common.config import Config

EMBEDDED = "embedded"

REAL: dict[str, tuple[str, str]] = {
    "flux-schnell": ("flux-schnell-mac64-grpo", "bfloat16"),
    "sd35m": ("sd35m-mac32-grpo", "bfloat16"),
    "sd15": ("sd15-mac16-ddpo", "float32"),
}
"""Real models, the largest first: their recipe, and the type of their weights without a GPU."""

MODELS = (EMBEDDED, *reversed(REAL))

PROMPT = "a red fox"
FEW = (
    "prompts.split=all",
    "rollout.prompts=1",
    "rollout.group_size=2",
    "rollout.steps=4",
    "rollout.window=0",
    "rollout.trained_steps=2",
    "objective.zero_advantage=keep",  # two equal rewards must not leave the update out
    "reward.terms={jpeg_compressibility = 1.0}",
)
"""An update of a real model: two images of one prompt, a few steps, and a reward of no weight."""

TIMED = 3
"""Forward passes, and updates, that are timed after one of each that warms up."""

STAGES = 5 + TIMED
"""How often a measurement in a process of its own says what it does next."""

ROOM = 0.9
"""The share of a device's memory that an estimate may fill; the rest is everybody else's."""

OnStage = Callable[[str], None]


class RefusedError(RequestError):
    """A case that cannot be measured here; one line that says why."""


class FailedError(DriftError, RuntimeError):
    """A measurement that broke; one line that says how."""


@dataclass(frozen=True)
class Case:
    """What is measured: a backend, one of MODELS, and changes as `--set` writes them."""

    backend: str
    model: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """dtype: of the frozen weights. pixels: of a side. forward, update: median seconds.

    batch: images of a forward pass. images: of an update, of so many steps, some of them trained,
    at a scale of guidance (1 is none). peak: bytes, as `Backend.device_memory` has them.
    """

    backend: str
    model: str
    dtype: str
    pixels: int
    batch: int
    forward: float
    images: int
    steps: int
    trained: int
    guidance: float
    update: float
    peak: int

    @property
    def images_per_second(self) -> float:
        """Images sampled, scored and learned from in a second."""
        return self.images / self.update


def measure_in_subprocess(case: Case, on_stage: OnStage) -> Measurement:
    """Measure in a process of its own, which never outlives this call.

    on_stage: called with each stage when it starts. Raises RefusedError and FailedError.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, case), daemon=True)
    process.start()
    there.close()
    try:
        on_stage("starting")
        while True:
            kind, value = here.recv()
            if kind == "measured":
                return value
            if kind == "stage":
                on_stage(value)
            else:
                text, trace = value
                error = (RefusedError if kind == "refused" else FailedError)(text)
                error.add_note(trace)
                raise error
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        why = ", which is what a system does that has no more memory" if code == -9 else ""
        raise FailedError(f"its process {how}{why}") from None
    finally:
        process.terminate()
        process.join()
        here.close()


def measure(case: Case, on_stage: OnStage) -> Measurement:
    """Measure in this process. Raises RefusedError before it allocates what would not fit."""
    from common import backends
    from common.progress import NullObserver
    from common.runs.directory import RunDirectory
    from common.trainer import Trainer

    backend = backends.load(case.backend)
    with tempfile.TemporaryDirectory(prefix="drift-bench-") as folder:
        config = configured(case, Path(folder), gpu=backend.gpu)
        on_stage("estimating memory")
        refuse_too_large(backend, config, case.model)
        on_stage("making the model")
        policy = _policy(backend, config)
        run = RunDirectory.create(Path(folder) / "run", config, {})
        trainer = Trainer(
            config, backend, run, observer=NullObserver(), stop=threading.Event(), policy=policy
        )
        on_stage("forward passes")
        batch = min(config.rollout.batch_size, config.rollout.prompts * config.rollout.group_size)
        forward = _forward(backend, policy, config, batch)
        on_stage("an update, to warm up")
        trainer.step()
        records = []
        for number in range(TIMED):
            on_stage(f"update {number + 1} of {TIMED}")
            records.append(trainer.step())
    (image,) = policy.decode(backend.asarray(np.zeros((1, *policy.latent_shape))))
    return Measurement(
        case.backend,
        case.model,
        dtype=backend.dtype if case.model == EMBEDDED else config.model.dtype,
        pixels=len(image),
        batch=batch,
        forward=forward,
        images=int(records[0]["images"]),
        steps=config.rollout.steps,
        trained=trainer.plan()["trained_steps"],
        guidance=config.rollout.guidance,
        update=statistics.median(record["seconds"] for record in records),
        peak=backend.device_memory()["peak"],
    )


def configured(case: Case, folder: Path, *, gpu: bool) -> "Config":
    """The configuration of a case; its prompt is put into the folder.

    The embedded model's is the recipe that `drift run` takes when none is named.
    """
    from common import config as configuration

    own = [f"run.backend={case.backend}", *case.changes]
    if case.model == EMBEDDED:
        return configuration.load("emoji", own)
    recipe, dtype = REAL[case.model]
    prompts = folder / "prompts.txt"
    prompts.write_text(f"{PROMPT}\n", encoding="utf-8")
    given = (*FEW, f"prompts.source={prompts}", *([] if gpu else [f"model.dtype={dtype}"]))
    return configuration.load(recipe, [*given, *own])


def refuse_too_large(backend: "Backend", config: "Config", model: str) -> None:
    """Raise RefusedError where a real model needs more memory than there is, by estimate."""
    if config.model.family == EMBEDDED:
        return
    shape = backend.random_policy(config.model, config.adapter, weights=False)
    stages = backend.estimate(shape, config, PROMPT)
    stage = max(stages, key=lambda name: stages[name])
    total = backend.device_memory()["total"]
    if stages[stage] > ROOM * total:
        raise RefusedError(
            f"{model} does not fit on {backend.name}: an estimated {stages[stage] / 1e9:.1f} GB, "
            f"{stage}; {ROOM:.0%} of {total / 1e9:.1f} GB may be used"
        )


def _policy(backend: "Backend", config: "Config") -> "Policy":
    if config.model.family == EMBEDDED:
        return backend.policy(config.model, config.adapter, seed=config.run.seed)
    return backend.random_policy(config.model, config.adapter)


def _forward(backend: "Backend", policy: "Policy", config: "Config", batch: int) -> float:
    """Median seconds of an unguided prediction for a batch of noise."""
    from common.random import Key, Purpose, normal
    from common.sampling.process import make_process

    process, prompt = make_process(policy, config.rollout), PROMPT
    if config.model.family == EMBEDDED:
        prompt = config.prompts.names[0]  # its vocabulary is small
    seconds = []
    with backend.inference():
        x = backend.asarray(normal(Key(0, Purpose.DATA), (batch, *policy.latent_shape)))
        times = policy.embed_time(process.times[[0] * batch])
        conditioning = policy.encode([prompt] * batch)
        for _ in range(1 + TIMED):
            backend.synchronize()
            start = time.perf_counter()
            backend.evaluate(policy.predict(x, times, conditioning))
            backend.synchronize()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _work(there: Connection, case: Case) -> None:
    """The process of a case: say what it does, then what it measured or why not."""
    from common.backends import OutOfMemoryError

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")
    try:
        there.send(("measured", measure(case, lambda text: there.send(("stage", text)))))
    except ValueError as error:
        there.send(("refused", (" ".join(str(error).split()), traceback.format_exc())))
    except OutOfMemoryError as error:
        there.send(("failed", (str(error).partition(";")[0], traceback.format_exc())))
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        there.send(("failed", (text, traceback.format_exc())))


def _end_with_parent() -> None:
    """End this process when the one that started it is no more, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
