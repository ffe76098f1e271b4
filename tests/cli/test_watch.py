"""`drift watch`: what its server answers, to whom, and the page in a real browser."""

import contextlib
import http.client
import json
import os
import re
import runpy
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from common.report import page
from common.runs.directory import RunDirectory
from common.workflows import watch_server
from common.workflows.watch import Watched
from common.workflows.watch_server import WatchServer
from tests.common.synthetic_run import evaluation_record, make_run, metrics_record

TOKEN = "a-token-of-enough-letters"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    top = tmp_path_factory.mktemp("watched")
    make_run(top / "one", updates=9, done=2, evaluated=(0,))
    make_run(top / "two", updates=3, done=3, evaluated=(0, 3))
    (top / "bad").mkdir()
    (top / "bad" / "config.toml").write_text("<script>alert(1)</script>")
    return top


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    """Copies of three runs, the last one damaged; a report is one line and takes no time."""

    def render(run):
        rows = run.metrics()
        return f"<!doctype html><main>{run.path.name}: {len(rows)} rows</main>" + "<p>x" * 400

    monkeypatch.setattr(page, "render", render)
    copied = Path(shutil.copytree(made, tmp_path / "runs"))
    return [copied / name for name in ("one", "two", "bad")]


@pytest.fixture
def serve(runs):
    """Starts a server of those runs; gives it."""
    started = []

    def start(**how):
        server = WatchServer(Watched(runs), **{"host": "127.0.0.1", "port": 0, **how})
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        started.append((server, thread))
        return server

    yield start
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(server, path, method="GET", **headers):
    """(status, headers, content) of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def test_the_page_the_state_and_the_reports(serve, runs):
    server = serve()
    status, headers, content = ask(server, "/")
    assert status == 200
    (nonce,) = set(re.findall(rb'nonce="([\w-]+)"', content))
    policy = headers["Content-Security-Policy"]
    assert f"script-src 'nonce-{nonce.decode()}'" in policy
    assert ask(server, "/")[1]["Content-Security-Policy"] != policy
    one, two, bad = json.loads(ask(server, "/state")[2])["runs"]
    assert (one["run"], one["done"], one["updates"], one["state"]) == (
        str(runs[0]),
        2,
        9,
        "stopped",
    )
    assert (two["state"], bad["state"]) == ("finished", "cannot be read")
    status, headers, content = ask(server, "/run/1")
    assert (status, content[:35]) == (200, b"<!doctype html><main>two: 3 rows</m")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; img-src data:")
    status, _, content = ask(server, "/run/2")
    assert status == 200
    assert b"This run cannot be read" in content
    assert b"<script" not in content


def test_a_run_that_changes_has_another_version_and_another_report(serve, runs, monkeypatch):
    from common.workflows import watch

    server = serve()
    ask(server, "/run/0")
    before = json.loads(ask(server, "/state")[2])["runs"]
    RunDirectory.open(runs[0]).append_metrics(metrics_record(3, 9))
    monkeypatch.setattr(watch.time, "monotonic", lambda: 1e12)
    after = json.loads(ask(server, "/state")[2])["runs"]
    assert [a["version"] == b["version"] for a, b in zip(after, before, strict=True)] == [
        False,
        True,
        True,
    ]
    assert after[0]["done"] == 3
    assert b"one: 3 rows" in ask(server, "/run/0")[2]


def test_reports_take_a_tenth_of_the_time_and_the_last_one_comes_at_once(runs, monkeypatch):
    from common.workflows import watch

    now = [100.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    slow = watch._rendered

    def take_two_seconds(run):
        now[0] += 2.0
        return slow(run)

    monkeypatch.setattr(watch, "_rendered", take_two_seconds)
    watched, run = Watched(runs), RunDirectory.open(runs[0])

    def version():
        return json.loads(watched.state())["runs"][0]["version"]

    with run.locked():
        assert b"2 rows" in watched.report(0)
        first = version()
        run.append_metrics(metrics_record(3, 9))
        now[0] += 19.0
        assert (version() == first, b"2 rows" in watched.report(0)) == (True, True)
        now[0] += 2.0
        assert version() != first
        assert b"3 rows" in watched.report(0)
        run.append_metrics(metrics_record(4, 9))
    assert b"4 rows" in watched.report(0)  # the run has ended


def test_nothing_is_written_into_a_run(serve, runs):
    def content():
        return {path: path.stat().st_mtime_ns for run in runs for path in run.rglob("*")}

    before = content()
    server = serve()
    for path in ("/", "/state", "/run/0", "/run/1", "/run/2"):
        ask(server, path)
    assert content() == before


# --- who is answered ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/run/3", "/run/-1", "/run/99999999", "/../etc/passwd", "/x"])
def test_no_other_address_is_answered(serve, path):
    assert ask(serve(), path)[0] == 404


def test_only_get_is_answered_and_only_under_a_name_of_this_machine(serve):
    server = serve()
    assert ask(server, "/", method="POST")[0] == 405
    assert ask(server, "/state", Host="localhost:1")[0] == 200
    assert ask(server, "/state", Host="[::1]")[0] == 200
    for name in ("evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example"):
        status, _, content = ask(server, "/state", Host=name)
        assert (status, b"runs" in content) == (403, False), name


def test_with_a_token_the_first_address_gives_a_cookie(serve):
    server = serve(token=TOKEN)
    assert server.url.endswith(f"/?token={TOKEN}")
    for path in ("/", "/state", "/run/0", "/?token=", f"/?token={TOKEN}x", f"/state?token={TOKEN}"):
        assert ask(server, path)[0] == 401, path
    assert ask(server, "/state", Cookie=f"{watch_server.COOKIE}=wrong")[0] == 401
    status, headers, _ = ask(server, f"/?token={TOKEN}")
    assert (status, headers["Location"]) == (303, "/")
    cookie, *rules = headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(rules)
    for path in ("/", "/state", "/run/1"):
        assert ask(server, path, Cookie=f"other=1; {cookie}")[0] == 200
    assert ask(server, "/state", Cookie=cookie, Host="evil.example")[0] == 200


def test_an_address_that_others_reach_needs_a_token(runs):
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 can be reached from outside"):
        WatchServer(Watched(runs), host="0.0.0.0", port=0)


@pytest.mark.parametrize(
    "text",
    [b"\r\n\r\n", b"GET\r\n\r\n", b"\xff" * 100 + b"\r\n\r\n", b"GET / SPDY/3\r\n\r\n"],
)
def test_what_is_no_request_is_answered_or_closed(serve, text):
    server = serve()
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(text)
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert ask(server, "/state")[0] == 200


def test_long_and_slow_requests_end_and_many_leave_places_for_others(serve, monkeypatch):
    monkeypatch.setattr(watch_server, "SECONDS", 0.3)
    server = serve()
    with socket.create_connection(server.server_address, timeout=20) as connection:
        connection.sendall(b"GET /" + b"x" * 2 * watch_server.HEAD)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    silent = [socket.create_connection(server.server_address) for _ in range(watch_server.MOST)]
    deadline = time.monotonic() + 20
    status = None
    while status != 200 and time.monotonic() < deadline:
        try:
            status = ask(server, "/state")[0]
        except (ConnectionError, http.client.HTTPException):
            time.sleep(0.05)
    assert status == 200
    for connection in silent:
        connection.close()


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_where_and_ends_at_ctrl_c(drift, runs, monkeypatch):
    answers = []

    def serve_forever(self, interval):
        answers.append(self.url)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(WatchServer, "serve_forever", serve_forever)
    monkeypatch.setattr(WatchServer, "shutdown", lambda self: None)
    result = drift("watch", runs[0].parent, "--port", 0)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "stopped")
    assert f"open   {answers[0]}" in result.stdout
    assert "runs   3" in result.stdout
    result = drift("watch", runs[0], "--port", 0, "--host", "0.0.0.0")
    assert re.search(r"open +http://0\.0\.0\.0:\d+/\?token=[\w-]{32}\n", result.stdout)


def test_wrong_requests_are_one_line(refused, runs, tmp_path, monkeypatch):
    assert "no folder nowhere" in refused(2, "watch", "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no runs in empty" in refused(2, "watch", "empty")
    monkeypatch.setenv("SHORT", "abc")
    assert "at least 16 letters" in refused(2, "watch", runs[0], "--token-env", "SHORT")
    assert "this variable is not set" in refused(2, "watch", runs[0], "--token-env", "NO_SUCH")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "cannot listen at 127.0.0.1" in refused(2, "watch", runs[0], "--port", port)


# --- in a browser ---------------------------------------------------------------------------------

BROWSER = runpy.run_path(str(Path(__file__).with_name("test_report_browser.py")))
tab, COMPLAINTS = BROWSER["tab"], BROWSER["COMPLAINTS"]

REPORTS = """[...document.querySelectorAll('iframe')]
    .map(f => f.contentDocument?.querySelector('main, .warning')?.innerText ?? '')"""


def wait(tab, expression, expected, seconds=60):
    """Wait until an expression has a value on the page."""
    deadline = time.monotonic() + seconds
    while (value := tab.value(expression)) != expected:
        assert time.monotonic() < deadline, value
        time.sleep(0.05)


@pytest.mark.parametrize("width", [1400, pytest.param(390, marks=pytest.mark.slow)])
def test_the_page_shows_runs_side_by_side_and_refreshes_them(tab, serve, runs, width):
    server = serve()
    run = RunDirectory.open(runs[0])
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    tab("Emulation.setDeviceMetricsOverride", **screen)
    tab.events.clear()
    tab("Page.navigate", url=server.url)
    wait(tab, REPORTS, ["one: 2 rows", "two: 3 rows"])
    tab.value("document.querySelector('iframe').contentWindow.scrollTo(0, 300), 0")
    run.append_metrics(metrics_record(3, 9))
    run.append_evaluation(evaluation_record(0.3, update=3, grid="000000.png"))
    wait(tab, REPORTS, ["one: 3 rows", "two: 3 rows"])
    assert tab.value("document.querySelector('iframe').contentWindow.scrollY") == 300
    assert tab.value("document.querySelectorAll('tbody tr')[0].innerText.includes('3/9')")
    tab.value("document.querySelectorAll('input')[1].click(), 0")
    tab.value("document.querySelectorAll('input')[2].click(), 0")
    wait(tab, "document.querySelectorAll('iframe').length", 2)
    wait(tab, f"{REPORTS}.some(text => text.startsWith('This run cannot be read'))", True)
    assert tab.value("location.hash") == "#0,2"
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert [event for event in tab.events if event.get("method") in COMPLAINTS] == []
    server.shutdown()
    server.server_close()
    wait(tab, "document.getElementById('note').innerText.startsWith('No answer for')", True)
