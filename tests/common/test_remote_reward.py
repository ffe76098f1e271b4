"""A reward over HTTP: the same scores, in order, under load; every failure is one clear line."""

import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from common.config import RewardConfig
from common.rewards import RewardError, RewardNameError, RewardSuite, create, guard, remote, wire
from common.rewards.registry import NamedReward
from common.rewards.server import RewardServer
from tests.common.served_reward import (
    IMAGES,
    INFO,
    METADATA,
    PROMPTS,
    answering,
    client,
    reply,
    served,
    value,
)


def call(function, timeout=300.0):
    return guard.score(
        NamedReward("far", function),
        IMAGES,
        PROMPTS,
        METADATA,
        timeout=timeout,
        on_error="fail",
        describe=lambda n: f"prompt '{PROMPTS[n]}', sample {n}",
    )


def test_the_scores_are_those_of_the_reward_to_the_last_bit():
    with served() as server:
        got = call(client(server.url))
    assert got.tolist() == value(IMAGES, PROMPTS, METADATA)


def test_a_suite_fills_batches_and_takes_over_what_the_server_says(monkeypatch):
    sizes = []

    def counting(images, prompts, metadata):
        sizes.append(len(images))
        return value(images, prompts, metadata)

    with served(counting) as server:
        options = {"far": {"reward": "remote", "url": server.url, "batch_size": 2}}
        config = RewardConfig(terms={"far": 1.0}, options=options)
        suite = RewardSuite(config.terms, None, config)
        got = suite.score(IMAGES, PROMPTS, METADATA, describe=str)["far"]
        assert suite.rewards["far"].function.served == "mine"
    assert sizes == [2, 1]
    assert got.tolist() == value(IMAGES, PROMPTS, METADATA)


def test_64_clients_at_once_lose_nothing_and_mix_nothing_up():
    def slowly(images, prompts, metadata):
        time.sleep(0.002)
        return value(images, prompts, metadata)

    def one(seed):
        images = np.random.default_rng(seed).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
        prompts, metadata = [f"prompt {seed}"] * 4, [{"n": seed}] * 4
        far = client(server.url, retry_for=10.0)
        got = [far(images, prompts, metadata).tolist() for _ in range(2)]
        return got == [value(images, prompts, metadata)] * 2

    with served(slowly, waiting=8) as server, ThreadPoolExecutor(64) as pool:
        assert all(pool.map(one, range(64)))
        assert server.scored == 64 * 2 * 4


def test_a_busy_server_is_waited_for_but_not_for_ever():
    begun, go_on = threading.Event(), threading.Event()

    def stuck(images, prompts, metadata):
        begun.set()
        go_on.wait(300)
        return [1.0] * len(images)

    with served(stuck, waiting=1) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client(server.url), IMAGES, PROMPTS, METADATA)
        assert begun.wait(300)
        with pytest.raises(RewardError, match=r"busy for \d+ s \(patience = 0.3\)"):
            client(server.url, patience=0.3)(IMAGES, PROMPTS, METADATA)
        second = pool.submit(client(server.url), IMAGES, PROMPTS, METADATA)
        time.sleep(0.15)
        assert not second.done()
        go_on.set()
        assert first.result().tolist() == second.result().tolist() == [1.0] * 3


# --- several servers -----------------------------------------------------------------------------


@pytest.mark.parametrize("rank", range(3))
def test_each_process_asks_a_server_by_its_number(rank, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", str(rank))
    with served() as one, served() as two:
        far = client(f"{one.url}, {two.url}")
        assert far(IMAGES, PROMPTS, METADATA).tolist() == value(IMAGES, PROMPTS, METADATA)
        assert (one.scored, two.scored) == ((0, 3) if rank == 1 else (3, 0))


def test_a_server_that_no_process_asks_is_named():
    with served() as server, pytest.warns(UserWarning, match="nobody asks http://localhost:9"):
        client(f"{server.url},http://localhost:9")


# --- failures ------------------------------------------------------------------------------------


def failing(images, prompts, metadata):
    raise KeyError("weights")


def hanging(images, prompts, metadata):
    threading.Event().wait(600)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (failing, "status 500: reward 'mine' raised KeyError: 'weights'"),
        (hanging, "status 500: reward 'mine' took more than 0.5 s"),
        (lambda i, p, m: [1.0, np.nan, 2.0], "reward 'far' is nan for prompt 'owl', sample 1"),
        (lambda i, p, m: [1.0, 2.0], r"status 500: reward 'mine' returned shape \[2\] for 3"),
        (lambda i, p, m: ["a"] * 3, "status 500: reward 'mine' returned values of type"),
    ],
)
def test_a_reward_that_fails_over_there_fails_here(function, says):
    limit = 0.5 if function is hanging else 300.0
    with (
        served(function, timeout=limit) as server,
        pytest.raises(RewardError, match=says) as caught,
    ):
        call(client(server.url))
    assert "\n" not in str(caught.value)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def test_a_server_that_was_never_there_is_told_soon_with_the_number_of_tries():
    url, start = f"http://127.0.0.1:{free_port()}", time.monotonic()
    says = r"no connection: Conn.*refused \(\d+ tries in \d+ s\)"
    with pytest.raises(RewardNameError, match=says) as error:
        create("remote", None, {"url": url})
    assert str(error.value).startswith(f"reward 'remote': {url}: ")
    assert time.monotonic() - start < remote.RemoteOptions(url=url).retry_for


