"""Measuring a run: resumable to the byte, the base shared by siblings, scale 0 the base itself."""

import fcntl
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from common import backends, config as configuration, random
from common.embedded.model import denoiser_weights
from common.evaluation import cads, image_sampler, measure, records
from common.evaluation.records import MEASURES, RecordError, Variant
from common.prompts import PromptError, load as load_prompts, split
from common.runs import checkpoint
from common.runs.directory import RunDirectory
from common.sampling.ode import sample_batches, sample_images
from common.sampling.process import FlowProcess

VARIANTS = [Variant(0), Variant(1), Variant(2), Variant(2, scale=0.5)]


@pytest.fixture(scope="module")
def cpu():
    return backends.load("cpu")


@pytest.fixture(scope="module")
def trained(train, tiny, cpu):
    """A run of two updates with a checkpoint after each. Read only."""
    return train(tiny(), cpu)[0]


@pytest.fixture
def copy(trained, tmp_path):
    """Makes copies of the run, each with a name of its own."""

    def make(name="run"):
        return RunDirectory.open(shutil.copytree(trained.path, tmp_path / name))

    return make


@pytest.fixture
def sampled(monkeypatch):
    """(seed, how many prompts) of each time that images were drawn."""
    calls = []

    def count(*arguments, **options):
        calls.append((options["seed"], len(arguments[3])))
        return sample_batches(*arguments, **options)

    monkeypatch.setattr(image_sampler, "sample_batches", count)
    return calls


def protocols(run, *splits, **changes):
    numbers = {"prompts": 2, "images": 3, "steps": 2, "seed": 5} | changes
    return [measure.protocol(run, name, **numbers) for name in splits or ("train", "test")]


def evaluate(run, backend, cache, *, variants=VARIANTS, how=None, received=None):
    received = [] if received is None else received
    measure.evaluate(
        run,
        backend,
        how or protocols(run),
        variants,
        cache=cache,
        on_record=lambda record, is_new: received.append((record, is_new)),
    )
    return received


def contents(run):
    return {path.name: path.read_bytes() for path in (run.path / "evaluation").iterdir()}


# --- resuming and sharing ------------------------------------------------------------------------


def test_the_same_request_twice_measures_nothing_the_second_time(copy, cpu, tmp_path, sampled):
    run = copy()
    first = evaluate(run, cpu, tmp_path / "cache")
    before, count = contents(run), len(sampled)
    second = evaluate(run, cpu, tmp_path / "cache")
    assert contents(run) == before
    assert len(sampled) == count
    assert [is_new for _, is_new in first] == [True] * 8
    assert second == [(record, False) for record, _ in first]
    assert records.load(run) == [record for record, _ in first]
    assert [r.variant for r in records.load(run)] == [v for v in VARIANTS for _ in range(2)]
    assert {r.grid for r in records.load(run)} == before.keys() - {"records.jsonl"}


def test_the_images_of_each_record_are_counted(copy, cpu, tmp_path):
    run, seen = copy(), []
    measure.evaluate(
        run,
        cpu,
        protocols(run, "test", images=5),
        [Variant(0), Variant(1)],
        cache=tmp_path / "cache",
        on_record=lambda record, is_new: seen.append(is_new),
        on_images=lambda *how: seen.append(how),
    )
    assert seen == [
        ("to compare with, test", 0, 10),
        ("to compare with, test", 8, 10),
        ("to compare with, test", 10, 10),
        ("base model, test", 0, 10),
        ("base model, test", 8, 10),
        ("base model, test", 10, 10),
        True,
        ("update 1, test", 0, 10),
        ("update 1, test", 8, 10),
        ("update 1, test", 10, 10),
        True,
    ]


@pytest.fixture(scope="module")
def unbroken(trained, cpu, tmp_path_factory):
    """Files of a run that was measured in one go, and the cache of that."""
    folder = tmp_path_factory.mktemp("unbroken")
    run = RunDirectory.open(shutil.copytree(trained.path, folder / "run"))
    evaluate(run, cpu, folder / "cache", variants=VARIANTS[:2])
    return contents(run), folder / "cache"


