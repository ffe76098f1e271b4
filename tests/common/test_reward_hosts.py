"""A file chooses neither the machine that images go to nor the secret that goes with them."""

import os

import pytest

from common.rewards import RewardNameError, create, hosts
from common.rewards.hosts import HOSTS
from tests.common.served_reward import INFO, answering, served

ELSEWHERE = "http://203.0.113.7:8765"  # of a network that is kept for documentation


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch):
    monkeypatch.delenv(HOSTS, raising=False)


def refused(**options):
    with pytest.raises(RewardNameError) as error:
        create("remote", None, {"retry_for": 0.0, **options})
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def connections(monkeypatch):
    """The addresses that the client connects to, none of which answers."""
    asked = []

    def connect(address, *_, **__):
        asked.append(address)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr("socket.create_connection", connect)
    return asked


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "drift_x", "DRIFT_", "XDRIFT_A"]
)
def test_only_variables_of_the_toolkit_hold_a_token(name, monkeypatch):
    monkeypatch.setenv(name, "s3cret")
    with answering(INFO) as (url, seen):
        line = refused(url=url, token_env=name)
    assert f"token_env = '{name}'" in line
    assert ("DRIFT_" in line, "s3cret" in line, seen) == (True, False, [])


def test_a_variable_of_the_toolkit_is_sent_to_this_machine(monkeypatch):
    monkeypatch.setenv("DRIFT_OTHER_TOKEN", "abc")
    with answering(INFO) as (url, seen):
        create("remote", None, {"url": url, "token_env": "DRIFT_OTHER_TOKEN"})
    assert b"Authorization: Bearer abc\r\n" in seen[0]


@pytest.mark.parametrize(
    "url",
    [
        ELSEWHERE,
        "https://evil.example",
        "http://127.0.0.1.evil.example:8765",
        "http://localhost.evil.example",
        "http://0.0.0.0:8765",
        "http://[2001:db8::1]:80",
        "http://[::ffff:203.0.113.7]:80",
        "http://2130706433",
    ],
)
def test_another_machine_is_refused_and_never_connected_to(url, connections):
    line = refused(url=url)
    assert f"{HOSTS}=" in line
    assert "--set" in line
    assert connections == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "http://",
        "http://[::1",
        "http://x:99999",
        "http://x:y",
        "http://localhost:1@evil.example/",
        "http://localhost/?a",
        "http://localhost/#a",
        "http://localhost/a b",
        "http://lo\x1bcalhost/",
        "http://localhost\\@evil.example/",
        "http://é.example",
    ],
)
def test_what_is_no_address_of_a_server_is_refused(url, connections):
    line = refused(url=url)
    assert "write http://HOST:PORT" in line
    assert line.isprintable()
    assert connections == []


@pytest.mark.parametrize(
    ("allowed", "url", "port"),
    [
        ("203.0.113.7", ELSEWHERE, 8765),
        ("a, 203.0.113.7:8765", ELSEWHERE, 8765),
        ("GPU2", "http://gpu2", 80),
        ("gpu2:443", "https://GPU2", 443),
        ("[2001:db8::1]:80", "http://[2001:db8::1]", 80),
    ],
)
def test_a_machine_that_the_environment_names_is_asked(
    allowed, url, port, monkeypatch, connections
):
    monkeypatch.setenv(HOSTS, allowed)
    assert "refused" in refused(url=url)
    assert [address[1] for address in connections] == [port]


@pytest.mark.parametrize("allowed", ["203.0.113.8", "203.0.113.7:80", "03.0.113.7", "evil"])
def test_another_name_or_port_is_not_allowed(allowed, monkeypatch, connections):
    monkeypatch.setenv(HOSTS, allowed)
    assert HOSTS in refused(url=ELSEWHERE)
    assert connections == []


@pytest.mark.parametrize("allowed", ["*", "http://gpu2", "a b:c", "me@gpu2", "gpu2/x"])
def test_a_list_that_is_wrong_is_refused(allowed, monkeypatch, connections):
    monkeypatch.setenv(HOSTS, allowed)
    assert "is not HOST or HOST:PORT" in refused(url=ELSEWHERE)
    assert connections == []


def test_a_machine_that_the_command_line_names_is_asked(monkeypatch, connections):
    monkeypatch.setenv(HOSTS, "gpu1")
    texts = ["run.seed=3", f"reward.options.far.url={ELSEWHERE}", 'reward.options.b.url="http://c"']
    with hosts.named_in(texts):
        assert os.environ[HOSTS] == "gpu1,203.0.113.7:8765,c:80"
        assert "refused" in refused(url=ELSEWHERE)
        assert HOSTS in refused(url="http://203.0.113.7:8766")
    assert os.environ[HOSTS] == "gpu1"
    assert HOSTS in refused(url=ELSEWHERE)
    assert [*map(tuple, connections)] == [("203.0.113.7", 8765)]


def test_an_address_of_ipv6_without_a_port_is_understood(connections):
    refused(url="http://[::1]")
    assert connections == [("::1", 80)]


def test_a_server_of_this_machine_needs_no_permission():
    with served() as server:
        assert create("remote", None, {"url": server.url}).name == "remote"


def test_each_of_several_servers_must_be_named(monkeypatch, connections):
    both = f"http://127.0.0.1:9,{ELSEWHERE}"
    assert f"url = '{ELSEWHERE}': this is another machine" in refused(url=both)
    assert connections == []
    with hosts.named_in([f"reward.options.remote.url={both}"]):
        assert os.environ[HOSTS] == "127.0.0.1:9,203.0.113.7:8765"
    assert "url = 'ftp://x': write http://" in refused(url="ftp://x")
    assert hosts.listed("http://a/x,y https://b") == ["http://a/x,y", "https://b"]
