"""The cache gives back what was made, and never what a file only claims to be."""

import numpy as np
import pytest

from common.errors import RequestError
from common.evaluation import cache as caches
from common.evaluation.cache import Cache
from common.runs.files import WriteError

KEY = {"weights": "ab", "prompts": ("owl", "rose"), "seed": 0}


class Maker:
    """Counts how often it is asked."""

    def __init__(self, array):
        self.array, self.calls = array, 0

    def __call__(self, done=0):
        self.calls += 1
        yield from np.array_split(self.array[done:], len(self.array[done:]))


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
    with pytest.warns(UserWarning, match=f"a file in the cache {tmp_path} is damaged; its images"):
        assert cache.images(KEY, 2, make).tolist() == make.array.tolist()
    assert make.calls == 2
    assert stored(cache).read_bytes() == whole


def test_a_maker_that_fails_leaves_nothing(tmp_path):
    def fail(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path / "cache").images(KEY, 2, fail)
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, make):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError) as caught:
        Cache(tmp_path / "file").images(KEY, 2, make)
    assert str(caught.value).startswith(f"cannot write to the cache {tmp_path / 'file'}: ")


def test_after_a_kill_it_goes_on_behind_the_last_whole_file(tmp_path):
    images = np.arange(7 * 12, dtype=np.uint8).reshape(7, 2, 2, 3)
    asked = []

    def make(done, until=7):
        asked.append(done)
        yield from (images[i : i + 1] for i in range(done, until))
        if until < 7:
            raise KeyboardInterrupt

    cache = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.images(KEY, 7, lambda done: make(done, 5), together=2)
    assert (cache.written.images, [path.name[:6] for path in sorted(tmp_path.rglob("*.png"))]) == (
        (5, ["0000-2", "0001-2"])
    )
    again = Cache(tmp_path)
    assert np.array_equal(again.images(KEY, 7, make, together=2), images)
    assert asked == [0, 4]
    paths = sorted(tmp_path.rglob("*.png"))
    assert [path.name[:6] for path in paths] == ["0000-2", "0001-2", "0002-2", "0003-1"]
    assert again.written.nbytes == sum(path.stat().st_size for path in paths[2:])


def test_files_that_another_process_or_an_older_version_wrote_are_read(tmp_path, make):
    many = Maker(np.arange(96, dtype=np.uint8).reshape(8, 2, 2, 3))
    Cache(tmp_path).images(KEY, 8, many)  # one file for all
    assert np.array_equal(Cache(tmp_path).images(KEY, 8, many, together=3), many.array)
    (path,) = tmp_path.rglob("*.png")
    path.with_name("0000-8-" + "0" * 64 + ".png").write_bytes(b"of a process that computed else")
    path.with_name("notes.png").write_bytes(b"")
    assert np.array_equal(Cache(tmp_path).images(KEY, 8, many), many.array)
    assert many.calls == 1


def test_images_of_another_size_are_one_line(tmp_path, make):
    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).images(KEY, 4, interrupted(make.array), together=2)
    other = Maker(np.zeros((4, 5, 5, 3), dtype=np.uint8))
    with pytest.raises(RequestError, match="are not 4 of the size that the model makes; remove"):
        Cache(tmp_path).images(KEY, 4, other, together=2)


def interrupted(images):
    def make(done):
        yield images
        raise KeyboardInterrupt

    return make


@pytest.mark.filterwarnings("ignore:a file in the cache")
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
