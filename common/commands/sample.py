"""`drift sample`: images of prompts from a checkpoint of a run."""

import os
from pathlib import Path

import click

from common.choices import EXPONENT, SCALE, STRENGTH
from common.commands.path_type import FilePath
from common.commands.trust import trust_option
from common.errors import RequestError


@click.command(short_help="Draw images from a checkpoint.")
@click.argument("directory", metavar="RUN", type=FilePath())
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
    help="The update of the checkpoint; base: the model before tuning.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    metavar="N",
    help="Initial noise.  [default: the run's]",
)
@click.option(
    "--scale",
    type=click.FloatRange(*SCALE),
    default=1.0,
    show_default=True,
    help="Factor on what was trained.",
)
@click.option(
    "--prompt-noise",
    type=click.FloatRange(*STRENGTH),
    default=0.0,
    show_default=True,
    help="Strength of CADS.",
)
@click.option(
    "--aig",
    type=click.FloatRange(*EXPONENT),
    default=0.0,
    show_default=True,
    help="Exponent of annealed importance guidance; 0: none.",
)
@click.option(
    "--out",
    type=FilePath(dir_okay=False),
    metavar="FILE.png",
    help="A new file.  [default: RUN/samples/PROMPT-CHECKPOINT-seedN.png, numbered]",
)
@click.option(
    "--backend",
    metavar="auto|mlx|cuda|cpu",
    help="Where to draw; auto: the best here.  [default: the run's if it works here, else auto]",
)
@trust_option
def sample(
    directory: Path,
    prompts: tuple[str, ...],
    count: int,
    checkpoint: str,
    seed: int | None,
    scale: float,
    prompt_noise: float,
    aig: float,
    out: Path | None,
    backend: str | None,
    trust: bool,
) -> None:
    """Draw images from a checkpoint of RUN: a PNG with a row for each --prompt, under its text.

    The same seed and prompt give the same initial noise for every checkpoint, so that pictures
    can be compared image by image. No picture is replaced: without --out another one of the same
    name gets a number.
    """
    from common.runs import files
    from common.workflows import options
    from common.workflows.sample import draw

    chosen = options.checked(
        options.SampleOptions,
        prompts=prompts,
        count=count,
        seed=seed,
        scale=scale,
        prompt_noise=prompt_noise,
        aig=aig,
    )
    if out is not None and out.suffix.lower() != ".png":
        raise RequestError(f"--out {out}: write a name that ends in .png")
    if out is not None and os.path.lexists(out):
        raise RequestError(f"--out {out} exists already; remove it, or choose another name")
    drawn = draw(directory, chosen, which=checkpoint, backend=backend, trust=trust)
    if out is None:
        name = f"{_slug(prompts[0])}-{drawn.label}-seed{drawn.seed}"
        out = drawn.run.save_picture(name, drawn.images.picture(), replace=False)
    else:
        with files.os_errors_as(f"write {out}"):
            out = files.write_beside_others(out, drawn.images.png())
    click.echo(out)


def _slug(text: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in text).split()
    # File systems count bytes: a name has at most 255.
    return "-".join(words)[:60].encode()[:120].decode(errors="ignore") or "prompt"
