"""`drift eval --attainable`: what is stored, what is made again, and what is extended."""

import fcntl
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from common import backends, pictures
from common.evaluation import (
    attainable,
    attainable_fronts,
    attainable_records,
    base_images,
    measure,
)
from common.evaluation.attainable import REWARD, Progress
from common.evaluation.cache import Cache
from common.evaluation.records import RecordError
from common.rewards import REWARDS, RewardError, RewardNameError, RewardSuite
from common.runs.directory import RunDirectory
from common.sampling.ode import sample_images
from common.sampling.process import make_process
from tests.shapes import FAMILIES, settings_of

SCORER = "jpeg_incompressibility"


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(attainable_fronts, "REPLICAS", 4)
    monkeypatch.setattr(attainable_fronts, "POINTS", 4)


@pytest.fixture(scope="module")
def cpu():
    return backends.load("cpu")


@pytest.fixture
def run(tiny, tmp_path):
    """Makes runs of the emoji model that have no checkpoint."""
    return lambda name="run", *changes: RunDirectory.create(tmp_path / name, tiny(*changes), {})


@pytest.fixture
def drawn(monkeypatch):
    """(prompts, number of the first image) of each time that images were drawn."""
    calls = []

    def count(*arguments, **options):
        calls.append((len(arguments[3]), options["first"]))
        return sample_images(*arguments, **options)

    monkeypatch.setattr(base_images, "sample_images", count)
    return calls


@pytest.fixture
def scored(monkeypatch):
    """The number of images in each call of a reward."""
    calls, score = [], RewardSuite.score
    monkeypatch.setattr(
        RewardSuite, "score", lambda self, *a, **b: calls.append(len(a[0])) or score(self, *a, **b)
    )
    return calls


def protocol(run, samples=16, split="train", **changes):
    numbers = {"prompts": 1, "steps": 1, "seed": 0} | changes
    return measure.protocol(run, split, images=samples, **numbers)


def attain(run, backend, *protocols, ratio=4.0, siblings=(), seen=None):
    seen = [] if seen is None else seen
    progress = Progress(
        sampled=lambda *how: seen.append(how),
        solved=lambda how, axis, done, total: seen.append((axis, done, total)),
        finished=lambda how, front: seen.append(front.rewards),
    )
    cache = run.path.parent / "cache"
    how = protocols or (protocol(run),)
    return attainable.attain(
        run, backend, how, ratio=ratio, cache=cache, progress=progress, siblings=siblings
    )


def content(run):
    return (run.path / attainable_records.FILE).read_bytes()


def fronts(run):
    return [front for entry in attainable_records.load(run).entries for front in entry.fronts]


def test_the_same_again_makes_nothing(run, cpu, drawn, scored):
    run, seen = run(), []
    how = protocol(run, prompts=2)
    assert attain(run, cpu, how, seen=seen) == 3
    before = content(run)
    assert attain(run, cpu, how) == 0
    assert content(run) == before
    # Eight images in a forward pass, so that prompts are drawn one by one.
    assert (drawn, scored) == ([(1, 0), (1, 0)], [16, 16])
    images = [how for how in seen if how[0] == "base model, train"]
    assert [how[1:] for how in images][:3] == [(0, 32), (0, 32), (8, 32)]
    assert images[-1][1:] == (32, 32)
    assert seen[-4:] == [*(("alignment_train", n, 2) for n in (0, 1, 2)), "alignment_train"]
    first, *limits = fronts(run)
    assert [first.rewards, *(each.rewards for each in limits)] == list(first.axes)
    assert list(first.axes) == [REWARD, "alignment_heldout", "alignment_train"]
    assert [list(each.axes) for each in limits] == [["alignment_heldout"], ["alignment_train"]]


def test_the_images_are_those_of_an_evaluation_and_even_weights_measure_them(run, cpu, drawn):
    run = run()
    how = protocol(run, prompts=2)
    policy = cpu.policy(run.config.model, run.config.adapter, seed=0)
    process = make_process(policy, run.config.rollout, how.steps)
    images = sample_images(policy, cpu, process, how.prompts, 16, seed=0, batch_size=8)
    cache = Cache(run.path.parent / "cache")
    parts = list(base_images.BaseImages(run, cpu, cache, None).parts(how))
    assert np.array_equal(np.concatenate([part.images for part in parts]), images)
    attain(run, cpu, how)
    (record, *_) = measured(run, cpu, how)
    base = fronts(run)[0].base
    for name in ("alignment_heldout", "reward", "diversity"):
        assert base[name] == pytest.approx(record.mean(name), rel=1e-5)


