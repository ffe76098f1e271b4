"""`drift eval --folder`: images of another program, measured and compared like those of a run."""

import json
import shutil

import pytest
from click.testing import CliRunner
from PIL import Image

import drift
from common import pictures
from common.cli import drift as command
from common.comparison.summary import from_json
from common.evaluation import collection, records
from common.evaluation.image_methods import NOTE, ImageMethod
from common.evaluation.records import IMAGES, Variant
from common.runs.directory import RunDirectory

HOW = ("--split", "test", "--prompts", 2, "--images", 3, "--steps", 1, "--checkpoint", "latest")


def call(*words):
    return CliRunner().invoke(command, [str(word) for word in words])


@pytest.fixture(scope="module")
def measured(first, tmp_path_factory):
    """A run that was measured on two test prompts, with its cache, and its images by prompt."""
    folder = tmp_path_factory.mktemp("measured")
    run = shutil.copytree(first[0], folder / "run")
    result = call("eval", run, *HOW)
    assert result.exit_code == 0, result.output
    (tuned,) = [r for r in records.load(RunDirectory.open(run)) if r.variant.update == 2]
    sheet = pictures.load(run / "evaluation" / str(tuned.grid))
    return folder, dict(zip(tuned.protocol.prompts, pictures.cells(sheet, 2, 3), strict=True))


