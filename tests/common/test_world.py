"""Processes agree: all get all results, and what one raises, all raise."""

import numpy as np
import pytest

from common.backends.world import Alone, dealt, in_order, lost
from common.errors import PeerError, RequestError
from common.launched import patience, rank, size
from common.learning import shares
from tests.common.processes import together


def test_all_get_the_results_of_all():
    shared = together(3, lambda world: world.share(lambda: {"rank": world.rank}, "work"))
    assert shared == [[{"rank": 0}, {"rank": 1}, {"rank": 2}]] * 3


def test_process_0_leads():
    asked = []

    def work(world):
        return world.lead(lambda: asked.append(world.rank) or [1.5, None], "work")

    assert together(3, work) == [[1.5, None]] * 3
    assert asked == [0]


@pytest.mark.parametrize("failing", [0, 2])
def test_what_one_raises_all_raise(failing):
    def work(world):
        def own():
            if world.rank == failing:
                raise ZeroDivisionError("no luck")

        with pytest.raises((ZeroDivisionError, PeerError)) as caught:
            world.share(own, "scoring")
        return str(caught.value), world.share(lambda: 1, "what comes next")

    results = together(3, work)
    others = f"process {failing} of 3 failed at scoring: ZeroDivisionError: no luck"
    expected = ["no luck" if n == failing else others for n in range(3)]
    assert results == [(text, [1, 1, 1]) for text in expected]


def test_a_result_that_cannot_be_sent_is_an_error_everywhere():
    errors = together(2, lambda world: world.share(object, "work"))
    assert isinstance(errors[0], TypeError)
    assert isinstance(errors[1], TypeError)


def test_parcels_reach_who_they_are_for():
    def work(world):
        parcels = [np.full(n + world.rank, 10 * world.rank + n) for n in range(3)]
        return world.exchange(parcels, "moving")

    for receiver, parcels in enumerate(together(3, work)):
        for sender, parcel in enumerate(parcels):
            assert parcel.tolist() == [10 * sender + receiver] * (receiver + sender)


def test_alone_everything_is_ones_own():
    world = Alone()
    assert world.share(lambda: 3, "work") == [3]
    assert world.lead(lambda: (1, 2), "work") == (1, 2)
    assert world.exchange(["a"], "moving") == ["a"]


@pytest.mark.parametrize("count", range(8))
@pytest.mark.parametrize("size", range(1, 5))
def test_results_come_in_the_order_of_the_units(count, size):
    assert in_order([range(count)[r::size] for r in range(size)]) == list(range(count))


@pytest.mark.parametrize("lockstep", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_in_lockstep_all_work_on_equally_many_units(count, size, lockstep):
    def work(world):
        world.lockstep = lockstep
        return dealt(range(count), world), shares.own_work(count or 1, 8, world)

    units, parts = zip(*together(size, work), strict=True)
    counting = [[unit for unit, counts in own if counts] for own in units]
    assert in_order(counting) == [*range(count)]
    assert sorted(n for own in parts for n in own.numbers[: own.counting]) == [*range(count or 1)]
    for own in parts:
        of_lanes = [k for lane in own.lanes for k in own.of_lane(lane)]
        assert [*of_lanes, *own.repeats] == [*range(len(own.numbers))]
    if lockstep:
        assert len({len(own) for own in units}) == 1
        assert len({len(own.numbers) for own in parts}) == 1
    else:
        assert counting == [[unit for unit, _ in own] for own in units]
        assert not any(own.repeats for own in parts)


def test_a_lost_peer_is_one_line():
    line = str(lost(1, 4, "sampling", RuntimeError("\n [/src/pair.cc:9] closed. Why\nso?\n")))
    assert line.startswith("process 1 of 4 lost the others at sampling: closed; ")
    assert "DRIFT_TIMEOUT" in line


@pytest.mark.parametrize("text", ["", "soon", "0", "-3", "nan", "inf"])
def test_patience_is_a_number_of_seconds(monkeypatch, text):
    monkeypatch.setenv("DRIFT_TIMEOUT", text)
    with pytest.raises(RequestError, match=f"DRIFT_TIMEOUT = '{text}': valid is a number of sec"):
        patience()


@pytest.fixture
def launcher(monkeypatch):
    """Sets what a launcher puts into the environment, and nothing else of it."""
    for name in ("RANK", "WORLD_SIZE", "MLX_RANK", "MLX_HOSTFILE"):
        monkeypatch.delenv(name, raising=False)

    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return put


def test_what_a_launcher_says(launcher, tmp_path):
    assert (rank(), size()) == (0, 1)
    launcher(RANK=1)  # a stray one: nobody says that there are several
    assert (rank(), size()) == (0, 1)
    launcher(RANK=2, WORLD_SIZE=4)
    assert (rank(), size()) == (2, 4)


def test_what_mlx_says(launcher, tmp_path):
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[["127.0.0.1:1"], ["127.0.0.1:2"], ["127.0.0.1:3"]]')
    launcher(MLX_HOSTFILE=hosts, MLX_RANK=1)
    assert (rank(), size()) == (1, 3)
    launcher(RANK=2, WORLD_SIZE=4)  # drift run --processes sets both
    assert (rank(), size()) == (2, 4)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE = 'many': valid is the number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE = '0'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK = '2': valid is a number below 2"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK = '-1'"),
        ({"MLX_RANK": "1"}, "MLX_HOSTFILE = '': no list of hosts"),
        ({"MLX_RANK": "1", "MLX_HOSTFILE": "/dev/zero"}, "MLX_HOSTFILE = '/dev/zero'"),
        ({"MLX_RANK": "1", "MLX_HOSTFILE": "/no/such"}, "MLX_HOSTFILE = '/no/such'"),
    ],
)
def test_a_launcher_that_says_half_is_refused(launcher, values, says):
    launcher(**values)
    with pytest.raises(RequestError, match=says):
        rank()
