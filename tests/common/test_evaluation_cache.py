"""The cache gives back what was made, and never what a file only claims to be."""

import numpy as np
import pytest

from common.evaluation import cache as caches
from common.evaluation.cache import Cache
from common.runs.files import WriteError

KEY = {"weights": "ab", "prompts": ("owl", "rose"), "seed": 0}


class Maker:
    """Counts how often it is asked."""

    def __init__(self, array):
        self.array, self.calls = array, 0

    def __call__(self):
        self.calls += 1
        return self.array


@pytest.fixture
def make():
    return Maker(np.arange(72, dtype=np.uint8).reshape(2, 3, 4, 3))


def stored(cache):
    (path,) = [path for path in cache.folder.rglob("*") if path.is_file()]
    return path


def test_what_was_made_once_is_read_by_everyone(tmp_path, make):
    for _ in range(2):
        stored = Cache(tmp_path / "cache").images(KEY, 2, make)
        assert (stored.dtype, stored.tolist()) == (np.uint8, make.array.tolist())
    assert make.calls == 1


@pytest.mark.parametrize("change", [{"seed": 1}, {"prompts": ("rose", "owl")}, {"weights": "ac"}])
def test_whatever_decides_it_makes_another_entry(tmp_path, make, change):
    cache = Cache(tmp_path)
    cache.images(KEY, 2, make)
    other = Maker(make.array + 1)
    assert cache.images(KEY | change, 2, other).tolist() == other.array.tolist()
    assert cache.images(KEY, 2, make).tolist() == make.array.tolist()
    assert (make.calls, other.calls) == (1, 1)


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: bytes([content[0] ^ 1]) + content[1:],
        lambda content: content + b"\0",
    ],
    ids=["cut", "empty", "changed", "other digest", "longer"],
)
def test_a_damaged_entry_is_made_again(tmp_path, make, harm):
    cache = Cache(tmp_path)
    cache.images(KEY, 2, make)
    whole = stored(cache).read_bytes()
    stored(cache).write_bytes(harm(whole))
    assert cache.images(KEY, 2, make).tolist() == make.array.tolist()
    assert make.calls == 2
    assert stored(cache).read_bytes() == whole


def test_a_maker_that_fails_leaves_nothing(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path / "cache").images(KEY, 2, fail)
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, make):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError) as caught:
        Cache(tmp_path / "file").images(KEY, 2, make)
    assert str(caught.value).startswith(f"cannot write to the cache {tmp_path / 'file'}: ")


@pytest.mark.parametrize("harm", ["remove", "damage"])
def test_many_images_are_in_several_files_of_bounded_size(tmp_path, monkeypatch, harm):
    monkeypatch.setattr(caches, "STRIP", 2 * 3 * 4)
    cache, make = Cache(tmp_path), Maker(np.arange(180, dtype=np.uint8).reshape(5, 3, 4, 3))
    cache.images(KEY, 5, make)
    paths = sorted(tmp_path.rglob("*.png"))
    assert [path.name[:6] for path in paths] == ["0000-2", "0001-2", "0002-1"]
    assert cache.images(KEY, 5, make).tolist() == make.array.tolist()
    assert make.calls == 1
    paths[1].unlink() if harm == "remove" else paths[1].write_bytes(paths[0].read_bytes())
    assert cache.images(KEY, 5, make).tolist() == make.array.tolist()
    assert make.calls == 2
    assert sorted(tmp_path.rglob("*.png")) == paths
