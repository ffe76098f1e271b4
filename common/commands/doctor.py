"""`drift doctor`: what this machine can run, what it cannot run, and how to change that."""

import json
import re
from typing import Any

import click

from common.errors import RequestError


@click.command(short_help="Say which backends work here, and why others do not.")
@click.option("--bench", "measured", is_flag=True, help="Measure how fast this machine is.")
@click.option(
    "--backend",
    "names",
    multiple=True,
    metavar="NAME",
    help="Of --bench: only this backend; more than once for more.  [default: all that work]",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="embedded|sd15|sd35m|flux-schnell",
    help="Of --bench: this model; more than once for more.  [default: embedded, and on a GPU the "
    "largest that fits]",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="TABLE.KEY=VALUE",
    help="Of --bench: change one key of the recipes that it measures, as model.compile=true.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(
    ctx: click.Context,
    measured: bool,
    names: tuple[str, ...],
    models: tuple[str, ...],
    changes: tuple[str, ...],
    as_json: bool,
) -> None:
    """Say which backends work here, and for the others the reason and what to install.

    With --bench, measure this machine and print a block of Markdown: seconds of a forward pass and
    of an update, images per second and memory. Real models have their full size and random weights,
    so nothing is downloaded; a model that does not fit is refused before it is made.
    """
    if measured:
        from common.commands.bench import bench

        bench(ctx, names, models, changes, as_json)
        return
    for option, given in {"backend": names, "model": models, "set": changes}.items():
        if given:
            raise RequestError(f"--{option} is for --bench")
    findings = examine()
    if as_json:
        click.echo(json.dumps(findings, indent=2))
    else:
        _show(findings)


def examine() -> dict[str, Any]:
    """The findings of `drift doctor` as plain values."""
    from common import backends, machine
    from common.backends import BackendUnavailableError
    from common.backends.registry import DIFFUSIONKIT

    try:
        auto, verdict = (name := backends.best()), f"drift run takes {name}"
    except BackendUnavailableError as error:
        auto, verdict = None, f"drift run does not work here: {error}"
    examined = [_backend(name) for name in backends.names()]
    packages = {name: each for backend in examined for name, each in backend["packages"].items()}
    return {
        "machine": machine.facts(),
        "backends": examined,
        "auto": auto,
        "verdict": verdict,
        "diffusionkit": {
            "version": machine.installed("diffusionkit"),
            "install": DIFFUSIONKIT,
            "verdict": packages.get("diffusionkit", "needs the backend mlx"),
        },
        "extras": _extras(),
    }


def _backend(name: str) -> dict[str, Any]:
    from common import backends

    try:
        backend = backends.load(name)
    except Exception as error:  # a broken library may raise anything; examine the others too
        return {"name": name, "works": False, "reason": str(error), "packages": {}}
    return {
        "name": name,
        "works": True,
        "facts": backend.describe(),
        "advice": backend.advice(),
        "packages": backend.packages(),
    }


def _extras() -> list[dict[str, Any]]:
    """The optional extras and which of their packages are missing here."""
    from importlib.metadata import PackageNotFoundError, requires

    from common.machine import DISTRIBUTION, installed

    try:
        lines = requires(DISTRIBUTION) or []
    except PackageNotFoundError:
        return []
    base: set[str] = set()
    packages: dict[str, list[str]] = {}
    for line in lines:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        if name and not extra:
            base.add(name[0])
        elif name and extra and name[0] not in packages.setdefault(extra[1], []):
            packages[extra[1]].append(name[0])
    return [
        {"name": extra, "missing": [name for name in names if installed(name) is None]}
        for extra, names in packages.items()
        if not base.issuperset(names)  # an extra without packages of its own adds nothing
    ]


def _show(findings: dict[str, Any]) -> None:
    from common.console import pairs, say

    pairs(findings["machine"])
    for backend in findings["backends"]:
        verdict = "works" if backend["works"] else f"does not work: {backend['reason']}"
        say(f"\n{backend['name']}: {verdict}")
        pairs({f"  {name}": fact for name, fact in backend.get("facts", {}).items()})
        for line in backend.get("advice", []):
            say(f"  advice: {line}")
    say("\noptional")
    for extra in findings["extras"]:
        say(f"  {extra['name']}: {_missing(extra['name'], extra['missing'])}")
    say(f"  diffusionkit: {findings['diffusionkit']['verdict']}")
    say(f"\n{findings['verdict']}")


def _missing(extra: str, packages: list[str]) -> str:
    if not packages:
        return "complete"
    return f"without {', '.join(packages)}: pip install 'drift-toolkit[{extra}]'"
