"""`drift audit`: did the images get better, or was the scorer fooled?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.errors import preparing

if TYPE_CHECKING:
    from common.audit.measure import Audit
    from common.backends import Policy


@click.command(short_help="Tell whether the reward was hacked.")
@click.argument("directory", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--checkpoint", default="latest", show_default=True, metavar="N|latest")
@click.option(
    "--images", type=click.IntRange(min=2), default=16, show_default=True, help="Of each prompt."
)
@click.option(
    "--prompts", type=click.IntRange(min=0), default=0, help="Only so many; 0 = the run's all."
)
@click.option(
    "--scorer", "scorers", multiple=True, metavar="NAME",
    help="A held-out scorer.  [default: all that work here]",
)  # fmt: skip
@click.option("--group-by", metavar="KEY", help="Metadata of the prompts to compare groups by.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="[default: the run's]")
@click.option("--backend", metavar="auto|mlx|cuda|cpu", help="[default: the run's, else auto]")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.html",
              help="[default: RUN/audit-NNNNNN.html]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def audit(
    directory: Path,
    checkpoint: str,
    images: int,
    prompts: int,
    scorers: tuple[str, ...],
    group_by: str | None,
    seed: int | None,
    backend: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare base and tuned images of RUN by scorers that it did not maximise.

    The page says how far tuning moved the reward, every other scorer and each image statistic,
    how much of the reward the statistics explain, and shows the images that scorers disagree on
    most. The exit code is 0 whatever the verdict is.
    """
    from common.audit import measure
    from common.console import console
    from common.prompts import load, of_split
    from common.report import audit_page
    from common.runs import files
    from common.runs.directory import RunDirectory
    from common.sampling.ode import sample_images
    from common.sampling.process import make_process
    from common.workflows.sample import checkpoint_path, choose_backend

    with preparing(), console.status("loading"):
        run = RunDirectory.open(directory)
        config = run.config
        seed = config.run.seed if seed is None else seed
        chosen = [*of_split(load(config.prompts), "all", prompts)]
        path = checkpoint_path(run, checkpoint)
        engine = choose_backend(backend, run)
        held_out = measure.Scorers(config.reward, engine, scorers or None)
        policy = engine.policy(config.model, config.adapter, seed=config.run.seed)
        policy.check([prompt.text for prompt in chosen])
    measured = []
    for weights in (None, path):
        with console.status("base model" if weights is None else f"checkpoint {path.name}"):
            if weights is not None:
                _restore(policy, weights)
            made = sample_images(
                policy,
                engine,
                make_process(policy, config.rollout, config.evaluate.steps),
                [prompt.text for prompt in chosen],
                images,
                seed=seed,
                batch_size=config.rollout.batch_size,
            )
            measured.append(held_out.side(made, chosen))
    base, tuned = measured
    found = measure.compare(
        base, tuned, chosen, skipped=held_out.skipped, group_by=group_by, seed=seed
    )
    out = out or run.path / f"audit-{path.name}.html"
    facts = [f"update {int(path.name)}", f"{len(chosen)} prompts", f"{images} images of each"]
    text = audit_page.render(found, title=run.path.name, facts=[*facts, f"seed {seed}"])
    with files.os_errors_as(f"write {out}"):
        files.write_whole(out, text.encode())
    _tell(found, out, as_json)


def _restore(policy: "Policy", path: Path) -> None:
    from common.runs import checkpoint

    snapshot = checkpoint.load(path)
    policy.load_parameters(snapshot.ema or snapshot.parameters)


def _tell(found: "Audit", out: Path, as_json: bool) -> None:
    from common.console import say, table

    if as_json:
        click.echo(json.dumps(_plain(found, out), indent=2))
        return
    rows = []
    for name, effect in found.effects.items():
        low, high = found.intervals[name]
        shares = found.explained.get(name)
        rows.append(
            {
                "": name,
                "effect": f"{effect:+.2f}",
                "95 %": f"{low:+.2f} to {high:+.2f}",
                "explains": f"{shares[0]:.0%}, then {shares[1]:.0%}" if shares else "",
            }
        )
    table(rows, right=("effect", "95 %", "explains"))
    for name, why in found.skipped.items():
        say(f"left out: {name}: {why}")
    say("")
    say(f"{found.verdict.level}: {found.verdict.sentence}")
    say(f"page  {out}")


def _plain(found: "Audit", out: Path) -> dict[str, object]:
    def finite(value: float) -> float | None:
        return value if abs(value) < float("inf") else None

    return {
        "verdict": found.verdict.level,
        "sentence": found.verdict.sentence,
        "findings": [
            {"rule": f.rule.name, "value": finite(f.value), "about": f.about, "level": f.level}
            for f in found.verdict.findings
        ],
        "effects": {name: finite(value) for name, value in found.effects.items()},
        "explained": {name: list(shares) for name, shares in found.explained.items()},
        "diversity": [found.base.diversity, found.tuned.diversity],
        "skipped": found.skipped,
        "page": str(out),
    }