@pytest.fixture
def here(measured, tmp_path, monkeypatch):
    """Copies of them in a folder of their own, the images as another program would leave them."""
    for name in ("run", "evaluation-cache"):
        shutil.copytree(measured[0] / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for text, images in measured[1].items():
        place = tmp_path / "images" / text.title().replace(" ", "--")
        place.mkdir(parents=True)
        for number, image in enumerate(images):
            (place / f"{9 + number}.png").write_bytes(pictures.encode_png(image))
    return tmp_path


FOLDER = ("eval", "run", "--folder", "images", "--name", "flow_grpo")


def by_variant(path):
    opened = ImageMethod.open(path) if (path / NOTE).exists() else RunDirectory.open(path)
    return {record.variant: record for record in records.load(opened)}


def test_the_images_of_a_run_are_measured_as_the_run_was(here):
    (here / "images" / "readme.txt").write_text("made by hand")
    result = call(*FOLDER)
    assert result.exit_code == 0, result.output
    run, images = by_variant(here / "run"), by_variant(here / "flow_grpo")
    assert images.keys() == {Variant(0), IMAGES}
    assert images[Variant(0)] == run[Variant(0)]
    ours, theirs = images[IMAGES], run[Variant(2)]
    assert ours.by_prompt == theirs.by_prompt
    assert (ours.frechet, ours.protocol) == (theirs.frechet, theirs.protocol)
    evaluation = here / "flow_grpo" / "evaluation"
    assert (evaluation / str(ours.grid)).read_bytes() == (
        (here / "run" / "evaluation" / str(theirs.grid)).read_bytes()
    )
    assert (evaluation / str(images[Variant(0)].grid)).exists()
    output = result.output
    assert "measured flow_grpo on test prompts" in output
    assert "left out: 1 files that are no PNG, JPEG or WebP" in output
    (row,) = [line.split() for line in output.splitlines() if line.startswith("images ")]
    assert f"{theirs.mean('diversity'):.3f}" in row

    again = json.loads(call(*FOLDER, "--json").output)["runs"][0]
    assert (again["new"], again["run"]) == (0, str(here / "flow_grpo"))
    lines = []
    for text in ours.protocol.prompts:
        files = sorted((here / "images" / text.title().replace(" ", "--")).iterdir(), key=str)
        files.sort(key=lambda file: int(file.stem))
        lines += [{"path": str(f.relative_to(here)), "prompt": text} for f in files]
    (here / "list.jsonl").write_text("".join(json.dumps(line) + "\n\n" for line in lines))
    listed = call("eval", "run", "--folder", "list.jsonl", "--name", "listed")
    assert listed.exit_code == 0, listed.output
    assert by_variant(here / "listed")[IMAGES] == ours

    image = next((here / "images").rglob("*.png"))
    Image.new("RGB", (32, 32)).save(image)
    changed = call(*FOLDER)
    assert changed.exit_code == 2
    assert "flow_grpo has records of other images: remove that folder" in changed.stderr


def test_they_are_a_method_without_a_curve(here):
    assert call(*FOLDER).exit_code == 0
    words = ("--split", "test", "--replicas", 100, "--out", "out")
    result = call("compare", ".", "--baseline", "emoji", *words)
    assert result.exit_code == 0, result.output
    assert "flow_grpo: images made elsewhere, without seeds or checkpoints." in result.output
    summary = from_json((here / "out" / "compare.json").read_bytes())
    method = summary.method("flow_grpo")
    assert (method.made_elsewhere, summary.seeds) == (True, [0])
    (point,) = method.points
    assert (point.update, len(point.by_seed["diversity"])) == (None, 1)
    tuned = summary.method("emoji").points[-1]
    assert point.measures == tuned.measures
    page = (here / "out" / "compare.html").read_text()
    for text in ("made elsewhere</small>", "images made elsewhere: alignment", "not known here"):
        assert text in page
    against = call("compare", "run", "flow_grpo", "--baseline", "flow_grpo", *words)
    assert against.exit_code == 0, against.output
    assert from_json((here / "out" / "compare.json").read_bytes()).settings == {}


def test_images_like_those_of_a_run_are_compared_without_the_run(here):
    before, after = drift.evaluate_images("images", "flow_grpo", like="run", progress=False)
    assert (before["update"], after["update"]) == (0, -1)
    assert after["reward"] == by_variant(here / "run")[Variant(2)].mean("reward")
    assert json.loads(call(*FOLDER, "--json").output)["runs"][0]["new"] == 0
    with pytest.raises(drift.RequestError, match="--feature has no effect on images like those"):
        drift.evaluate_images("images", "flow_grpo", like="run", features=["embedded"])
    shutil.copytree(here / "images", here / "others")
    Image.new("RGB", (32, 32)).save(next((here / "others").rglob("*.png")))
    assert call("eval", "run", "--folder", "others", "--name", "other").exit_code == 0
    words = ("--split", "test", "--replicas", 100, "--out", "out")
    result = call("compare", "flow_grpo", "other", *words)
    assert result.exit_code == 0, result.output
    summary = from_json((here / "out" / "compare.json").read_bytes())
    assert (summary.baseline, summary.seeds) == ("flow_grpo", [])
    base = by_variant(here / "run")[Variant(0)]
    assert summary.base["recall"] == pytest.approx(base.mean("recall"), rel=1e-5)
    assert "No runs, so no seeds" in result.output
    page = (here / "out" / "compare.html").read_text()
    assert "0 seeds" not in page
    refused = call("compare", "flow_grpo", "other", "--with", "aig")
    assert refused.exit_code == 2
    assert "--with measures checkpoints of runs, and there are only images" in refused.stderr


def add_image(here, name="10.png", size=(32, 32)):
    place = min((here / "images").iterdir())
    Image.new("RGB", size).save(place / name)
    return place


def unequal(here):
    add_image(here, "more.png")


def other_number(here):
    for place in (here / "images").iterdir():
        Image.new("RGB", (32, 32)).save(place / "more.png")


def unknown(here):
    (here / "images" / "no such prompt").mkdir()


def lacking(here):
    shutil.rmtree(min((here / "images").iterdir()))


def twice(here):
    place = min((here / "images").iterdir())
    shutil.copytree(place, place.with_name(place.name + "!"))


def damaged(here):
    place = add_image(here)
    (place / "10.png").write_bytes(b"\x89PNG\r\n")


def large(here):
    add_image(here, size=(64, 32))


def loose(here):
    Image.new("RGB", (32, 32)).save(here / "images" / "loose.jpg")


def nested(here):
    (add_image(here) / "more").mkdir()


def leads_out(here):
    place = add_image(here)
    (place / "10.png").unlink()
    (place / "10.png").symlink_to("/etc/hostname")


def folder_leads_out(here):
    place = min((here / "images").iterdir())
    place.rename(here / "elsewhere")
    place.symlink_to(here / "elsewhere")


def taken(here):
    (here / "flow_grpo").mkdir()
    (here / "flow_grpo" / "mine.txt").write_text("")


def damaged_note(here):
    (here / "flow_grpo").mkdir()
    (here / "flow_grpo" / NOTE).write_text('{"name": 3}')


def not_measured(here):
    shutil.rmtree(here / "run" / "evaluation")


def gone(here):
    shutil.rmtree(here / "images")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (unequal, "every prompt needs equally many"),
        (
            other_number,
            "images has 4 images of each prompt and run was measured with 3: run `drift eval run "
            "--split test --prompts 2 --images 4 --steps 1 --checkpoint base`",
        ),
        (unknown, "'no such prompt' in images is no prompt that the run has"),
        (lacking, "one of the 2 test prompts that run was measured on"),
        (twice, " and another folder of images are both for '"),
        (damaged, "10.png is damaged"),
        (large, "10.png has 64 x 32 pixels and the base model's images have 32 x 32"),
        (loose, "loose.jpg belongs to no prompt: images are in DIR/PROMPT"),
        (nested, "more is a folder in that of a prompt"),
        (leads_out, "10.png leads out of "),
        (folder_leads_out, " leads out of "),
        (taken, "flow_grpo is taken by something else: choose another --name"),
        (damaged_note, f"{NOTE} cannot be read: "),
        (not_measured, "run was not measured: run `drift eval run` first"),
        (gone, "images is not there: --folder takes DIR/PROMPT/*.png or a .jsonl"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_images_are_one_line_and_leave_nothing(here, harm, expected):
    harm(here)
    before = {path: path.stat().st_size for path in here.rglob("*") if path.is_file()}
    result = call(*FOLDER)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, expected in line) == (2, True), line
    assert {path: path.stat().st_size for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"path": "../run/config.toml", "prompt": TEXT}', "leads out of"),
        ('{"path": "/etc/hostname", "prompt": TEXT}', "leads out of"),
        ('{"path": "a.png", "prompt": "no such prompt"}', "line 1: 'no such prompt' is no prompt"),
        ('{"path": "a.png"}', 'line 1: write {"path": "image.png", "prompt": "its text"}'),
        ("[" * 9999, "line 1: write {"),
        ('{"path": "a.png", "prompt": TEXT}\n{"path": "./a.png", "prompt": TEXT}', "twice"),
    ],
)
def test_bad_lines_are_one_line(here, measured, line, expected):
    (here / "list").mkdir()
    text = line.replace("TEXT", json.dumps(next(iter(measured[1]))))
    (here / "list" / "list.jsonl").write_text(text)
    result = call("eval", "run", "--folder", "list/list.jsonl", "--name", "listed")
    (shown,) = result.stderr.splitlines()
    assert (result.exit_code, expected in shown) == (2, True), shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("eval", "run", "--folder", "images"), "--folder and --name go together"),
        (("eval", "run", "--name", "a"), "--folder and --name go together"),
        (("eval", "run", "run2", *FOLDER[2:]), "--folder takes one RUN"),
        ((*FOLDER, "--images", "3"), "--images has no effect with --folder: RUN's measurements"),
        ((*FOLDER, "--real", "images"), "--real: run was measured without real images"),
        ((*FOLDER, "--split", "train"), "run was not measured on train prompts"),
        ((*FOLDER[:-1], "a/b"), "'a/b' is no plain name"),
        ((*FOLDER[:-1], ""), "name: a name is needed"),
        ((*FOLDER[:-1], "run"), "run is taken by something else"),
        ((*FOLDER, "--attainable"), "--folder has no effect with --attainable"),
    ],
)
def test_wrong_requests_are_one_line(here, words, expected):
    result = call(*words)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, expected in line) == (2, True), line


def test_names_that_stand_for_two_prompts_are_refused(tmp_path):
    (tmp_path / "a_cat").mkdir()
    known = {"a cat!", "a cat?", "a dog"}
    with pytest.raises(collection.ImagesError, match=r"may be for 'a cat[?!]' or 'a cat[?!]'"):
        collection.read(tmp_path, known)
    (tmp_path / "a_cat").rename(tmp_path / "a cat?")
    Image.new("RGB", (4, 4)).save(tmp_path / "a cat?" / "0.png")
    assert collection.read(tmp_path, known).by_prompt.keys() == {"a cat?"}
