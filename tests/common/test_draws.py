"""Draws that are kept, or drawn ahead in a thread, are the draws of their keys to the bit."""

import numpy as np
import pytest

from common import random
from common.random import Key, Purpose
from common.sampling import draws
from common.sampling.draws import Draws

COUNT = 40
ROOT = Key(3, Purpose.PROMPT, update=2)
KEYS = [ROOT.at(sample=n) for n in range(6)]


@pytest.fixture
def drawn(monkeypatch):
    """The keys that were really drawn, in their order."""
    keys, normals = [], random.normals

    def recorded(wanted, shape):
        keys.extend(wanted)
        return normals(wanted, shape)

    monkeypatch.setattr(random, "normals", recorded)
    return keys


def check(rows, keys, count=COUNT):
    expected = np.stack([random.normal(key, (count,)) for key in keys])
    assert rows.dtype == np.float32
    assert rows.tobytes() == expected.tobytes()


def test_a_row_is_drawn_once_in_any_order_and_however_often_it_is_asked_for(drawn):
    kept = Draws()
    for order in ([0, 1, 2], [2, 0, 2, 5], [5, 4, 1]):
        keys = [KEYS[n] for n in order]
        check(kept.take(keys, COUNT), keys)
    assert drawn == [KEYS[n] for n in (0, 1, 2, 5, 4)]


def test_what_does_not_fit_is_drawn_again(drawn):
    kept = Draws(kept=2 * 4 * COUNT)
    for _ in range(2):
        check(kept.take(KEYS, COUNT), KEYS)
    assert drawn == KEYS + KEYS[2:]


@pytest.mark.parametrize("kept", [0, draws.KEPT])
def test_what_is_drawn_ahead_is_taken_whatever_is_asked_for_next(drawn, kept):
    rows = Draws(kept)
    rows.draw_ahead(KEYS[:3], COUNT)
    rows.draw_ahead(KEYS[3:], COUNT)  # nothing begins before the first is taken
    pooled = [key.at(purpose=Purpose.POOLED) for key in KEYS[:2]]
    rows.draw_ahead(pooled, 7)
    check(rows.take(KEYS[:3], COUNT), KEYS[:3])
    check(rows.take(pooled, 7), pooled, 7)
    assert sorted(drawn, key=str) == sorted([*KEYS[:3], *pooled], key=str)
    rows.draw_ahead(KEYS[:3], COUNT)  # what is kept is not drawn again
    check(rows.take(KEYS[2:5], COUNT), KEYS[2:5])
    assert len(drawn) == 5 + (2 if kept else 5)


def test_an_error_while_drawing_ahead_is_raised_where_the_rows_are_taken():
    rows = Draws()
    wrong = [ROOT.at(sample=-1)]
    rows.draw_ahead(wrong, COUNT)
    with pytest.raises(ValueError, match="sample"):
        rows.take(wrong, COUNT)
    check(rows.take(KEYS, COUNT), KEYS)
