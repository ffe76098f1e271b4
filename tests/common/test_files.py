"""Files are whole or not there: under a full disk, a file-size limit and a folder that is none."""

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.runs import files

LIMITED = """
import resource, sys
from pathlib import Path
from common.runs import files

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for action in (files.write_whole, files.append):
    try:
        with files.os_errors_as(f"write {sys.argv[1]}"):
            action(Path(sys.argv[1]), b"x" * 1500)
    except files.WriteError as error:
        print(error)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_disk(monkeypatch):
    """Syncing fails as on a disk that has filled up: by then bytes may be in the file."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", refuse)


def test_write_whole_makes_and_replaces(tmp_path):
    file = tmp_path / "a.json"
    for content in (b"first, and longer", b"second", b""):
        files.write_whole(file, content)
        assert file.read_bytes() == content
    assert names(tmp_path) == ["a.json"]


def test_write_new_shows_size_and_hash_and_never_overwrites(tmp_path):
    file = tmp_path / "a"
    expected = hashlib.sha256(b"abcdef").hexdigest()
    assert files.write_new(file, [b"abc", b"", b"def"]) == (6, expected)
    with pytest.raises(FileExistsError):
        files.write_new(file, [b"other"])
    assert file.read_bytes() == b"abcdef"


def test_append_adds_at_the_end(tmp_path):
    for content in (b"one\n", b"two\n"):
        files.append(tmp_path / "log", content)
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


def test_a_full_disk_leaves_the_old_content_and_nothing_beside_it(tmp_path, full_disk):
    file = tmp_path / "a"
    file.write_bytes(b"old\n")
    for action in (files.write_whole, files.append):
        with pytest.raises(OSError, match="No space left"):
            action(file, b"new\n")
        assert file.read_bytes() == b"old\n"
    assert names(tmp_path) == ["a"]


def test_a_real_limit_in_the_middle_of_a_write(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"old\n")
    command = [sys.executable, "-c", LIMITED, str(file)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = f"cannot write {file}: the file would be larger than this process may write"
    assert output.splitlines() == [line, line]
    assert file.read_bytes() == b"old\n"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on the device"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "the file system is read-only"),
        (errno.ENOTDIR, "a folder on the way is a file"),
        (errno.EIO, os.strerror(errno.EIO).lower()),
    ],
)
def test_reasons_in_plain_words(number, words):
    with pytest.raises(files.WriteError) as caught, files.os_errors_as("write /x"):
        raise OSError(number, os.strerror(number), "/x")
    assert str(caught.value) == f"cannot write /x: {words}"
    assert caught.value.errno == number


def test_os_errors_become_the_named_class_and_other_errors_pass():
    line = r"^cannot read /x: it is not there$"
    with pytest.raises(ValueError, match=line), files.os_errors_as("read /x", ValueError):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")
    with pytest.raises(KeyError), files.os_errors_as("read /x"):
        raise KeyError("not the system's fault")
    with (
        pytest.raises(files.WriteError, match="cannot write /x: odd"),
        files.os_errors_as("write /x"),
    ):
        raise OSError("odd")


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(files.os, "fsync", refuse)
    files.sync_folder(tmp_path)


def test_everything_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    events = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (events.append("sync"), sync(fd))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (events.append("rename"), replace(self, to))[1]
    )
    files.write_whole(tmp_path / "a", b"content")
    assert events == ["sync", "rename", "sync"]  # the file, its name, the folder's names


def test_a_file_beside_others_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wanted = tmp_path / "a.png"
    assert files.write_beside_others(wanted, b"one") == wanted
    assert files.write_beside_others(wanted, b"two") == tmp_path / "a-2.png"
    assert files.write_beside_others(wanted, b"two") == tmp_path / "a-2.png"

    def refuse(*_: Path) -> None:
        raise PermissionError(errno.EPERM, "this file system has no hard links")

    monkeypatch.setattr(files.os, "link", refuse)
    (tmp_path / "a-3.png").symlink_to("nowhere")
    assert files.write_beside_others(wanted, b"three") == tmp_path / "a-4.png"
    contents = [(tmp_path / f"a{n}.png").read_bytes() for n in ("", "-2", "-4")]
    assert contents == [b"one", b"two", b"three"]
    assert len(names(tmp_path)) == 4