def test_a_server_that_dies_in_between_is_an_error():
    with served() as server:
        far = client(server.url, retry_for=0.3)
    with pytest.raises(RewardError, match=r"reward 'far' raised .*no connection.*tries in \d+ s"):
        call(far)


def test_a_slow_server_is_an_error_in_time():
    given_up = threading.Event()
    with answering(INFO, lambda link: given_up.wait(300)) as (url, seen):
        far = client(url, timeout=1.0, retry_for=10.0)
        with pytest.raises(RewardError, match=r"no answer in 1 s \(timeout\)"):
            far(IMAGES, PROMPTS, METADATA)
        given_up.set()
    assert len(seen) == 2  # what is too slow once is not asked again


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (reply(b'{"scores": [1', length=500), r"half an answer \(1 try\)"),
        (reply({"scores": [1.0, 2.0]}), "the answer has 2 scores for 3 images"),
        (reply({"scores": "abc"}), "the answer has no scores for 3 images"),
        (reply({"scores": [1, "2", 3]}), "holds '2', which is no number"),
        (reply({"scores": [1, True, 3]}), "holds True, which is no number"),
        (reply(b"[1, 2, 3]"), "no JSON object"),
        (reply(b"<html>"), "not valid JSON"),
        (reply(b"oh no", status="500 X"), "status 500: oh no"),
        (reply(b"", status="404 X"), "status 404: no reason given"),
        (b"", "no connection: RemoteDisconnected"),
        (b"not http\r\n\r\n", "no connection: BadStatusLine"),
    ],
)
def test_an_answer_that_is_none_is_an_error_and_never_a_score(bad, says):
    with answering(INFO, bad) as (url, _):
        far = client(url)
        with pytest.raises(RewardError, match=says):
            far(IMAGES, PROMPTS, METADATA)


def test_half_an_answer_is_asked_for_again():
    good = reply({"scores": [1, 2.5, None]})
    half = reply(b'{"scores": [9, 9', length=500)
    replies = [INFO, half, b"", reply(b"", status="502 X"), good]
    with answering(*replies) as (url, seen):
        far = client(url, retry_for=10.0)
        got = far(IMAGES, PROMPTS, METADATA)
    np.testing.assert_array_equal(got, [1.0, 2.5, np.nan])
    assert len(seen) == len(replies)


def test_what_the_server_says_of_the_request_is_not_asked_twice():
    with answering(INFO, reply({"error": "no"}, status="400 X"), INFO) as (url, seen):
        far = client(url, retry_for=10.0)
        with pytest.raises(RewardError, match="status 400: no"):
            far(IMAGES, PROMPTS, METADATA)
    assert len(seen) == 2


def test_a_wrong_token_is_refused_and_a_right_one_is_not(monkeypatch):
    with served(token="s3cret") as server:
        for given in ("", "wrong"):
            monkeypatch.setenv("DRIFT_REWARD_TOKEN", given)
            with pytest.raises(RewardError, match=r"token is wrong.*variable DRIFT_REWARD_TOKEN"):
                client(server.url)
        monkeypatch.setenv("DRIFT_REWARD_TOKEN", "s3cret")
        far = client(server.url)
        assert far(IMAGES, PROMPTS, METADATA).tolist() == value(IMAGES, PROMPTS, METADATA)
        monkeypatch.setenv("DRIFT_REWARD_TOKEN", "old")
        with pytest.raises(RewardError, match="token"):
            far(IMAGES, PROMPTS, METADATA)
        assert server.scored == 3


def test_an_address_for_others_needs_a_token():
    with pytest.raises(ValueError, match=r"host 0\.0\.0\.0 can be reached .* needs a token"):
        RewardServer(NamedReward("mine", value), host="0.0.0.0")
    with pytest.raises(RewardError, match="url = 'ftp://x': write http"):
        client("ftp://x")


# --- no end, no limit, no server -----------------------------------------------------------------


