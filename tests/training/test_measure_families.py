"""Runs of the real families are measured and compared like those of the emoji model."""

import runpy
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from common import backends, pictures
from common.algorithm import diversity, fidelity
from common.cli import drift as command
from common.comparison import methods
from common.comparison.summarise import summarise
from common.comparison.summary import from_json, to_json
from common.evaluation import measure, model_files, records
from common.evaluation.records import GENERAL, IN_FEATURES, Variant
from common.progress import NullObserver
from common.report import comparison, front
from common.rewards import Features
from common.runs import checkpoint as checkpoints
from common.runs.directory import RunDirectory
from common.trainer import Trainer
from tests.shapes import FAMILIES, settings_of

BROWSER = runpy.run_path(str(Path(__file__).parents[1] / "cli" / "test_report_browser.py"))
tab = BROWSER["tab"]

SMALL = (
    "run.updates=1",
    "rollout.prompts=1",
    "rollout.group_size=2",
    "rollout.steps=3",
    "rollout.window=0",
    "rollout.batch_size=4",
    "objective.micro_batch=2",
    "objective.zero_advantage=keep",  # JPEG sizes of two tiny images may be equal
    "adapter.rank=2",
    "evaluate.images=2",
    "evaluate.steps=1",
    "evaluate.prompts=1",
    "reward.terms={jpeg_compressibility = 1.0}",
    "prompts.names=[]",
)
HOW = ("--split", "train", "--images", "3", "--steps", "2")
SHAPED = (
    "drift.shaping.mode=terminal",
    "drift.shaping.weight=0.5",
    "drift.shaping.features=embedded_heldout",
)


@pytest.fixture(scope="module")
def config(checkpoint, tmp_path_factory):
    """(shape, *changes) -> the configuration of a small run with a tiny checkpoint."""
    prompts = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    prompts.write_text('a red fox that says "FOX"\nan owl that says "OWL"\n')

    def load(shape, *changes):
        return settings_of(checkpoint, shape, *SMALL, f"prompts.source={prompts}", *changes)

    return load


def measured(run, backend, cache, *variants, **more):
    how = measure.protocol(run, "train", prompts=0, images=3, steps=2, seed=0, **more)
    made = []
    measure.evaluate(
        run,
        backend,
        [how],
        variants,
        cache=cache,
        keep=False,
        on_record=lambda record, is_new: made.append(record),
    )
    return made


def save_tuned(run, backend):
    """A checkpoint after update 1 whose adapter has moved, without training."""
    policy = backend.policy(run.config.model, run.config.adapter, seed=0)
    moved = {name: backend.to_numpy(value) + 0.2 for name, value in policy.parameters().items()}
    snapshot = checkpoints.Snapshot(1, moved, None, {}, {})
    checkpoints.save(run.checkpoints, snapshot, adapter=run.config.adapter, keep=0)


@pytest.mark.parametrize("shape", FAMILIES)
def test_every_family_is_measured_on_both_backends(config, tmp_path, shape):
    protocols = []
    for name in ("cpu", "mlx"):
        backend = backends.load(name)
        run = RunDirectory.create(tmp_path / name, config(shape), {})
        save_tuned(run, backend)
        variants = (
            Variant(0),
            Variant(1),
            Variant(1, scale=0.0),
            Variant(1, prompt_noise=0.5),
            Variant(1, aig=1.0),
        )
        made = measured(run, backend, tmp_path / f"cache-{name}", *variants)
        record, tuned, same, noisy, guided = made
        protocols.append(record.protocol)
        assert {*map(frozenset, (each.by_prompt for each in made))} == {frozenset(GENERAL)}
        assert records.load(run) == made
        assert same.by_prompt == record.by_prompt
        assert len({each.by_prompt["reward"] for each in (record, tuned, noisy, guided)}) == 4

        # The images are in the cache, and say the same when somebody else measures them.
        folders = {path.parent for path in (tmp_path / f"cache-{name}").rglob("*.png")}
        assert len(folders) == 2
        strips = [
            np.stack(
                [pictures.load(path).reshape(3, 32, 32, 3) for path in sorted(folder.iterdir())]
            )
            for folder in folders
        ]
        seen = Features("embedded_heldout", backend, {})
        features = [
            seen(images.reshape(6, 32, 32, 3)).astype(np.float64).reshape(2, 3, -1)
            for images in strips
        ]
        expected = [
            diversity.mean_pairwise(diversity.cosine_distances(each)).tolist() for each in features
        ]
        assert list(record.by_prompt["diversity"]) in expected
        distance = fidelity.frechet_distance(*(each.reshape(6, -1) for each in features))
        assert record.frechet == pytest.approx(distance, rel=1e-9)
        shown = pictures.load(run.path / "evaluation" / str(record.grid))
        assert shown.shape == (2 * 64 + 2, 3 * 64 + 2 * 2, 3)
    assert protocols[0] == protocols[1]
    assert protocols[0].features == "embedded_heldout"
    assert protocols[0].sampler.startswith("guidance 1.0, schedule ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu", "mlx"])