def measured(run, backend, how):
    made = []
    measure.evaluate(
        run, backend, [how], [measure.Variant(0)],
        cache=run.path.parent / "cache", on_record=lambda record, is_new: made.append(record),
    )  # fmt: skip
    return made


def test_more_images_extend_what_is_there(run, cpu, drawn, scored):
    run, other = run(), run("other")
    attain(run, cpu)
    attain(run, cpu, protocol(run, samples=32))
    assert drawn == [(1, 0), (1, 16)]
    assert scored == [16] * 2
    assert [front.samples for front in fronts(run)] == [16] * 3 + [32] * 3
    # Another ratio or fewer images need no score.
    assert attain(run, cpu, protocol(run, samples=32), ratio=5.0) == 3
    assert len(scored) == 2
    attain(other, cpu, protocol(other, samples=32))
    assert fronts(other) == fronts(run)[3:6]
    assert len(drawn) == 2  # the sibling has the same base model


def test_another_scorer_or_feature_makes_only_what_is_missing(run, cpu, drawn, scored):
    run = run()
    attain(run, cpu)
    axes = protocol(run, scorers=[SCORER])
    assert attain(run, cpu, axes) == 2  # the reward's front on the new axis, and its limit
    assert scored == [16] * 2
    by_reward = next(front for front in fronts(run) if SCORER in " ".join(front.axes))
    assert list(by_reward.axes)[-1] == f"heldout/{SCORER}"
    features = replace(axes, more_features=("embedded",))
    assert attain(run, cpu, features) == 4
    assert len(scored) == 2
    assert len(drawn) == 1
    diversity = {front.features: front.base["diversity"] for front in fronts(run)}
    assert diversity.keys() == {"", "embedded"}
    assert len(set(diversity.values())) == 2


def test_killed_between_two_fronts_and_repeated_gives_the_same_file(run, cpu, scored):
    whole, broken = run("whole"), run("broken")
    attain(whole, cpu)

    def die(how, front):
        raise KeyboardInterrupt

    progress = Progress(lambda *how: None, lambda *how: None, die)
    cache = broken.path.parent / "cache"
    with pytest.raises(KeyboardInterrupt):
        attainable.attain(
            broken, cpu, [protocol(broken)], ratio=4.0, cache=cache, progress=progress
        )
    assert [front.rewards for front in fronts(broken)] == [REWARD]
    count = len(scored)
    assert attain(broken, cpu) == 2
    assert len(scored) == count
    assert content(broken) == content(whole)


def test_runs_of_one_base_model_and_reward_share_their_fronts(run, cpu, scored):
    one, two = run("one"), run("two", "run.seed=4")
    other = run("other", "reward.terms={jpeg_compressibility = 1.0}")
    attain(one, cpu)
    assert attain(two, cpu, siblings=[one]) == 0
    assert content(two) == content(one)
    assert len(scored) == 1
    assert attain(other, cpu, siblings=[one, two]) == 3


def test_a_reward_without_a_score_is_left_out_or_refused(run, cpu, monkeypatch):
    run = run()
    reported = RewardSuite.reported

    def some(self, scores, holes=slice(0, 2)):
        values = reported(self, scores).copy()
        values[0, holes] = np.nan
        return values

    monkeypatch.setattr(RewardSuite, "reported", some)
    attain(run, cpu)
    assert [front.left_out for front in fronts(run)] == [2, 0, 0]
    monkeypatch.setattr(RewardSuite, "reported", lambda self, s: some(self, s, slice(0, 10)))
    with pytest.raises(RewardError, match=r"only 6 of 16 images of prompt '\w+' have a finite rew"):
        attain(run, cpu, ratio=2.0)


