"""`drift sample`: a picture of what a run's model makes of a prompt."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.errors import RequestError, preparing

if TYPE_CHECKING:
    from common.backends import Backend, Policy
    from common.runs.directory import RunDirectory

SIDE = 96
"""Pixels: smaller images are enlarged to about this size."""


@click.command(short_help="Draw images from a checkpoint.")
@click.argument("directory", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--prompt", "prompts", multiple=True, required=True, metavar="TEXT", help="One row of images."
)
@click.option(
    "--count", type=click.IntRange(min=1), default=16, show_default=True, help="Images of each."
)
@click.option(
    "--checkpoint",
    default="latest",
    show_default=True,
    metavar="N|base|latest",
    help="After which update; base: the model before tuning.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    metavar="N",
    help="Initial noise.  [default: the run's]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    help="[default: RUN/samples/prompt-CHECKPOINT-seedN.png]",
)
@click.option(
    "--backend",
    metavar="auto|mlx|cuda|cpu",
    help="Where to draw; auto: the best here.  [default: the run's if it works here, else auto]",
)
def sample(
    directory: Path,
    prompts: tuple[str, ...],
    count: int,
    checkpoint: str,
    seed: int | None,
    out: Path | None,
    backend: str | None,
) -> None:
    """Draw images from a checkpoint of RUN: a PNG with a row for each --prompt.

    The same seed and prompt give the same initial noise for every checkpoint, so that pictures
    can be compared image by image.
    """
    from common import pictures
    from common.runs import files
    from common.runs.directory import RunDirectory
    from common.sampling.ode import sample_images
    from common.sampling.process import make_process

    with preparing():
        if out is not None and out.suffix.lower() != ".png":
            raise RequestError(f"--out {out}: write a name that ends in .png")
        run = RunDirectory.open(directory)
        settings = run.config
        seed = settings.run.seed if seed is None else seed
        engine = backend_of(backend, run)
        policy = engine.policy(settings.model, settings.adapter, seed=settings.run.seed)
        label = _restore(policy, run, checkpoint)
        policy.check(prompts)
    images = sample_images(
        policy,
        engine,
        make_process(policy, settings.rollout, settings.evaluate.steps),
        prompts,
        count,
        seed=seed,
        batch_size=settings.rollout.batch_size,
    )
    picture = pictures.grid(images, scale=max(1, SIDE // images.shape[2]))
    if out is None:
        out = run.save_picture(f"{_slug(prompts[0])}-{label}-seed{seed}", picture)
    else:
        with files.os_errors_as(f"write {out}"):
            files.write_whole(out, pictures.encode_png(picture))
    click.echo(out)


def backend_of(wanted: str | None, run: "RunDirectory") -> "Backend":
    """The backend asked for; without one the run's, or the best where the run's is not to be had.

    A run may have been trained on another machine, with a backend that this one lacks.
    """
    from common import backends
    from common.backends import BackendUnavailableError

    own = run.config.run.backend
    if wanted is None and own in backends.names():
        with suppress(BackendUnavailableError):
            return backends.load(own)
    return backends.load(backends.best() if wanted in (None, "auto") else wanted)


def _restore(policy: "Policy", run: "RunDirectory", which: str) -> str:
    """Give the policy the weights of a checkpoint; returns what to call it in a file name.

    A moving average is preferred where there is one: it is what the run's evaluations measure.
    """
    from common.runs import checkpoint

    if which == "base":
        return which
    path = checkpoint_of(run, which)
    snapshot = checkpoint.load(path)
    policy.load_parameters(snapshot.ema or snapshot.parameters)
    return path.name


def checkpoint_of(run: "RunDirectory", which: str) -> Path:
    """The checkpoint that `--checkpoint` names: after an update, or the latest."""
    from common.runs import checkpoint

    path = checkpoint.latest(run.checkpoints)
    if which != "latest":
        if not which.isdecimal():
            raise RequestError(
                f"--checkpoint {which}: write the number of an update, base or latest"
            )
        path = run.checkpoints / f"{int(which):06d}"
        if not path.is_dir():
            raise RequestError(
                f"no checkpoint after update {int(which)} in {run.path}{_there(run)}"
            )
    if path is None:
        raise RequestError(f"{run.path} has no checkpoint yet; --checkpoint base is there")
    return path


def _there(run: "RunDirectory") -> str:
    names = sorted(path.name for path in run.checkpoints.glob("[0-9]*"))
    return f"; there are {', '.join(str(int(name)) for name in names)}" if names else ""


def _slug(text: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in text).split()
    return "-".join(words)[:60] or "prompt"
