"""`drift audit`: did the images get better, or did they only fool the reward?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from common.commands import complete
from common.commands.path_type import FilePath
from common.commands.trust import trust_option
from common.errors import preparing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from common.audit.measure import Audit, Side
    from common.backends import Backend, Policy
    from common.config import Config
    from common.prompts import Prompt


@click.command(short_help="Check a run for reward hacking.")
@click.argument("directory", metavar="RUN", type=FilePath())
@click.option("--checkpoint", default="latest", show_default=True, metavar="N|latest")
@click.option(
    "--images", type=click.IntRange(min=2), default=16, show_default=True, help="Of each prompt."
)
@click.option(
    "--prompts",
    type=click.IntRange(min=0),
    default=0,
    help="At most so many; 0 = all of the run's.",
)
@click.option(
    "--scorer", "scorers", multiple=True, metavar="NAME",
    help="A held-out scorer.  [default: all that work here, and evaluate.scorers]",
)  # fmt: skip
@click.option(
    "--group-by", metavar="KEY", help="Compare groups of prompts by this key of their metadata."
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N", help="[default: the run's]")
@click.option(
    "--backend",
    metavar="auto|mlx|cuda|cpu",
    shell_complete=complete.backends,
    help="[default: the run's, else auto]",
)
@click.option("--out", type=FilePath(), metavar="FILE.html",
              help="[default: RUN/audit-NNNNNN.html]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@trust_option
@click.pass_context
def audit(
    ctx: click.Context,
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
    trust: bool,
) -> None:
    """Compare base and tuned images of RUN by scorers that it did not maximise.

    The page shows how far tuning moved the reward, every other scorer and each image statistic,
    how much of the reward the statistics explain, and the images on which the scorers disagree
    most. The exit code is 0 for every verdict.
    """
    from common import consent
    from common.audit import measure
    from common.console import console
    from common.prompts import load, of_split
    from common.rewards import features
    from common.runs.checkpoint import load as load_checkpoint
    from common.runs.directory import RunDirectory
    from common.workflows.sample import checkpoint_path, choose_backend

    ctx.with_resource(consent.required_for(directory, (), trust=trust))
    with preparing(), console.status("loading"):
        run = RunDirectory.open(directory)
        config, seed = run.config, run.config.run.seed if seed is None else seed
        chosen = [*of_split(load(config.prompts), "all", prompts)]
        path = checkpoint_path(run, checkpoint)
        engine = choose_backend(backend, run)
        held_out = measure.Scorers(config.reward, engine, scorers or None, evaluate=config.evaluate)
        policy = engine.policy(config.model, config.adapter, seed=config.run.seed)
        policy.check([prompt.text for prompt in chosen])

    def measured() -> "Side":
        return held_out.side(_sample(policy, engine, config, chosen, images, seed), chosen)

    with console.status("base model"):
        base = measured()
    with console.status(f"checkpoint {path.name}"):
        policy.load_parameters(load_checkpoint(path).weights)
        tuned = measured()
    result = measure.compare(
        base,
        tuned,
        chosen,
        skipped=held_out.skipped,
        group_by=group_by,
        seed=seed,
        maximised=held_out.maximised,
        shaping=features.shaping(config),
    )
    out = out or run.path / f"audit-{path.name}.html"
    facts = f"update {int(path.name)}", f"{len(chosen)} prompts", f"{images} images of each"
    _write_page(out, result, run.path.name, [*facts, f"seed {seed}"])
    _print_result(result, out, as_json)


def _sample(
    policy: "Policy",
    engine: "Backend",
    config: "Config",
    prompts: "Sequence[Prompt]",
    count: int,
    seed: int,
) -> "np.ndarray":
    """`count` images of each prompt from the policy's weights: uint8 [P, n, H, W, 3]."""
    from common.sampling.ode import sample_images
    from common.sampling.process import make_process

    return sample_images(
        policy,
        engine,
        make_process(policy, config.rollout, config.evaluate.steps),
        [prompt.text for prompt in prompts],
        count,
        seed=seed,
        batch_size=config.rollout.batch_size,
    )


def _write_page(out: Path, result: "Audit", title: str, facts: "Sequence[str]") -> None:
    from common.report import audit_page
    from common.runs import files

    text = audit_page.render(result, title=title, facts=facts)
    with files.os_errors_as(f"write {out}"):
        files.write_whole(out, text.encode())


def _print_result(result: "Audit", out: Path, as_json: bool) -> None:
    from common.console import say, table

    if as_json:
        click.echo(json.dumps(_as_json(result, out), indent=2))
        return
    rows = []
    for name, effect in result.effects.items():
        low, high = result.intervals[name]
        shares = result.explained.get(name)
        rows.append(
            {
                "": name,
                "effect": f"{effect:+.2f}",
                "95 %": f"{low:+.2f} to {high:+.2f}",
                "explains": f"{shares[0]:.0%}, then {shares[1]:.0%}" if shares else "",
            }
        )
    table(rows, right=("effect", "95 %", "explains"))
    for name, before in result.base.diversity.items():
        shapes = " (these features shape the reward)" if name in result.shaping else ""
        say(f"diversity in {name}: {before:.3f} to {result.tuned.diversity[name]:.3f}{shapes}")
    for name, why in result.skipped.items():
        say(f"left out: {name}: {why}")
    for name, why in result.not_judged.items():
        say(f"not judged: {name}: {why}")
    say("")
    say(f"{result.verdict.level}: {result.verdict.sentence}")
    say(f"page  {out}")


def _as_json(result: "Audit", out: Path) -> dict[str, object]:
    def finite(value: float) -> float | None:
        return value if abs(value) < float("inf") else None

    before, after = result.base.diversity, result.tuned.diversity
    diversity = {name: [value, after[name]] for name, value in before.items()}
    return {
        "verdict": result.verdict.level,
        "sentence": result.verdict.sentence,
        "findings": [
            {"rule": f.rule.name, "value": finite(f.value), "about": f.about, "level": f.level}
            for f in result.verdict.findings
        ],
        "effects": {name: finite(value) for name, value in result.effects.items()},
        "explained": {name: list(shares) for name, shares in result.explained.items()},
        "diversity": next(iter(diversity.values())),
        "diversity_in": diversity,
        "shaping": list(result.shaping),
        "skipped": result.skipped,
        "not_judged": result.not_judged,
        "page": str(out),
    }