def test_damage_and_another_process_are_one_line(run, cpu):
    run = run()
    attain(run, cpu)
    file = run.path / attainable_records.FILE
    good = json.loads(file.read_text())
    wrong = [
        b"{",
        b"[1]",
        json.dumps(good | {"format": 2}).encode(),
        json.dumps(good).replace('"value": [', '"value": [NaN, ', 1).encode(),
        json.dumps(good).replace('"value": [', '"value": [0.5, ', 1).encode(),
        json.dumps(good | {"entries": [{**good["entries"][0], "more": 1}]}).encode(),
    ]
    (name, rows), *_ = good["entries"][0]["scores"].items()
    images = good["entries"][0]["images"]
    for texts, scores in (
        (images["prompts"], []),
        (images["prompts"], [*rows, rows[0]]),
        (["a", "b"], [rows[0], rows[0][1:]]),
    ):
        entry = {"images": images | {"prompts": texts}, "scores": {name: scores}, "fronts": []}
        wrong.append(json.dumps(good | {"entries": [entry]}).encode())
    for harm in wrong:
        file.write_bytes(harm)
        with pytest.raises(
            RecordError, match=r"^[^\n]*attainable.json: not what `drift eval[^\n]*$"
        ):
            attain(run, cpu)
        assert file.read_bytes() == harm
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(RecordError, match=r"^cannot read [^\n]*attainable.json"):
        attainable_records.load(run)
    file.unlink()
    other = os.open(run.path / "evaluation", os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RecordError, match="another process is measuring"):
            attain(run, cpu)
    finally:
        os.close(other)


def test_what_cannot_be_loaded_shows_before_an_image_is_drawn(run, cpu, drawn, monkeypatch):
    run = run()
    monkeypatch.setattr(REWARDS, "create", fail := REWARDS.create)
    with pytest.raises(RewardNameError):
        attain(run, cpu, replace(protocol(run), scorers=("nothing",)))
    assert fail
    assert drawn == []


@pytest.mark.parametrize("shape", FAMILIES)
def test_every_family_has_fronts_on_both_backends(checkpoint, tmp_path, shape):
    file = tmp_path / "prompts.txt"
    file.write_text("a red fox\n")
    changes = ("reward.terms={jpeg_compressibility = 1.0}", "prompts.names=[]", "adapter.rank=2")
    config = settings_of(checkpoint, shape, *changes, f"prompts.source={file}")
    found = {}
    for name in ("cpu", "mlx"):
        run = RunDirectory.create(tmp_path / name, config, {})
        attain(run, backends.load(name), protocol(run, scorers=[SCORER]))
        first, limit = fronts(run)
        assert list(first.axes) == [REWARD, f"heldout/{SCORER}"]
        assert limit.rewards == f"heldout/{SCORER}"
        assert first.axes[f"heldout/{SCORER}"].level == []  # the opposite of the reward
        assert first.features == "embedded_heldout"
        found[name] = first.base["diversity"]
    assert found["cpu"] == pytest.approx(found["mlx"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu", "mlx"])
def test_a_real_class_at_512_pixels_is_drawn_batch_by_batch(checkpoint, tmp_path, name):
    """SD3.5 with real features; the batches of `rollout.batch_size` bound the memory."""
    file = tmp_path / "prompts.txt"
    file.write_text("a red fox\n")
    changes = (
        "model.resolution=512",
        "rollout.batch_size=2",
        "reward.terms={jpeg_compressibility = 1.0}",
        "evaluate.features=efficientnet",
        "prompts.names=[]",
        f"prompts.source={file}",
    )
    config = settings_of(lambda family, **o: checkpoint(family, large=True, **o), "sd35", *changes)
    run, seen = RunDirectory.create(tmp_path / "run", config, {}), []
    attain(run, backends.load(name), protocol(run), seen=seen)
    done = sorted({how[1] for how in seen if how[0] == "base model, train"})
    assert done == list(range(0, 17, 2))
    (kept,) = (tmp_path / "cache").rglob("*.png")
    assert pictures.load(kept).reshape(-1, 512, 512, 3).shape[0] == 16
    (front,) = fronts(run)
    assert (front.samples, front.features) == (16, "efficientnet")
    assert 0 < front.base["diversity"] < 1