@pytest.mark.parametrize("shape", FAMILIES)
def test_weights_that_packages_carry_measure_every_family(config, tmp_path, shape, name):
    """EfficientNet and OCR; the two runs of SD 3 below have them in the quick set."""
    backend, carried = backends.load(name), {"features": ("efficientnet",), "scorers": ("ocr",)}
    run = RunDirectory.create(tmp_path / "run", config(shape), {})
    (record,) = measured(run, backend, tmp_path / "cache", Variant(0), **carried)
    assert {*record.by_prompt} == {*GENERAL, "heldout/ocr"}
    assert record.protocol.features == "efficientnet"
    assert all(0 <= score <= 1 for score in record.by_prompt["heldout/ocr"])
    extract, expected = Features("efficientnet", backend, {}), []
    for folder in {path.parent for path in (tmp_path / "cache").rglob("*.png")}:
        strips = [pictures.load(path) for path in sorted(folder.iterdir())]
        features = extract(np.stack(strips).reshape(6, 32, 32, 3)).reshape(2, 3, -1)
        expected.append(diversity.mean_pairwise(diversity.cosine_distances(features)).tolist())
    assert len(expected) == 2  # the measured images, and those that they are compared with
    assert any(list(record.by_prompt["diversity"]) == pytest.approx(e, rel=1e-5) for e in expected)


# --- two runs of SD 3, from training to the page --------------------------------------------------


