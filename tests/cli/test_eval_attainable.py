"""`drift eval --attainable`: the table, the sentence, JSON, and what is refused."""

import json
import shutil

import pytest

import drift as face
from common.evaluation import attainable_fronts
from common.evaluation.attainable_records import FILE

FEW = ("--prompts", 1, "--steps", 1, "--split", "test")
SMALL = ("--attainable", "--samples", 16, "--ratio", 4, *FEW)


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(attainable_fronts, "REPLICAS", 4)
    monkeypatch.setattr(attainable_fronts, "POINTS", 4)


def test_a_table_and_a_sentence_say_how_much_there_is_to_win(drift, finished):
    first = drift("eval", finished, *SMALL)
    assert first.exit_code == 0, first.output
    lines = first.output.splitlines()
    assert f"{finished}: 1 test prompts" in first.output
    front = json.loads((finished / FILE).read_text())["entries"][0]["fronts"][0]
    axis = front["axes"]["reward"]
    row = next(line.split() for line in lines if line.split()[:1] == ["50%"])
    assert row[1:4] == [
        f"{axis['level'][20]:.2f}",
        f"{axis['kl']['value'][20]:.3f}",
        f"{axis['best']['value'][20]:.3f}",
    ]
    text = " ".join(lines)
    assert "how much there is to win: " in text or "nothing to win here with this model" in text
    assert "N = 16 images of each prompt, none more than c = 4 times as likely" in text
    assert lines[-1] == f"fronts  {finished / FILE}"
    # The same once more makes nothing, and JSON and Python have the same numbers.
    (printed,) = json.loads(drift("eval", finished, *SMALL, "--json").output)["runs"]
    assert printed["new"] == 0
    rows = face.attainable(
        finished, splits=["test"], prompts=1, steps=1, samples=16, ratio=4, progress=False
    )
    assert rows == printed["levels"]
    assert [each["share"] for each in rows] == [0.25, 0.5, 0.75, 0.9]
    assert rows[1]["gain"] == axis["gain"]["value"][20]


def test_runs_of_one_base_model_are_solved_once(drift, finished, tmp_path):
    other = shutil.copytree(finished, tmp_path / "other")
    result = drift("eval", finished, other, *SMALL, "--json")
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.output)["runs"]
    assert (first["new"], second["new"]) == (3, 0)
    assert (finished / FILE).read_bytes() == (other / FILE).read_bytes()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--samples", 24), "--samples 24: write a multiple of 16, up to 2048"),
        (("--samples", 4096), "--samples 4096: write a multiple of 16, up to 2048"),
        (("--samples", 32, "--ratio", 9), "--ratio 9: write a number above 1 and up to a quarter"),
        (("--samples", 2048, "--prompts", 0, "--split", "train", "--split", "test"), "too many to"),
        (("--ratio", 1), "ratio = 1"),
        (("--ratio", "nan"), "ratio = nan"),
        (("--checkpoint", 1), "--checkpoint has no effect with --attainable"),
        (("--scale", 1), "--scale has no effect with --attainable"),
        (("--images", 16), "--images has no effect with --attainable"),
        (("--scorer", "embedded"), "'embedded' is maximised by the run"),
        (("--feature", "clop"), "no features 'clop'"),
    ],
)
def test_what_makes_no_sense_is_one_line(refused, finished, words, expected):
    assert expected in refused(2, "eval", finished, "--attainable", *FEW, *words)
    assert not (finished / FILE).exists()


@pytest.mark.parametrize("words", [("--samples", 32), ("--ratio", 4)])
def test_its_options_without_it_are_refused(refused, finished, words):
    line = refused(2, "eval", finished, *FEW, *words)
    assert line == f"drift: {words[0]} has no effect without --attainable"


def test_a_damaged_result_is_one_line_and_stays(refused, finished):
    (finished / FILE).parent.mkdir()
    (finished / FILE).write_text('{"format": 1, "entries": [3]}')
    line = refused(2, "eval", finished, *SMALL)
    assert f"{FILE}: not what `drift eval --attainable` stores (entries.0: " in line
    assert (finished / FILE).read_text() == '{"format": 1, "entries": [3]}'
