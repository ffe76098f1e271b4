"""`drift rewards`: the rewards that work here, and a server for one of them."""

import json
import os
import signal
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from common.errors import RequestError

if TYPE_CHECKING:
    from common.rewards import RewardInfo


class _RewardGroup(click.Group):
    """A group of commands that takes any other word as the name of a reward."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """`drift rewards ocr` is `drift rewards show ocr`."""
        known = args[0] in self.commands
        return super().resolve_command(ctx, args if known else [show.name or "", *args])


_features = click.option("--features", is_flag=True, help="Features for diversity instead.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(
    cls=_RewardGroup,
    invoke_without_command=True,
    short_help="List the rewards; serve one over HTTP.",
    subcommand_metavar="[NAME | serve NAME] [OPTIONS]",
)
@_features
@_json
@click.pass_context
def rewards(ctx: click.Context, features: bool, as_json: bool) -> None:
    """List the rewards by name, with their range; for one that does not work, what is missing.

    With a NAME: everything about that one: its scalings, options, weights and their licence. A
    recipe names rewards under [reward.terms], with a weight; so does --set
    reward.terms.NAME=WEIGHT, which replaces the recipe's. A reward may also be any importable
    module:function.
    """
    if ctx.invoked_subcommand is None:
        _list(None, features, as_json)


@rewards.command(hidden=True)
@click.argument("name")
@_features
@_json
def show(name: str, features: bool, as_json: bool) -> None:
    """Print everything about one reward."""
    _list(name, features, as_json)


@rewards.command()
@click.argument("name")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True)
@click.option(
    "--token-env",
    metavar="VARIABLE",
    help="Environment variable with the token.  [default: DRIFT_REWARD_TOKEN]",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Option of the reward."
)
@click.option(
    "--waiting",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Requests that may wait; the server refuses more with status 503.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    help="Seconds of one call.",
)
@click.option("--backend", metavar="auto|mlx|cuda|cpu", default="auto", show_default=True)
def serve(
    name: str,
    host: str,
    port: int,
    token_env: str | None,
    overrides: tuple[str, ...],
    waiting: int,
    timeout: float,
    backend: str,
) -> None:
    """Serve the reward NAME over HTTP until Ctrl-C or SIGTERM; the reward `remote` is its client.

    Requests and answers are JSON, images PNG. Only this machine can reach it, unless --host says
    otherwise, which needs a token.
    """
    from importlib.util import find_spec

    from common import backends
    from common.console import pairs, say
    from common.errors import preparing
    from common.rewards import create
    from common.workflows import interrupts

    with preparing():
        if find_spec("uvicorn") is None:
            raise RequestError("a server needs uvicorn: pip install 'drift-toolkit[rewards]'")
        from common.rewards.server import RewardServer

        token = _token(host, token_env)
        engine = backends.load(backends.best() if backend == "auto" else backend)
        reward = create(name, engine, _options(overrides))
        try:
            server = RewardServer(
                reward,
                host=host,
                port=port,
                token=token,
                waiting=waiting,
                timeout=timeout,
                say=say,
            )
        except OSError as error:
            raise RequestError(f"cannot listen at {host}:{port}: {error.strerror}") from None
    pairs({"serving": name, "at": server.url, "token": "needed" if token else "none"})
    # The server stops at them, and raises them again.
    with interrupts.handled((signal.SIGINT, signal.SIGTERM), lambda *_: server.shutdown()):
        server.serve_forever()
    say(f"stopped; {server.scored:,} images scored")


def _token(host: str, variable: str | None) -> str:
    """The token that clients must give, or ""; RequestError where there must be one."""
    from common.rewards import hosts, wire
    from common.rewards.remote import TOKEN

    token = os.environ.get(variable or TOKEN, "")
    if variable and not token:
        raise RequestError(f"--token-env {variable}: that environment variable is not set")
    if token:
        wire.check_token(token, variable or TOKEN)
    elif not hosts.is_loopback(host):
        raise RequestError(
            f"--host {host} can be reached from outside: that needs a token, in the environment "
            f"variable {TOKEN} or one that --token-env names"
        )
    return token


def _options(overrides: tuple[str, ...]) -> dict[str, object]:
    import tomllib

    options: dict[str, object] = {}
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals or not key:
            raise RequestError(f"--set {text}: write KEY=VALUE")
        try:
            options[key.strip()] = tomllib.loads(f"value = {raw}")["value"]
        except tomllib.TOMLDecodeError:
            options[key.strip()] = raw.strip()
    return options


def _list(name: str | None, features: bool, as_json: bool) -> None:
    from common.config import closest
    from common.rewards import FEATURES, REWARDS

    registry = FEATURES if features else REWARDS
    infos = {info.name: info for info in registry.available()}
    if name is not None and name not in infos:
        raise RequestError(f"no {registry.kind} '{name}'{closest(name, infos)}")
    chosen = [*infos.values()] if name is None else [infos[name]]
    if as_json:
        click.echo(json.dumps({"rewards": [asdict(info) for info in chosen]}, indent=2))
    elif name is not None:
        _print_reward(infos[name])
    else:
        _print_table(chosen)


def _print_table(infos: "list[RewardInfo]") -> None:
    from common.console import table

    table(
        [
            {
                "name": info.name,
                "range": info.range,
                "description": info.description,
                "works": "yes" if info.works else info.needs,
            }
            for info in infos
        ]
    )


def _print_reward(info: "RewardInfo") -> None:
    from common.console import pairs, say, table

    pairs(
        {
            "name": info.name,
            "description": info.description,
            "range": info.range,
            "works": "yes" if info.works else info.needs,
            "computes on": info.device,
            "batch": "all at once" if info.batch_size is None else info.batch_size,
            "scores": "a group at once" if info.groupwise else "each image",
            "weights": info.weights or "none",
            "licence of weights": info.licence or "-",
            "version": info.version or "unknown, so nothing is cached",
        }
    )
    if info.scalings:
        say("")
        table([{"scaling": name, "of the raw score s": text} for name, text in info.scalings])
    if info.options:
        say("")
        table([{"option": k, "default": d, "meaning": m} for k, d, m in info.options])
