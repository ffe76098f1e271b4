"""Plain GRPO beside DRIFT: adapters that are part of the toolkit, sampled and measured afresh."""

from dataclasses import replace
from os import PathLike
from pathlib import Path

from common.choices import Split
from common.embedded.model import FOLDER
from common.errors import RequestError, preparing
from common.evaluation import measured_runs
from common.report import same_noise
from common.runs import files
from common.workflows import evaluate as evaluating
from common.workflows.compare import Comparison, compare_runs
from common.workflows.options import CompareOptions, EvaluateOptions, checked
from common.workflows.sample import load_backend

RUNS = FOLDER / "study"
"""Runs of the study without what only training needs; `scripts/make_showcase.py` makes them."""

SPLIT: Split = "train"
"""The prompts of the runs, on which plain GRPO collapses."""

AXIS, PLAIN, OURS = "reward", "emoji-grpo", "emoji"

PICTURE = "showcase.png"
"""Base model, plain GRPO and DRIFT from the same noise."""


def showcase(
    out: str | PathLike[str] = "runs/showcase",
    *,
    images: int = 12,
    steps: int = 20,
    seed: int = 0,
    backend: str | None = None,
    progress: bool = True,
) -> Comparison:
    """Sample and measure the adapters of the study and compare them at equal reward.

    The same call again measures only what is missing.

    Args:
        out: the folder of the copied runs, the measurements and the page.
        images: of each prompt, at least 2.
        steps: of the ODE.
        seed: of the initial noise, the same for every adapter.
        backend: "mlx", "cuda", "cpu" or "auto"; None: the best here.
        progress: show a line for each measured adapter; False prints nothing.

    Raises:
        drift.RequestError: a number or backend that is not valid, a folder with other runs.
        drift.Error: the work failed; finished records stay.
    """
    chosen = checked(EvaluateOptions, splits=(SPLIT,), images=images, steps=steps, seed=seed)
    place = Path(out)
    with preparing():
        load_backend(backend)  # before anything is written
        paths = copies(place)
    planned = evaluating.plan(paths, chosen, (), backend or "auto")
    evaluating.measure_all(planned, None, keep=False, quiet=not progress, trust=False)
    levels = {"gain_shares": (0.5, 0.75, 0.9), "diversity_shares": (0.95, 0.9)}
    done = compare_runs(paths, None, checked(CompareOptions, split=SPLIT, **levels), place)
    picture = place / PICTURE
    files.write_whole(picture, same_noise.draw(_panels(paths)))
    return replace(done, files=(*done.files[:-1], picture, done.page))


def _panels(paths: list[Path]) -> list[same_noise.Panel]:
    """The base model, plain GRPO and DRIFT: its last checkpoint, and GRPO's of the same reward."""
    runs = {run.directory.config.run.recipe: run for run in measured_runs.read(paths, SPLIT).runs}
    plain, ours = runs[PLAIN], runs[OURS]
    last = max(variant for variant in ours.records if not variant.changes)
    as_good = same_noise.nearest(plain, ours.records[last].mean(AXIS), AXIS)
    return same_noise.panels([("plain GRPO", plain, as_good), ("DRIFT", ours, last)], AXIS)


def copies(place: Path) -> list[Path]:
    """The folders of the study's runs below `place`, copied where they are not there yet.

    Raises RequestError where another file is in the place of one, and files.WriteError.
    """
    if place.exists() and not place.is_dir():
        raise RequestError(f"{place} is no folder; choose another --out")
    for source in sorted(path for path in RUNS.rglob("*") if path.is_file()):
        target, content = place / source.relative_to(RUNS), source.read_bytes()
        with files.os_errors_as(f"copy to {target}"):
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                files.write_whole(target, content)
            elif not target.is_file() or target.read_bytes() != content:
                raise RequestError(
                    f"{target} is not the one of this version of the toolkit; choose another --out"
                )
    return sorted(place / folder.name for folder in RUNS.iterdir() if folder.is_dir())