@pytest.mark.parametrize("left", ["whole lines", "torn line", "picture without its line"])
def test_killed_in_the_middle_and_repeated_gives_the_same_files(
    copy, cpu, tmp_path, unbroken, left
):
    whole, cache = unbroken
    if left == "whole lines":
        cache = tmp_path / "cache"  # one of its own gives the same bytes
    run, received = copy(), []

    def die(record, is_new):
        received.append(record)
        if len(received) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure.evaluate(run, cpu, protocols(run), VARIANTS[:2], cache=cache, on_record=die)
    assert len(records.load(run)) == 2
    lines = run.path / records.FILE
    if left == "torn line":
        lines.write_bytes(lines.read_bytes() + b'{"by_prompt": {"coverage": [0.')
    if left == "picture without its line":
        lines.write_bytes(lines.read_bytes().split(b"\n")[0] + b"\n")
    evaluate(run, cpu, cache, variants=VARIANTS[:2])
    assert contents(run) == whole


def test_siblings_share_the_images_and_features_of_their_base(copy, cpu, tmp_path, sampled):
    one, two = copy("one"), copy("two")
    base = [Variant(0), Variant(0, prompt_noise=0.5), Variant(2, scale=0.0)]
    first = evaluate(one, cpu, tmp_path / "cache", variants=base, how=protocols(one, "test"))
    # The images that they are compared with, the images, and those with noise.
    assert sampled == [(6, 2), (5, 2), (5, 2)]
    second = evaluate(two, cpu, tmp_path / "cache", variants=base, how=protocols(two, "test"))
    assert len(sampled) == 3
    assert first == second
    # What decides the images decides what is shared.
    for changes in ({"seed": 8}, {"images": 4}, {"steps": 3}):
        how = protocols(two, "test", **changes)
        (record, _), *_ = evaluate(two, cpu, tmp_path / "cache", variants=base[:1], how=how)
        assert record.by_prompt["pixel_distance"] != first[0][0].by_prompt["pixel_distance"]
    assert len(sampled) == 9


def test_a_damaged_cache_is_made_again(copy, cpu, tmp_path, sampled):
    one, two = copy("one"), copy("two")
    how = protocols(one, "test")
    first = evaluate(one, cpu, tmp_path / "cache", variants=[Variant(0)], how=how)
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-9] + b"different")
    with pytest.warns(UserWarning, match="is damaged; its images are made again"):
        assert evaluate(two, cpu, tmp_path / "cache", variants=[Variant(0)], how=how) == first
    assert len(sampled) == 4


def test_a_record_of_other_weights_is_never_taken_for_these(copy, cpu, tmp_path):
    run = copy()
    evaluate(run, cpu, tmp_path / "cache", variants=[Variant(1)])
    snapshot = checkpoint.load(run.checkpoints / "000002")
    checkpoint.save(
        run.checkpoints, replace(snapshot, update=1), adapter=run.config.adapter, keep=0
    )
    with pytest.raises(RecordError, match="update 1 was measured with other weights"):
        evaluate(run, cpu, tmp_path / "cache", variants=[Variant(1)])


def test_two_processes_do_not_measure_one_run(copy, cpu, tmp_path):
    run = copy()
    (run.path / "evaluation").mkdir()
    other = os.open(run.path / "evaluation", os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_SH)  # even beside a reader it must be alone
        with pytest.raises(RecordError, match=f"another process is measuring {run.path}"):
            evaluate(run, cpu, tmp_path / "cache")
        with run.locked():  # but one may train in it
            fcntl.flock(other, fcntl.LOCK_UN)
            evaluate(run, cpu, tmp_path / "cache", variants=[Variant(1)])
    finally:
        os.close(other)
    assert len(records.load(run)) == 2


