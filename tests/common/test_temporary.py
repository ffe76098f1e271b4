"""Temporary files: those of dead writers are swept at the next start, those of living ones stay."""

import fcntl
import os
import time

import pytest

from common import consent, temporary
from common.runs import checkpoint, files
from tests.common.synthetic_checkpoint import save, snapshot


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_next_write_sweeps_what_a_killed_one_left_and_no_living_one(tmp_path):
    (tmp_path / ".a.json.tmp-0badcafe").write_bytes(b"half")
    (tmp_path / ".b.json.tmp-0badcafe").write_bytes(b"of another file")
    with temporary.new_file(tmp_path / "a.json") as (unfinished, file):
        files.write_whole(tmp_path / "a.json", b"whole")
        assert names(tmp_path) == sorted([".b.json.tmp-0badcafe", unfinished.name, "a.json"])
        file.write(b"later")
        unfinished.replace(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == b"later"
    assert names(tmp_path) == [".b.json.tmp-0badcafe", "a.json"]


def test_a_folder_is_swept_of_leftovers_and_of_nothing_else(tmp_path):
    kept = [".config.toml", ".x.tmp-mine", "x.tmp-0badcafe", ".x.old-0badcafe"]
    for name in (*kept, ".x.tmp-0badcafe", ".y.png.gone-01234567"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".000001.tmp-0badcafe").mkdir()
    (tmp_path / ".000001.tmp-0badcafe" / "weights").write_bytes(b"half")
    (tmp_path / ".link.tmp-0badcafe").symlink_to(tmp_path / ".config.toml")
    os.mkfifo(tmp_path / ".pipe.tmp-0badcafe")
    temporary.sweep(tmp_path)
    assert names(tmp_path) == sorted([*kept, ".link.tmp-0badcafe", ".pipe.tmp-0badcafe"])


def test_a_folder_that_is_being_written_stays(tmp_path):
    folder = tmp_path / ".000001.tmp-0badcafe"
    folder.mkdir()
    with temporary.claimed(folder):
        temporary.sweep(tmp_path)
        assert folder.is_dir()
    temporary.sweep(tmp_path)
    assert not folder.exists()


def test_a_save_claims_its_folder(tmp_path, monkeypatch):
    seen = []

    def write(path, chunks):
        temporary.sweep(tmp_path)
        seen.append(path.parent.exists())
        return original(path, chunks)

    original = files.write_new
    monkeypatch.setattr(files, "write_new", write)
    save(tmp_path, snapshot(3))
    assert seen
    assert all(seen)
    assert checkpoint.updates(tmp_path) == [3]


def test_a_file_swept_before_its_lock_is_made_again(tmp_path, monkeypatch):
    real, calls = fcntl.flock, []

    def late(descriptor, how):
        if not calls:
            calls.append(descriptor)
            temporary.sweep(tmp_path)
        real(descriptor, how)

    monkeypatch.setattr(temporary.fcntl, "flock", late)
    files.write_whole(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"


def test_without_locks_only_old_leftovers_are_swept(tmp_path, monkeypatch):
    def refuse(descriptor, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(temporary.fcntl, "flock", refuse)
    for name in (".a.tmp-0badcafe", ".b.tmp-0badcafe"):
        (tmp_path / name).write_bytes(b"half")
    yesterday = time.time() - temporary.UNLOCKED_SECONDS - 60
    os.utime(tmp_path / ".b.tmp-0badcafe", (yesterday, yesterday))
    files.write_whole(tmp_path / "c", b"content")
    temporary.sweep(tmp_path)
    assert names(tmp_path) == [".a.tmp-0badcafe", "c"]


def test_what_is_trusted_is_written_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "drift").mkdir()
    (tmp_path / "drift" / ".trusted.json.tmp-0badcafe").write_text("half")
    consent.remember(tmp_path / "recipe.toml", {"mine:reward"})
    assert names(tmp_path / "drift") == ["trusted.json"]


def test_beside_is_a_new_hidden_name_in_the_same_folder(tmp_path):
    made = {temporary.beside(tmp_path / "a.json") for _ in range(50)}
    assert len(made) == 50
    assert {path.parent for path in made} == {tmp_path}
    assert all(path.name.startswith(".a.json.tmp-") for path in made)
    assert all(temporary.is_leftover(path.name) for path in made)


def test_a_body_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), temporary.new_file(tmp_path / "a"):
        raise KeyError("the body's own")
    assert names(tmp_path) == []