def dripping(head=b"", pause=0.05):
    """Sends a byte, and another, for five minutes unless the client goes."""

    def drip(link):
        link.sendall(head)
        for _ in range(int(300 / pause)):
            link.sendall(b"1")
            time.sleep(pause)

    return drip


def endless(link):
    """Up to 64 MB, unless the client goes."""
    link.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(1024):
        link.sendall(b" " * 2**16)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_byte_now_and_then_does_not_keep_a_client_beyond_its_deadline(head):
    says = r"no answer in 0.4 s \(timeout\)"
    with answering(dripping(head)) as (url, _), pytest.raises(RewardError, match=says):
        client(url, timeout=0.4)  # the server would go on for minutes


def test_an_answer_without_end_does_not_fill_the_memory():
    for replies in ([endless], [INFO, endless]):
        with answering(*replies) as (url, _), pytest.raises(RewardError, match=r"more than 65\d+ "):
            client(url)(IMAGES, PROMPTS, METADATA)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (reply(b"[" * 60_000), "nested too deep"),
        (reply(b'{"scores": [1' + b"0" * 400 + b", 2, 3]}"), "holds a int, which is no number"),
        (reply(b'{"scores": [[1], 2, 3]}'), "holds a list, which is no number"),
        (reply({"error": "\x1b]0;X\x07" + "a" * 9000}, status="500 X"), "status 500: .{0,400}$"),
    ],
)
def test_a_hostile_answer_is_one_short_printable_line(answer, says):
    with answering(INFO, answer) as (url, _), pytest.raises(RewardError, match=says) as caught:
        client(url)(IMAGES, PROMPTS, METADATA)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("token", ["s3cret\n", "s3cret \n x", "s3crét", "s3\x00cret", "s3€cret"])
def test_a_token_that_no_header_holds_is_refused_and_not_shown(token, monkeypatch):
    monkeypatch.setattr(remote.os, "environ", {"DRIFT_REWARD_TOKEN": token})
    says = "variable DRIFT_REWARD_TOKEN cannot be sent"
    with answering() as (url, seen), pytest.raises(RewardError, match=says) as got:
        client(url)
    assert ("s3" in str(got.value), seen) == (False, [])
    assert got.value.__cause__ is None


SERVER = """
import sys
import numpy as np
from common.rewards.registry import NamedReward
from common.rewards.server import RewardServer
from tests.common.served_reward import value
server = RewardServer(NamedReward(sys.argv[2], value), port=int(sys.argv[1]))
print("ready", flush=True)
server.serve_forever()
"""


def start_server(port, name="mine"):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port), name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
    return process


def test_a_server_that_is_started_anew_in_the_middle_loses_nothing():
    port, got = free_port(), []
    process = start_server(port)
    far = client(f"http://127.0.0.1:{port}", retry_for=60.0)
    done = threading.Event()

    def score():
        for n in range(200):
            got.append(far(IMAGES, PROMPTS, [{"n": n}] * 3).tolist())
            time.sleep(0.005)
        done.set()

    worker = threading.Thread(target=score, daemon=True)
    worker.start()
    try:
        for calls, number in [(20, signal.SIGTERM), (100, signal.SIGKILL)]:
            while len(got) < calls:
                time.sleep(0.002)
            process.send_signal(number)
            process.wait(30)
            time.sleep(1.2)  # longer than what the client once gave up after
            process = start_server(port)
        assert done.wait(60)
    finally:
        process.kill()
        process.wait()
    assert got == [value(IMAGES, PROMPTS, [{"n": n}] * 3) for n in range(200)]


def test_another_reward_at_the_same_address_is_not_taken_for_the_first():
    with served() as server:
        far = client(server.url)
        server.reward = NamedReward("other", value)
        with pytest.raises(RewardError, match=r"it served 'mine' when .* and now 'other'"):
            far(IMAGES, PROMPTS, METADATA)
    other = reply({"scores": [1, 2, 3], "reward": "mine", "version": "2"})
    with answering(INFO, other) as (url, _), pytest.raises(RewardError, match="now 'mine 2'"):
        client(url)(IMAGES, PROMPTS, METADATA)


def test_more_pixels_than_a_request_takes_are_refused_before_they_are_sent(monkeypatch):
    monkeypatch.setattr(wire, "REQUEST_PIXELS", 89)
    with served() as server:
        with pytest.raises(
            RewardError, match=r"3 images have 90 pixels .* set a smaller batch_size"
        ):
            client(server.url)(IMAGES, PROMPTS, METADATA)
        assert client(server.url)(IMAGES[:2], PROMPTS[:2], METADATA[:2]).shape == (2,)
