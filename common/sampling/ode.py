"""Deterministic sampling along a process's ODE: only the initial noise is random."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from common import random
from common.backends import Alone, Array, Backend, Conditioning, Policy, World
from common.backends.world import dealt, in_order
from common.progress import OnProgress
from common.random import Key, Purpose
from common.sampling.process import Levels, Process

Perturb = Callable[[Conditioning, Sequence[Key], int], Conditioning]
"""(conditioning of B samples, the keys of their initial noise, step) -> another conditioning."""


def sample_images(
    policy: Policy,
    backend: Backend,
    process: Process,
    prompts: Sequence[str],
    count: int,
    *,
    seed: int,
    batch_size: int,
    first: int = 0,
    perturb: Perturb | None = None,
    tuned_shares: Sequence[float] | None = None,
    on_progress: OnProgress | None = None,
) -> np.ndarray:
    """All that `sample_batches` draws at once: uint8 [P, count, H, W, 3]; its arguments."""
    batches = sample_batches(
        policy,
        backend,
        process,
        prompts,
        count,
        seed=seed,
        batch_size=batch_size,
        first=first,
        perturb=perturb,
        tuned_shares=tuned_shares,
        on_progress=on_progress,
        world=backend.world,
    )
    shared = backend.world.share(lambda: list(batches), "sampling", passes=True)
    stacked = np.concatenate(in_order(shared))
    return stacked.reshape(len(prompts), count, *stacked.shape[1:])


def sample_batches(
    policy: Policy,
    backend: Backend,
    process: Process,
    prompts: Sequence[str],
    count: int,
    *,
    seed: int,
    batch_size: int,
    first: int = 0,
    done: int = 0,
    perturb: Perturb | None = None,
    tuned_shares: Sequence[float] | None = None,
    on_progress: OnProgress | None = None,
    world: World | None = None,
) -> Iterator[np.ndarray]:
    """`count` images of each prompt along the process's ODE, prompt by prompt.

    The initial noise depends on the seed, the prompt's text and the sample's number only, so
    that two checkpoints, two runs or two backends start from the same noise.

    Args:
        policy: predicts and decodes.
        backend: that of the policy.
        process: the denoising steps.
        prompts: P texts.
        count: images of each prompt.
        seed: of the initial noise.
        batch_size: images in one forward pass.
        first: number of the first image of each prompt: those before it are not drawn.
        done: so many images of all are there. The forward passes are the same as without them, so
            that the others have the same bits; a pass that was begun is made again.
        perturb: changes the conditioning of each step; None leaves the prompts clean.
        tuned_shares: the share of the tuned model at each step, [T] in [0, 1]; the rest is the
            model before tuning. None is 1 at every step.
        on_progress: called before the first batch and after each, with the images that are there
            and their number at the end; of those that are drawn elsewhere it counts none.
        world: the processes that share the forward passes, of which this one makes its own; None
            is one.

    Yields:
        The images from number `done` on, uint8 [n, H, W, 3] of each forward pass.
    """
    keys = [
        Key(seed, Purpose.EVALUATION, prompt=random.address(text), sample=sample)
        for text in prompts
        for sample in range(first, first + count)
    ]
    report = on_progress or (lambda done, total: None)
    units = dealt(range(done - done % batch_size, len(keys), batch_size), world or Alone())

    def new_images(start: int) -> int:
        return min(start + batch_size, len(keys)) - max(start, done)

    there, at_the_end = done, done + sum(new_images(start) for start, counts in units if counts)
    report(there, at_the_end)
    shares = [1.0] * process.steps if tuned_shares is None else tuned_shares
    with backend.inference():
        clean = policy.encode(list(prompts))
    for start, counts in units:
        part = keys[start : start + batch_size]
        with backend.inference():  # left before the caller goes on
            conditioning = clean.rows(backend.asarray((start + np.arange(len(part))) // count))
            x = backend.asarray(random.normals(part, policy.latent_shape))
            for step, share in enumerate(shares):
                levels = process.levels(backend, policy, np.full(len(part), step))
                at_step = perturb(conditioning, part, step) if perturb else conditioning
                x = process.ode(x, _mixed(process, policy, share, x, levels, at_step), levels)
                backend.evaluate(x)
            images = policy.decode(x)
        if not counts:
            continue
        there += new_images(start)
        report(there, at_the_end)
        yield images[max(done - start, 0) :]


def _mixed(
    process: Process,
    policy: Policy,
    share: float,
    x: Array,
    levels: Levels,
    conditioning: Conditioning,
) -> Array:
    """(1 - share) base + share tuned, of predictions with guidance: [B, ...], like x.

    The mean is of what the model predicts: velocities, epsilons or v. At one x and level each is
    an affine function of the score, so that this is the same mean of the two scores. A model whose
    share is 0 is not called.
    """
    if share == 1.0:
        return process.predict(policy, x, levels, conditioning)
    with policy.reference():
        base = process.predict(policy, x, levels, conditioning)
    if share == 0.0:
        return base
    return base + share * (process.predict(policy, x, levels, conditioning) - base)
