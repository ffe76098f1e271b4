"""Line logs: a torn last line never counts and is never glued to, whatever the records are."""

import json
import multiprocessing
import time

import pytest

from common.runs import line_log, lock


class DamagedError(ValueError):
    pass


def parse(line, number):
    try:
        return int(json.loads(line)["n"])
    except (ValueError, KeyError, TypeError):
        raise DamagedError(f"line {number}") from None


def read(file):
    return [record for _, record in line_log.read(file, parse, DamagedError)]


@pytest.mark.parametrize("torn", [b'{"n": 3', b'{"m": 3}', b"{", b"\xff"])
def test_what_is_no_record_and_has_no_newline_is_cut_off(tmp_path, torn):
    file = tmp_path / "log"
    file.write_bytes(b'{"n": 1}\n{"n": 2}\n' + torn)
    assert read(file) == [1, 2]
    line_log.append(file, b'{"n": 4}\n', parse)
    assert file.read_bytes() == b'{"n": 1}\n{"n": 2}\n{"n": 4}\n'


def test_a_record_that_lacks_only_its_newline_counts(tmp_path):
    file = tmp_path / "log"
    assert read(file) == []
    file.write_bytes(b'{"n": 1}\n{"n": 2}')
    assert line_log.read(file, parse, DamagedError) == [(b'{"n": 1}', 1), (b'{"n": 2}', 2)]
    line_log.append(file, b'{"n": 3}\n', parse)
    assert read(file) == [1, 2, 3]


def test_the_parser_names_a_damaged_line_and_the_caller_an_unreadable_file(tmp_path):
    file = tmp_path / "log"
    file.write_bytes(b'{"n": 1}\n\n{"n": 2}\n')
    with pytest.raises(DamagedError, match="line 2"):
        read(file)
    with pytest.raises(DamagedError, match=f"^cannot read {tmp_path}: "):
        read(tmp_path)


def test_a_folder_is_locked_once_and_errors_within_pass(tmp_path):
    def locked():
        return lock.locked(
            tmp_path, busy=DamagedError("taken"), opening="open it", refused=KeyError
        )

    with locked(), pytest.raises(DamagedError, match="taken"), locked():
        pass
    with pytest.raises(OSError, match="the body's own"), locked():
        raise OSError("the body's own")
    with pytest.raises(KeyError, match="cannot open it: it is not there"):
        lock.locked(
            tmp_path / "no", busy=DamagedError(), opening="open it", refused=KeyError
        ).__enter__()


def test_a_forked_process_does_not_keep_the_lock(tmp_path):
    """A worker of a reward may outlive the run that was killed; the run can go on."""

    def locked():
        return lock.locked(tmp_path, busy=DamagedError("taken"), opening="open it")

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    with locked():
        worker = context.Process(target=lambda: (there.send("runs"), time.sleep(60)), daemon=True)
        worker.start()
        assert here.poll(30)
    with locked():
        assert worker.is_alive()
    worker.kill()
    worker.join()
