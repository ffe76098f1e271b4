"""`drift watch`: the report of runs in a browser, as they go on."""

import os
import secrets
import signal
import threading
from pathlib import Path

import click

from common.commands.path_type import FilePath
from common.errors import RequestError


@click.command(short_help="Show the reports of runs in a browser, as they go on.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=FilePath())
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8766,
    show_default=True,
    help="0: any that is free.",
)
@click.option(
    "--token-env",
    metavar="VARIABLE",
    help="Environment variable with the token that readers need.  [default: none on this machine, "
    "else a random one]",
)
def watch(runs: tuple[Path, ...], host: str, port: int, token_env: str | None) -> None:
    """Serve a page with the reports of each RUN, side by side, until Ctrl-C or SIGTERM.

    RUN is the folder of a run, or a folder with runs below it. The page asks for news every two
    seconds; nothing is written into the runs. Only this machine can reach it, unless --host says
    otherwise: then the address that is printed has a token in it.
    """
    from common.console import pairs, say
    from common.rewards.hosts import is_loopback
    from common.workflows import interrupts
    from common.workflows.listing import list_runs
    from common.workflows.watch import Watched
    from common.workflows.watch_server import WatchServer

    token = _token(token_env) or ("" if is_loopback(host) else secrets.token_urlsafe(24))
    paths = [Path(row.run) for row in list_runs(runs)]
    if not paths:
        raise RequestError(f"no runs in {', '.join(map(str, runs))}")
    try:
        server = WatchServer(Watched(paths), host=host, port=port, token=token)
    except OSError as error:
        raise RequestError(f"cannot listen at {host}:{port}: {error.strerror}") from None
    pairs({"runs": len(paths), "open": server.url, "token": "needed" if token else "none"})
    stop = threading.Event()
    with server, interrupts.handled((signal.SIGINT, signal.SIGTERM), lambda *_: stop.set()):
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        stop.wait()
        server.shutdown()
        thread.join()
    say("stopped")


def _token(variable: str | None) -> str:
    """The token of a variable, "" without one. RequestError for one that no address can have."""
    if variable is None:
        return ""
    if variable not in os.environ:
        raise RequestError(f"--token-env {variable}: this variable is not set")
    token = os.environ[variable]
    if len(token) < 16 or not all(c.isascii() and (c.isalnum() or c in "-_") for c in token):
        raise RequestError(
            f"--token-env {variable}: a token has at least 16 letters, digits, - or _"
        )
    return token
