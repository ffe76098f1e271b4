"""Folders of images without any run: measured by name, and compared with each other."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import drift
from common.cli import drift as command
from common.evaluation import records
from common.evaluation.image_methods import ImageMethod
from common.evaluation.records import HELD_OUT, IMAGES

SCORER = "jpeg_compressibility"
PROMPTS = {"a_red_fox": "a red fox", "tree": "tree"}


def call(*words):
    return CliRunner().invoke(command, [str(word) for word in words])


def draw(folder, names=PROMPTS, count=3, side=16, shade=0):
    """Smooth images as another program may leave them: FOLDER/PROMPT/0.png."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            ramp = np.linspace(shade, 120 + (40 + 9 * number) * i, side**2).reshape(side, side)
            tone = np.stack([ramp, np.roll(ramp, number), np.full_like(ramp, 30 * i)], axis=-1)
            Image.fromarray(tone.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the images A and B, and a third of real ones."""
    draw(tmp_path / "A")
    draw(tmp_path / "B", shade=90)
    draw(tmp_path / "real", ["any"], shade=40)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measure(name, *more):
    return call("eval", "--folder", name.upper(), "--name", name, *more)


def recorded(path):
    return records.load(ImageMethod.open(path))


def test_two_folders_are_measured_and_compared_without_a_run(here):
    for name in "ab":
        result = measure(name, "--scorer", SCORER, "--real", "real")
        assert result.exit_code == 0, result.output
        assert f"measured {name} on 2 prompts" in result.output
        assert "of base" not in result.output
    (one,), (other,) = recorded(here / "a"), recorded(here / "b")
    assert (one.variant, one.frechet, one.protocol.has_base) == (IMAGES, None, False)
    assert one.protocol.prompts == ("a red fox", "tree")
    assert {*one.measures} == {
        "diversity", "vendi", "pixel_distance", "high_frequency", HELD_OUT + SCORER, "frechet_real",
    }  # fmt: skip
    assert (
        json.loads(measure("a", "--scorer", SCORER, "--real", "real", "--json").output)["runs"][0][
            "new"
        ]
        == 0
    )

    result = call("compare", "a", "b", "--out", "out")
    assert result.exit_code == 0, result.output
    assert "There is no base model: no reward" in result.output
    assert sorted(file.name for file in (here / "out").iterdir()) == [
        "compare.html",
        "compare.json",
    ]
    page = (here / "out" / "compare.html").read_text()
    for text in ("baseline a", "2 prompts", f"score by {SCORER}", "images of 16 x 16 pixels"):
        assert text in page
    summary = json.loads((here / "out" / "compare.json").read_bytes())
    assert [*summary["methods"]] == ["a", "b"]
    differences = {each["measure"]: each for each in summary["differences"]}
    for measure_name, each in differences.items():
        by_prompt = np.subtract(other.values(measure_name), one.values(measure_name))
        assert each["estimate"] == pytest.approx(by_prompt.mean(), rel=1e-4)
        if measure_name == "frechet_real":
            assert "low" not in each
        else:
            low, high = min(by_prompt), max(by_prompt)
            assert each["low"] <= low < high <= each["high"]  # two prompts: wider than both
    assert "b" in call("compare", "b", "a", "--baseline", "b").output.splitlines()[0]


def test_python_measures_and_compares_them_too(here):
    rows = [drift.evaluate_images(name.upper(), name, progress=False)[0] for name in "ab"]
    assert [row["run"] for row in rows] == [str(here / "a"), str(here / "b")]
    assert rows[0]["diversity"] == pytest.approx(recorded(here / "a")[0].mean("diversity"))
    comparison = drift.compare(["a", "b"], out="out", replicas=100)
    assert comparison.page == drift.compare(["a", "b"], out="out", replicas=100).files[-1]
    assert {each["method"] for each in comparison.gains} == {"b"}
    assert [each["method"] for each in comparison.points] == ["a", "b"]
    assert repr(comparison).startswith("<Comparison of a, b with a")
    assert comparison._repr_png_() is None
    for wrong, expected in {
        "splits": "--split has no effect on images alone",
        "cache": "--cache has no effect on images alone",
    }.items():
        with pytest.raises(drift.RequestError, match=expected):
            drift.evaluate_images("A", "c", **{wrong: ["test"] if wrong == "splits" else "x"})
    with pytest.raises(drift.RequestError, match="name: a name is needed"):
        drift.evaluate_images("A", " ")


def other_prompts(here):
    (here / "B" / "tree").rename(here / "B" / "oak")


def other_number(here):
    for place in (here / "B").iterdir():
        (place / "0.png").unlink()


def other_size(here):
    for file in (here / "B").rglob("*.png"):
        Image.new("RGB", (8, 16)).save(file)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_prompts, "they were measured on other prompts (2 and 2 of them)"),
        (other_number, "they were measured with images = 3 and 2"),
        (other_size, "one has images of 16 x 16 pixels, the other images of 8 x 16 pixels"),
    ],
)
def test_what_differs_is_refused_in_one_line(here, change, expected):
    change(here)
    assert measure("a").exit_code == measure("b").exit_code == 0
    result = call("compare", "a", "b")
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, f"a and b cannot be compared: {expected}" in line) == (2, True), line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--axis", "vendi"), "--axis has no effect on images without a base model"),
        (("--level", "0.5"), "--level has no effect on images without a base model"),
        (("--until", "3"), "--until has no effect on images without a base model"),
        (("--with", "aig"), "--with measures checkpoints of runs, and there are only images"),
        (
            ("--split", "train"),
            "a was measured on test prompts, not on train: compare with --split",
        ),
        (("--baseline", "c"), "no method 'c' among the runs"),
    ],
)
def test_options_of_curves_are_refused(here, words, expected):
    assert measure("a").exit_code == 0
    result = call("compare", "a", *words)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, expected in line) == (2, True), line


def single(here):
    for place in (here / "A").iterdir():
        for file in ("1.png", "2.png"):
            (place / file).unlink()


def two_sizes(here):
    Image.new("RGB", (8, 8)).save(here / "A" / "tree" / "2.png")


def unnamed(here):
    (here / "A" / "tree").rename(here / "A" / "_")


def same_text(here):
    (here / "A" / "tree").rename(here / "A" / "a red_fox")


def line_break(here):
    (here / "A" / "tree").rename(here / "A" / "tr\nee")


def nothing(here):
    pass


@pytest.mark.parametrize(
    ("harm", "words", "expected"),
    [
        (single, (), "A has 1 image of each prompt, and diversity needs 2"),
        (two_sizes, (), "2.png has 8 x 8 pixels and the first of them has 16 x 16"),
        (unnamed, (), "'' is no prompt"),
        (same_text, (), "are both for 'a red fox'"),
        (line_break, (), "'tr\\nee' is no prompt"),
        (nothing, ("--scorer", "jpegg"), "jpegg"),
        (nothing, ("--feature", "clipp"), "clipp"),
        (nothing, ("--images", "3"), "--images has no effect with --folder: the images are there"),
        (nothing, ("--split", "test"), "--split has no effect on images alone: name a RUN too"),
    ],
)
def test_bad_images_alone_are_one_line_and_leave_nothing(here, harm, words, expected):
    harm(here)
    result = measure("a", *words)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, expected in line) == (2, True), line
    assert not (here / "a").exists()


def test_without_a_folder_a_run_is_needed():
    result = call("eval")
    assert result.exit_code == 2
    assert re.search("Missing argument|missing", result.stderr)