def test_only_complete_checkpoints_are_there(copy):
    run = copy()
    assert checkpoint.updates(run.checkpoints) == [1, 2]
    (run.checkpoints / "000003").mkdir()
    (run.checkpoints / ".000004.tmp-01234567").mkdir()
    (run.checkpoints / ".000004.tmp-01234567" / checkpoint.MANIFEST).write_text("{}")
    assert checkpoint.updates(run.checkpoints) == [1, 2]
    shutil.rmtree(run.checkpoints)
    assert checkpoint.updates(run.checkpoints) == []


# --- what is measured ----------------------------------------------------------------------------


def test_held_out_prompts_are_of_their_split_and_were_never_trained_on(train, tiny, cpu, tmp_path):
    everything = load_prompts(configuration.load("emoji", ["prompts.names=[]"]).prompts)
    of_test = [p.text for p in everything if split(p.text) == "test"]
    names = ["rose", *of_test[:5]]
    run = RunDirectory.create(tmp_path / "run", tiny(f"prompts.names={names}"), {})
    for name in ("validation", "test"):
        how = protocols(run, name, prompts=0)[0]
        assert not set(how.prompts) & set(names)
        assert {split(text) for text in how.prompts} == {name}
        few = protocols(run, name, prompts=7)[0].prompts
        assert few == protocols(run, name, prompts=9)[0].prompts[:7]
    assert set(how.prompts) == set(of_test[5:])
    assert set(protocols(run, "train", prompts=0)[0].prompts) == set(names)


def test_a_run_on_every_prompt_has_none_held_out(tiny, tmp_path):
    file = tmp_path / "two.txt"
    file.write_text("rose\nowl\n")
    config = tiny("prompts.names=[]", f"prompts.source={file}")
    run = RunDirectory.create(tmp_path / "run", config, {})
    with pytest.raises(PromptError, match="the run trains on every prompt"):
        protocols(run, "test")


def test_it_measures_what_training_measured(copy, cpu, tmp_path):
    """With the run's own seed, prompts and steps: the numbers of its last evaluation."""
    run = copy()
    own = run.evaluations()[-1]
    settings = run.config.evaluate
    how = protocols(run, "train", images=settings.images, steps=settings.steps, seed=0)
    (record, _), *_ = evaluate(run, cpu, tmp_path / "cache", variants=[Variant(2)], how=how)
    order = [own["prompts"].index(text) for text in record.protocol.prompts]
    for name, key in {
        "reward": "reward_by_prompt",
        "alignment_heldout": "alignment_heldout_by_prompt",
        "diversity": "diversity_by_prompt",
    }.items():
        np.testing.assert_allclose(record.by_prompt[name], np.array(own[key])[order], rtol=1e-6)
    for name in ("high_frequency", "alignment_train"):
        assert record.mean(name) == pytest.approx(own[name], rel=1e-6)


def test_the_base_is_compared_with_other_images_of_its_own(copy, cpu, tmp_path):
    run = copy()
    how = protocols(run, "test", prompts=4, images=8, steps=2)
    (record, _), *_ = evaluate(run, cpu, tmp_path / "cache", variants=[Variant(0)], how=how)
    assert 0.4 < record.mean("recall") <= 1
    assert 0.4 < record.mean("coverage") < 1
    assert 0 <= min(record.by_prompt["modes"]) < max(record.by_prompt["modes"]) <= 7
    assert 1 < record.mean("vendi") < 8
    assert 0 < record.mean("pixel_distance") < 1
    assert 0 < record.frechet < 2
    assert record.by_prompt.keys() == MEASURES.keys()


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_scale_0_is_the_base_model_and_half_is_between(train, tiny, cpu, tmp_path, kind):
    rate = "optimizer.learning_rate=0.003"
    run = train(tiny(f"adapter.kind={kind}", rate, "run.updates=1"), cpu)[0]
    measurer = measure.Measurer(run, cpu, measure.Cache(tmp_path))
    (how,) = protocols(run, "train")

    def sampled(variant, parameters):
        return np.concatenate(list(measurer._sample(how, variant, parameters)))

    def images(variant):
        weights, parameters = measurer.weights(variant)
        return weights, sampled(variant, parameters)

    base = images(Variant(0))
    nothing = measurer.weights(Variant(1, scale=0.0))
    assert nothing[0] == base[0] == how.model == measure.digest(denoiser_weights())
    snapshot = checkpoint.load(run.checkpoints / "000001")
    zero = measure.low_rank.scaled(snapshot.parameters, measurer._base, run.config.adapter, 0.0)
    assert np.array_equal(sampled(Variant(1), zero), base[1])
    half, whole = images(Variant(1, scale=0.5)), images(Variant(1))
    assert len({base[0], half[0], whole[0]}) == 3

    def distance(a, b):
        return np.abs(a[1].astype(int) - b[1]).mean()

    assert 0 < distance(half, base) < distance(whole, base)
    assert distance(half, whole) < distance(whole, base)