@pytest.fixture(scope="module")
def runs(config, tmp_path_factory):
    """A plain run of SD 3 and one whose reward is shaped, both measured. Read only."""
    folder, backend = tmp_path_factory.mktemp("runs"), backends.load("cpu")
    for name, changes in {"flow_grpo": (), "drift": SHAPED}.items():
        settings = config("sd3", *changes)
        named = settings.run.model_copy(update={"recipe": name})
        settings = settings.model_copy(update={"run": named})
        run = RunDirectory.create(folder / name, settings, {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # shaped and measured with the same features
            stop = threading.Event()
            trainer = Trainer(settings, backend, run, observer=NullObserver(), stop=stop)
        assert trainer.run()
    features = ("--feature", "embedded_heldout", "--feature", "efficientnet")
    words = (*HOW, "--scorer", "jpeg_incompressibility", "--scorer", "ocr", *features)
    result = drift("eval", folder / "flow_grpo", folder / "drift", *words)
    assert result.exit_code == 0, result.output
    return folder, result.output


def drift(*words):
    return CliRunner().invoke(command, [str(word) for word in words])


def test_the_table_has_the_measures_of_the_model(runs):
    output = runs[1]
    (head, *_) = [line.split() for line in output.splitlines() if line.startswith("update ")]
    assert head[:6] == ["update", "reward", "jpeg", "incompressibility", "ocr", "diversity"]
    assert "held-out" not in head
    assert "modes" not in head
    notes = [line for line in output.splitlines() if line.startswith("diversity, recall, coverage")]
    assert [note.count("which shape the reward that was trained on") for note in notes] == [0, 1]
    assert "measured update 1 on train prompts: reward " in output


def test_each_of_the_features_has_a_table_and_those_that_shape_are_marked(runs):
    folder, output = runs
    lines = output.splitlines()
    places = [n for n, line in enumerate(lines) if line == "in the features efficientnet:"]
    assert len(places) == 2
    head = lines[places[0] + 2].split()
    assert head == ["update", "diversity", "of", "base", "Vendi", "Frechet", "recall", "coverage"]
    shaped = next(line for line in lines if "which shape the reward" in line)
    assert "embedded_heldout, which shape the reward that was trained on, efficientnet;" in shaped
    assert "no other features" not in shaped
    (first, *_) = records.load(RunDirectory.open(folder / "drift"))
    assert first.protocol.more_features == ("efficientnet",)
    assert first.overall.keys() == {"frechet/efficientnet"}
    assert first.mean("diversity/efficientnet") != first.mean("diversity")
    shown = f"{first.overall['frechet/efficientnet']:.3f}"
    assert shown in lines[places[0] + 3].split() + lines[places[1] + 3].split()


def test_they_are_compared_on_a_page(runs, tmp_path):
    folder, _ = runs
    words = ("--split", "train", "--replicas", 100, "--out", tmp_path / "out")
    result = drift("compare", folder, *words)
    assert result.exit_code == 0, result.output
    summary = from_json((tmp_path / "out" / "compare.json").read_bytes())
    assert (summary.alignment, summary.diversity) == ("reward", "diversity")
    assert summary.baseline == "flow_grpo"
    assert summary.shaped == ["drift"]
    assert summary.shaping == {"drift": ["embedded_heldout"]}
    more = {f"{name}/efficientnet" for name in (*IN_FEATURES, "frechet")}
    heldout = {"heldout/jpeg_incompressibility", "heldout/ocr"}
    assert summary.base.keys() == {*GENERAL, "frechet", *heldout, *more}
    assert summary.protocol.features == "embedded_heldout"
    page = (tmp_path / "out" / "compare.html").read_text()
    for text in (
        "reward against diversity",
        "features embedded_heldout (shapes the reward of drift), efficientnet<",
        "Fréchet distance in efficientnet at 75%",
        "--diversity efficientnet.",
        "a red fox",
        "drift: the",
    ):
        assert text in page
    assert "drift: the reward is shaped with the features" in " ".join(result.output.split())


def test_a_held_out_scorer_is_an_axis_of_its_own(runs, tmp_path):
    words = ("--split", "train", "--replicas", 100, "--axis", "jpeg_incompressibility")
    result = drift("compare", runs[0], *words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    summary = from_json((tmp_path / "out" / "compare.json").read_bytes())
    assert summary.alignment == "heldout/jpeg_incompressibility"
    assert summary.origin[0] == pytest.approx(-summary.base["reward"], rel=1e-5)
    assert summary.protocol.scorers == ["jpeg_incompressibility", "ocr"]
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "jpeg_incompressibility, held out against diversity" in page


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_real_families_fits_a_browser(tab, runs, tmp_path_factory, width):
    out = tmp_path_factory.getbasetemp() / "families-page"
    if not out.exists():
        words = ("--split", "train", "--replicas", 100, "--diversity", "efficientnet")
        assert drift("compare", runs[0], *words, "--out", out).exit_code == 0
    tab.show(out / "compare.html", width=width)
    assert [event for event in tab.events if event.get("method") in BROWSER["COMPLAINTS"]] == []
    assert tab.value("document.documentElement.scrollWidth") <= width
    shown = tab.value("document.body.innerText")
    assert "embedded_heldout (shapes the reward of drift), efficientnet" in shown
    assert "diversity in efficientnet" in shown
    sizes = tab.value("[...document.images].map(i => i.naturalWidth)")
    assert len(sizes) == 3 * 2  # the base model and both methods, two prompts each
    assert min(sizes) > 0


@pytest.mark.parametrize(
    ("name", "axis", "shaped"),
    [
        ("efficientnet", "diversity/efficientnet", []),
        ("vendi/efficientnet", "vendi/efficientnet", []),
        ("embedded_heldout", "diversity", ["drift"]),
        ("pixel_distance", "pixel_distance", []),
    ],
)
def test_diversity_in_any_of_the_features_is_an_axis(runs, name, axis, shaped):
    study = methods.gather([runs[0]], "train")
    summary = summarise(study, "flow_grpo", diversity=name, replicas=100)
    assert (summary.diversity, summary.shaped) == (axis, shaped)
    assert summary.origin[1] == summary.base[axis]
    assert from_json(to_json(summary)) == summary
    assert f" against {front.measure_name(axis)}" in comparison.render(summary, [])


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [
        (
            "jpeg_compressibility",
            "'jpeg_compressibility' is maximised by the run, so it is not held",
        ),
        ("jpeg_incompressibilit", "no reward 'jpeg_incompressibilit'"),
    ],
)
def test_a_scorer_that_cannot_be_held_out_is_one_line(runs, scorer, expected):
    result = drift("eval", runs[0] / "drift", *HOW, "--scorer", scorer)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert expected in line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("--axis", "alignment_heldout"),
            "not measured with alignment_heldout; there are rew",
        ),
        (
            ("--diversity", "modes"),
            "the runs were not measured with modes; there are diversity, ve",
        ),
        (("--diversity", "clip"), "pixel_distance, embedded_heldout, diversity/efficientnet"),
    ],
)
def test_an_axis_that_was_not_measured_is_one_line(runs, tmp_path, words, expected):
    result = drift("compare", runs[0], "--split", "train", *words, "--out", tmp_path)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert expected in line


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"features": "embedded_heldout"', '"features": "clip"', "features = embedded_heldout and"),
        ('"sampler": "guidance 1.0', '"sampler": "guidance 4.5', "with sampler = guidance 1.0"),
        ('"model": "', '"model": "f', "they have other base models ("),
        ('"scorers": ["', '"scorers": ["imagenet", "', "the measure 'heldout/imagenet' is missing"),
        ('"features": "embedded_heldout", ', "", "the measure 'alignment_heldout' is missing"),
        (
            '["efficientnet"]',
            '["efficientnet (size = 9)"]',
            "further features efficientnet and efficientnet (size = 9)",
        ),
        ('["efficientnet"]', '["efficientnet", "clip"]', "' is missing; evaluate again"),
        ('"overall": {', '"whole": {', "the measure 'frechet/efficientnet' is missing"),
    ],
)
def test_other_measurements_are_never_compared(runs, tmp_path, old, new, expected):
    for name in ("drift", "flow_grpo"):
        shutil.copytree(runs[0] / name, tmp_path / name)
    file = tmp_path / "flow_grpo" / records.FILE
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    result = drift("compare", tmp_path, "--split", "train")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert expected in line


# --- the digest of a model ------------------------------------------------------------------------


def test_every_byte_of_the_weights_counts_and_other_files_do_not(config, tmp_path):
    model = config("sd3").model
    copy = shutil.copytree(model.path, tmp_path / "model")
    copied = model.model_copy(update={"path": str(copy)})
    digest = model_files.digest(model)
    assert model_files.digest(copied) == digest
    (copy / "whole.safetensors").write_bytes(b"the same model once more")
    (copy / "safety_checker").mkdir()
    (copy / "safety_checker" / "model.safetensors").write_bytes(b"draws nothing")
    assert model_files.digest(copied) == digest
    (weights,) = (copy / "transformer").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_files.digest(copied) != digest
    missing = model.model_copy(update={"path": str(tmp_path / "gone")})
    with pytest.raises(ValueError, match=r"^[^\n]*gone[^\n]*$"):
        model_files.digest(missing)
