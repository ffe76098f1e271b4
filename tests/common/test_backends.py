"""Backends are loaded by name; a missing library gives an instruction, not a traceback."""

import sys
from importlib.metadata import EntryPoint

import pytest

from common.backends import BackendUnavailableError, registry


@pytest.fixture
def registered(monkeypatch):
    """Replaces the registered entry points by name -> "module:attribute"."""

    def use(**values):
        entries = [EntryPoint(name, value, registry.GROUP) for name, value in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: entries)

    return use


@pytest.fixture
def installed(monkeypatch):
    def use(*libraries):
        monkeypatch.setattr(
            registry, "find_spec", lambda name: object() if name in libraries else None
        )

    return use


def test_the_three_backends_are_registered():
    assert {"cpu", "cuda", "mlx"} <= set(registry.names())


def test_a_misspelt_name_gets_the_nearest_one():
    with pytest.raises(ValueError, match="no backend 'mlxx'; did you mean 'mlx'"):
        registry.load("mlxx")


@pytest.mark.parametrize(("name", "extra"), [("cpu", "torch"), ("cuda", "torch"), ("mlx", "mlx")])
def test_an_absent_library_says_what_to_install(installed, name, extra):
    installed()
    error = registry.probe(name)
    assert isinstance(error, BackendUnavailableError)
    assert f"pip install 'drift-toolkit[{extra}]'" in str(error)


def test_a_library_that_does_not_import_says_why(registered, installed, tmp_path, monkeypatch):
    (tmp_path / "broken_backend.py").write_text("raise ImportError('libfoo.so is absent')")
    monkeypatch.syspath_prepend(str(tmp_path))
    registered(odd="broken_backend:make")
    with pytest.raises(
        BackendUnavailableError, match=r"odd cannot be imported: libfoo.so is absent"
    ):
        registry.load("odd")
    assert "broken_backend" not in sys.modules


@pytest.mark.parametrize(
    ("system", "working", "libraries", "expected"),
    [
        ("Darwin", {"mlx", "cpu"}, {"mlx", "torch"}, "mlx"),
        ("Darwin", {"cpu"}, {"torch"}, "cpu"),
        ("Linux", {"mlx", "cpu", "cuda"}, {"mlx", "torch"}, "cuda"),
        ("Linux", {"mlx", "cpu"}, {"mlx", "torch"}, "cpu"),
        ("Linux", {"mlx"}, {"mlx"}, "mlx"),
    ],
)
def test_the_best_backend(monkeypatch, installed, system, working, libraries, expected):
    installed(*libraries)
    monkeypatch.setattr(registry.platform, "system", lambda: system)
    monkeypatch.setattr(registry.platform, "machine", lambda: "arm64")
    absent = BackendUnavailableError("no")
    monkeypatch.setattr(registry, "probe", lambda name: name if name in working else absent)
    assert registry.best() == expected


def test_no_library_at_all(installed):
    installed()
    with pytest.raises(BackendUnavailableError, match="neither PyTorch nor MLX"):
        registry.best()