# --- noise on the prompt at inference ------------------------------------------------------------


def test_strength_0_is_plain_and_more_is_another_image(cpu, trained):
    config = trained.config
    policy = cpu.policy(config.model, config.adapter, seed=0)
    process = FlowProcess.from_config(config.rollout, 4)

    def draw(strength, batch_size=4):
        perturb = cads.perturbation(cpu, process, strength) if strength is not None else None
        return sample_images(
            policy, cpu, process, ["rose", "owl"], 2, seed=3, batch_size=batch_size, perturb=perturb
        )

    plain = draw(None)
    assert cads.perturbation(cpu, process, 0.0) is None
    assert np.array_equal(draw(0.0), plain)
    noisy = draw(1.0)
    assert np.array_equal(draw(1.0), noisy)
    assert np.abs(noisy.astype(int) - plain).mean() > 1
    # A sample's noise is its own: who else is in the batch does not matter.
    assert np.abs(draw(1.0, batch_size=3).astype(int) - noisy).max() <= 1


def test_noise_fades_with_the_schedule_and_is_new_for_each_sample_and_step(cpu, trained):
    process = FlowProcess.from_config(trained.config.rollout, 10)
    perturb = cads.perturbation(cpu, process, 0.25)
    policy = cpu.policy(trained.config.model, trained.config.adapter, seed=0)
    clean = policy.encode(["rose", "rose"])
    key = random.Key(0, random.Purpose.EVALUATION, prompt=7)
    keys = [key, key.at(sample=1)]
    steps = [perturb(clean, keys, step).tokens.numpy() for step in range(10)]
    before = clean.tokens.numpy()
    # tau = 1, .9, ...: all noise down to .9, none from .6 on, a part of it between.
    for step, given in enumerate(steps):
        assert np.array_equal(given, before) == (step >= 4)
    assert not np.allclose(steps[0][0], steps[0][1], atol=1e-3)
    assert not np.allclose(steps[0], steps[1], atol=1e-3)
    away = [np.abs(given - before).mean() for given in steps[:5]]
    assert away[1] > away[2] > away[3] > away[4] == 0
    # Rescaled to what it was: mean and standard deviation of the whole embedding.
    np.testing.assert_allclose(steps[2].mean((1, 2)), before.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(steps[2].std((1, 2)), before.std((1, 2)), rtol=1e-4)


# --- both backends -------------------------------------------------------------------------------


def test_both_backends_measure_the_same(copy, cpu, tmp_path):
    variants = [Variant(0), Variant(2), Variant(2, prompt_noise=0.3), Variant(2, aig=1.0)]
    by_backend = {}
    for name, backend in {"cpu": cpu, "mlx": backends.load("mlx")}.items():
        run = copy(name)
        how = protocols(run, "test")
        by_backend[name] = evaluate(run, backend, tmp_path / "cache", variants=variants, how=how)
    for (ours, _), (theirs, is_new) in zip(by_backend["cpu"], by_backend["mlx"], strict=True):
        assert is_new
        assert (ours.variant, ours.protocol, ours.weights) == (
            (theirs.variant, theirs.protocol, theirs.weights)
        )
        assert ours.frechet == pytest.approx(theirs.frechet, rel=1e-3)
        for name in MEASURES:
            np.testing.assert_allclose(ours.by_prompt[name], theirs.by_prompt[name], rtol=2e-3)
