"""Metal's memory limits: asked for where Metal is, within what it allows, and nowhere else."""

import pytest

pytest.importorskip("drift_mlx.backend", exc_type=ImportError)

from types import SimpleNamespace

import mlx.core as mx

from drift_mlx import backend as drift, metal

GB = 10**9
MAC = {"max_recommended_working_set_size": 12 * GB, "memory_size": 16 * GB}


class Core:
    """What of `mlx.core` the limits touch, on a Mac; counts what was set."""

    def __init__(self, info=MAC, *, available=True, wired=0, cached=24 * GB, fails=None):
        self.metal = SimpleNamespace(is_available=lambda: available)
        self.device_info = lambda: info
        self.held = {"wired": wired, "cached": cached}
        self._fails = fails

    def set_wired_limit(self, limit):
        if self._fails:
            raise self._fails
        return self._swap("wired", limit)

    def set_cache_limit(self, limit):
        return self._swap("cached", limit)

    def _swap(self, name, limit):
        before, self.held[name] = self.held[name], limit
        return before


def test_what_is_recommended_is_wired_and_a_quarter_of_it_cached():
    core = Core()
    held = metal.set_limits(core)
    assert held == metal.Limits(12 * GB, 3 * GB, 12 * GB, 16 * GB)
    assert core.held == {"wired": 12 * GB, "cached": 3 * GB}
    assert metal.set_limits(core) == held  # a second backend changes nothing
    assert metal.describe(held) == {
        "wired limit": "12.0 GB of 12.0 GB that Metal recommends",
        "cache limit": "3.0 GB",
        "unified memory": "16.0 GB",
    }


def test_all_memory_is_never_wired():
    wanted = metal.limits(MAC | {"max_recommended_working_set_size": 16 * GB})
    assert wanted.wired == 15 * GB
    assert wanted.recommended == wanted.total == 16 * GB


@pytest.mark.parametrize("info", [{}, {"memory_size": GB}, MAC | {"memory_size": 0}])
def test_a_device_that_is_no_mac_has_no_limits(info):
    core = Core(info)
    assert metal.set_limits(core) is None
    assert core.held == {"wired": 0, "cached": 24 * GB}


def test_nothing_is_touched_without_metal():
    core = Core(available=False)
    assert metal.set_limits(core) is None
    assert core.held == {"wired": 0, "cached": 24 * GB}


def test_who_wants_more_wired_or_less_cached_keeps_it():
    core = Core(wired=13 * GB, cached=GB)
    assert metal.set_limits(core) == metal.Limits(13 * GB, GB, 12 * GB, 16 * GB)
    assert core.held == {"wired": 13 * GB, "cached": GB}


@pytest.mark.parametrize("error", [ValueError("too large"), RuntimeError("no")])
def test_a_system_that_refuses_keeps_its_limit_and_that_is_reported(error):
    core = Core(fails=error)
    held = metal.set_limits(core)
    assert (held.wired, core.held["wired"]) == (0, 0)
    assert metal.describe(held)["wired limit"] == "0.0 GB of 12.0 GB that Metal recommends"


def test_the_backend_shows_its_limits_on_metal_and_has_none_on_a_cpu(monkeypatch):
    on_cpu = drift.Backend("mlx", mx.Device(mx.cpu), "float32")
    assert "wired limit" not in on_cpu.describe()
    assert not on_cpu.gpu
    asked = []
    monkeypatch.setattr(metal, "set_limits", lambda core: asked.append(core) or metal.limits(MAC))
    on_metal = drift.Backend("mlx", mx.Device(mx.gpu), "float32")
    assert asked == [mx]
    assert on_metal.gpu
    assert on_metal.describe()["wired limit"] == "12.0 GB of 12.0 GB that Metal recommends"


@pytest.mark.parametrize(
    ("info", "expected"),
    [(MAC, 12 * GB), ({"total_memory": 80 * GB}, 80 * GB), ({"memory_size": 8 * GB}, 8 * GB)],
)
def test_the_room_is_what_the_device_says(monkeypatch, info, expected):
    monkeypatch.setattr(mx, "device_info", lambda: info)
    backend = drift.Backend("mlx", mx.Device(mx.cpu), "float32")
    assert backend.device_memory()["total"] == expected
