"""Runs every stage on every backend and on the float64 reference, and compares them in pairs."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import combinations

from common import backends as registry
from common.backends import BackendUnavailableError
from common.errors import existing
from common.parity import losses, single, whole
from common.parity.backend_under_test import BackendUnderTest
from common.parity.measure import Measured, StageResult, between

REFERENCE = "float64"

Progress = Callable[[str], None]
"""Called with a line that says what is computed next."""

Work = Callable[[BackendUnderTest], Iterator[Measured]]


def compare(
    names: Sequence[str],
    *,
    observer: Progress | None = None,
    only: Collection[str] = (),
) -> list[StageResult]:
    """Every stage of an update on each backend, compared with float64 and with each other.

    Args:
        names: backends to compare, such as ["cpu", "mlx"]; one that is named twice counts once.
        observer: called with a few words before each piece of work.
        only: titles of WORK to do; empty does it all.

    Returns:
        A result for each stage and pair, stages in the order of an update; of each stage first
        the backends against the float64 reference (PyTorch on the CPU), then against each other.

    Raises:
        ValueError: no backend is named, or a name is not registered, or `only` names no work.
        BackendUnavailableError: one of them, or the reference, cannot run here.
    """
    for title in set(only) - WORK.keys():
        raise ValueError(f"nothing called '{title}' to compare{existing(WORK)}")
    subjects = _backends_under_test(names)
    pairs = _pairs(list(subjects))
    results = []
    for title, work in WORK.items():
        if only and title not in only:
            continue
        measured = {}
        for label, subject in subjects.items():
            if observer is not None:
                observer(f"{title} on {label}")
            measured[label] = list(work(subject))
        for stages in zip(*measured.values(), strict=True):
            by_label = dict(zip(measured, stages, strict=True))
            results += [between(f"{a} vs {b}", by_label[a], by_label[b]) for a, b in pairs]
    return results


WORK: dict[str, Work] = {
    "prompt encoder": single.prompt_encoder,
    "time features": single.time_features,
    "prompt noise": single.noised_prompt,
    "conditioning": whole.conditioning,
    "model": single.layers,
    "adapter": single.adapter,
    "gradients": single.gradients,
    "transitions": single.transitions,
    "objective": partial(losses.losses, table=losses.OBJECTIVE),
    "guidance": partial(losses.losses, table=losses.GUIDANCES),
    "objectives of kernels": partial(losses.losses, table=losses.KERNELS),
    "accumulation": losses.accumulated,
    "moving average": losses.moving_average,
    "optimizer": single.optimizer,
    "scorers": single.scorers,
    "credit": whole.assigned_credit,
    "rollout": whole.rollout,
    "updates": whole.updates,
}
"""Pieces of work by title; each gives one stage or more."""


def _backends_under_test(names: Sequence[str]) -> dict[str, BackendUnderTest]:
    """Backends by label, the reference last. All backends load before anything is computed."""
    if not names:
        raise ValueError("no backend to compare: name one or more, such as cpu,mlx")
    backends = {name: registry.load(name) for name in names}
    try:
        reference = BackendUnderTest(registry.load("cpu", dtype="float64"))
    except BackendUnavailableError as error:
        raise BackendUnavailableError(f"the float64 reference needs PyTorch: {error}") from None
    return {name: BackendUnderTest(backend, reference) for name, backend in backends.items()} | {
        REFERENCE: reference
    }


def _pairs(labels: Sequence[str]) -> list[tuple[str, str]]:
    """(backend, reference) for every backend, then every two backends."""
    *names, reference = labels
    return [(name, reference) for name in names] + list(combinations(names, 2))
