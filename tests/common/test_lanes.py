"""Sums are added up in one order: whatever process adds them, and in any order of arrival."""

import random
from itertools import pairwise

import pytest

from common.backends.lanes import Sums, halves_of_all, kept_by, lane_of, lanes_of, process_of


def text_sums(lanes):
    """Sums of text: what was added to what is what they say."""
    return Sums(lanes, lambda left, right: f"({left}+{right})")


@pytest.mark.parametrize("lanes", [1, 2, 8, 64])
@pytest.mark.parametrize("count", [1, 3, 8, 100])
def test_micro_batches_are_dealt_to_neighbours(count, lanes):
    places = [lane_of(n, count, lanes) for n in range(count)]
    assert places[0] == 0
    assert places == sorted(places)
    assert all(0 <= place < lanes for place in places)
    sizes = [places.count(lane) for lane in range(lanes)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("size", range(1, 9))
def test_every_lane_is_computed_by_one_process(size):
    dealt = [lanes_of(rank, size, 8) for rank in range(size)]
    assert [lane for lanes in dealt for lane in lanes] == list(range(8))
    assert all(process_of(lane, size, 8) == rank for rank in range(size) for lane in dealt[rank])


def test_the_tree_is_binary():
    sums = text_sums(8)
    for lane in range(8):
        sums.add((lane, 1), "abcdefgh"[lane])
    assert sums.halves() == ("((a+b)+(c+d))", "((e+f)+(g+h))")


@pytest.mark.parametrize("lanes", [2, 4, 16])
@pytest.mark.parametrize("missing", [(), (1,), (0, 1), (2, 3, 7)])
def test_the_order_of_arrival_changes_nothing(lanes, missing):
    values = {lane: None if lane in missing else f"{lane}" for lane in range(lanes)}
    results = set()
    for seed in range(5):
        sums, order = text_sums(lanes), list(values)
        random.Random(seed).shuffle(order)
        for lane in order:
            sums.add((lane, 1), values[lane])
        results.add(sums.halves())
    assert len(results) == 1
    (halves,) = results
    assert "None" not in str([half for half in halves if half])


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("used", [range(8), (0,), (0, 2, 4, 6), (0, 1, 2, 5, 7)])
def test_processes_that_add_their_own_lanes_give_the_same_tree(size, used):
    alone, kept, rows = text_sums(8), [], []
    for lane in range(8):
        alone.add((lane, 1), f"{lane}" if lane in used else None)
    for rank in range(size):
        own = text_sums(8)
        for lane in lanes_of(rank, size, 8):
            own.add((lane, 1), f"{lane}" if lane in used else None)
        known = kept_by(rank, size, 8, used)
        assert known == {node: own.nodes[node] is not None for node in sorted(own.nodes)}
        kept.append(known)
        rows.append([*(own.nodes[node] for node, there in known.items() if there), "padding"])
    halves = halves_of_all(kept, rows, 8, lambda left, right: f"({left}+{right})")
    assert halves == alone.halves()


def test_few_sums_are_kept():
    sums, most = text_sums(64), 0
    for lane in range(64):
        sums.add((lane, 1), "x")
        most = max(most, len(sums.nodes))
    assert most == 6  # log2(64), beside the one that is being made
    assert all(left < right for left, right in pairwise(sorted(sums.nodes)))


def test_one_lane_is_one_sum():
    sums = text_sums(1)
    sums.add((0, 1), "all")
    assert sums.halves() == ("all", None)


@pytest.mark.parametrize("lanes", [0, 3, 12, -2])
def test_another_number_of_lanes_is_refused(lanes):
    with pytest.raises(ValueError, match="the number must be a power of 2"):
        Sums(lanes, lambda left, right: left)
