"""Commands that messages suggest can be pasted: complete, quoted, with options that exist."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from common.commands.eval import evaluate
from common.evaluation import records, suggested
from common.evaluation.image_methods import ImageMethod, Note
from common.evaluation.records import IMAGES, Variant
from tests.common.synthetic_study import make_run

ROOT = Path(__file__).parents[2]
REAL = "2 images " + "0" * 64


def parsed(command):
    """The parameters of `drift eval` in a command; click's errors where it does not take them."""
    drift, name, *words = shlex.split(command)
    assert (drift, name) == ("drift", "eval")
    return evaluate.make_context("drift eval", words).params


@pytest.fixture
def measured(tmp_path):
    """A run at a path with a space, and records of it with real images and a scorer."""
    run = make_run(tmp_path / "b c", variants=[Variant(0)])
    (record,) = records.load(run)
    how = replace(record.protocol, real=REAL, scorers=("aesthetic",))
    folder = str(tmp_path / "real; photos")
    return run, [replace(record, protocol=how, real_folder=folder)]


def test_the_folder_of_real_images_is_named(measured, tmp_path):
    run, there = measured
    command = suggested.eval_run(run, there, [Variant(10), Variant(10, scale=0.5)])
    first, second = (parsed(each) for each in command.split(" && "))
    for params in (first, second):
        assert params["directories"] == (run.path,)
        assert params["real"] == str(tmp_path / "real; photos")
        assert (params["prompts"], params["images"], params["scorers"]) == (4, 8, ("aesthetic",))
        assert params["wanted"] == ("10",)
    assert [params["scales"] for params in (first, second)] == [(0.5,), (1.0,)]
    old = [replace(each, real_folder="") for each in there]
    assert parsed(suggested.eval_run(run, old, [Variant(10)]))["real"] == "DIR"


def test_images_made_elsewhere_are_measured_again_as_they_were(measured, tmp_path):
    run, (there,) = measured
    note = Note(name="their images", folder="/data/a b")
    like = ImageMethod(tmp_path / note.name, note.model_copy(update={"run": "b c"}))
    params = parsed(suggested.eval_images(like, [there]))
    assert (params["directories"], params["folder"]) == ((run.path,), Path("/data/a b"))
    assert (params["name"], params["scorers"]) == ("their images", ())
    alone = ImageMethod(tmp_path / note.name, note)
    how = replace(there.protocol, model="", features="embedded")
    record = replace(there, protocol=how, variant=IMAGES)
    params = parsed(suggested.eval_images(alone, [record]))
    assert (params["directories"], params["features"]) == ((), ("embedded",))
    assert params["real"] == there.real_folder


def test_fronts_are_made_with_the_samples_that_the_others_have(measured):
    run, (there,) = measured
    params = parsed(suggested.attainable([run.path], there.protocol, 64, 6.5))
    assert (params["attainable"], params["samples"], params["ratio"]) == (True, 64, 6.5)
    assert "--ratio" not in suggested.attainable([run.path], there.protocol, 64, 8.0)


def test_a_folder_of_real_images_outlives_the_file_and_old_records_have_none(measured):
    _, (there,) = measured
    overall = dict.fromkeys(there.protocol.overall[1:], 1.0)
    by_prompt = {**there.by_prompt, "heldout/aesthetic": (1.0,) * 4}
    record = replace(there, overall=overall, by_prompt=by_prompt)
    assert records.parse(records.to_line(record), "here") == record
    old = replace(record, real_folder="")
    assert "real_folder" not in records.to_line(old)
    assert records.parse(records.to_line(old), "here") == old


def test_no_message_has_a_path_that_is_not_quoted():
    """In the source: a command with a value in it, written as f"drift eval {value}"."""
    command = re.compile(
        r"drift (?:run|eval|audit|compare|sample|report|export|sweep)\b(?!:)[^`\n]*?\{"
    )
    safe = re.compile(
        r"(?:shlex\.(?:quote|join)\(|_quoted\(|(?:[\w.]*split|runs|name|error)\}|','\.join\(names\))"
    )
    seen = 0
    for file in sorted((ROOT / "common").rglob("*.py")):
        for line in file.read_text(encoding="utf-8").splitlines():
            for match in command.finditer(line):
                seen += 1
                assert safe.match(line, match.end()), f"{file}: {line.strip()}"
    assert seen > 5
