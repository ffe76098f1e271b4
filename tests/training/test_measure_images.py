"""Images of checkpoints are kept: a further scorer samples nothing, a kill loses one prompt."""

import shutil
from dataclasses import replace

import pytest

from common import backends
from common.evaluation import image_sampler, measure, records
from common.evaluation.records import Variant
from common.runs.directory import RunDirectory

KNOBS = [Variant(1), Variant(1, scale=0.5), Variant(1, prompt_noise=0.5), Variant(1, aig=1.0)]


@pytest.fixture(scope="module")
def cpu():
    return backends.load("cpu")


@pytest.fixture(scope="module")
def trained(train, tiny, cpu):
    """A run of one update. Read only."""
    return train(tiny("run.updates=1", "rollout.batch_size=4"), cpu)[0]


@pytest.fixture
def copy(trained, tmp_path):
    def make(name):
        return RunDirectory.open(shutil.copytree(trained.path, tmp_path / name))

    return make


@pytest.fixture
def drawn(monkeypatch):
    """Images of each forward pass; `limit` raises an interrupt instead of one more."""

    class Drawn(list):
        limit = None

    passes, original = Drawn(), image_sampler.sample_batches

    def count(*arguments, **options):
        for batch in original(*arguments, **options):
            if passes.limit is not None and len(passes) >= passes.limit:
                raise KeyboardInterrupt
            passes.append(len(batch))
            yield batch

    monkeypatch.setattr(image_sampler, "sample_batches", count)
    return passes


def evaluate(run, backend, cache, variants, scorers=(), **options):
    how = measure.protocol(run, "train", prompts=0, images=3, steps=2, seed=5, scorers=scorers)
    made = []
    written = measure.evaluate(
        run,
        backend,
        [how],
        variants,
        cache=cache,
        on_record=lambda record, is_new: made.append(record),
        **options,
    )
    return made, written


def contents(run):
    return {path.name: path.read_bytes() for path in (run.path / "evaluation").iterdir()}


def test_a_further_scorer_samples_nothing(copy, cpu, tmp_path, drawn):
    run, cache = copy("run"), tmp_path / "cache"
    first, written = evaluate(run, cpu, cache, [Variant(0), *KNOBS])
    assert sum(drawn) == written.images == 6 * 6  # those to compare with, and of five variants
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert written.nbytes == sum(path.stat().st_size for path in files)
    assert len(files) == 6 * 2  # a file for each prompt
    del drawn[:]
    scorers = ("jpeg_compressibility",)
    second, written = evaluate(run, cpu, cache, [Variant(0), *KNOBS], scorers)
    assert (drawn, written.images) == ([], 0)
    for before, after in zip(first, second, strict=True):
        assert after.protocol == replace(before.protocol, scorers=scorers)
        assert after.by_prompt.items() > before.by_prompt.items()
    # Each variant has images of its own.
    assert len({record.by_prompt["pixel_distance"] for record in first}) == 5


@pytest.mark.parametrize(("passes", "left"), [(1, [1, 2, 4, 2]), (3, [1, 2])])
def test_killed_among_the_images_it_goes_on_and_ends_with_the_same_bytes(
    copy, cpu, tmp_path, drawn, passes, left
):
    whole, run = copy("whole"), copy("run")
    evaluate(whole, cpu, tmp_path / "cache", [Variant(1)])
    assert drawn == [4, 2, 4, 2]  # two prompts with three images each, to compare with and tuned
    del drawn[:]
    drawn.limit = passes
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, cpu, tmp_path / "own", [Variant(1)])
    del drawn[:]
    drawn.limit, shown = None, []
    evaluate(run, cpu, tmp_path / "own", [Variant(1)], on_images=lambda *how: shown.append(how))
    # The pass in which the second prompt began is made again; the first prompt was on disk.
    assert drawn == left
    assert shown[0][1:] == (3, 6)
    assert contents(run) == contents(whole)


def test_without_keeping_only_the_base_model_has_images(copy, cpu, tmp_path, drawn):
    run, other, cache = copy("run"), copy("other"), tmp_path / "cache"
    kept, written = evaluate(run, cpu, cache, [Variant(0), Variant(1)], keep=False)
    assert (written.images, sum(drawn)) == (12, 18)
    assert records.load(run) == kept
    again, written = evaluate(other, cpu, cache, [Variant(0), Variant(1)])
    assert (written.images, sum(drawn)) == (6, 24)
    assert again == kept


def test_a_damaged_file_is_made_again_with_one_line(copy, cpu, tmp_path, drawn):
    run, other, cache = copy("run"), copy("other"), tmp_path / "cache"
    first, _ = evaluate(run, cpu, cache, [Variant(1)])
    for path in cache.rglob("0001-*.png"):
        path.write_bytes(path.read_bytes()[:-1])
    del drawn[:]
    with pytest.warns(UserWarning, match="is damaged") as lines:
        again, written = evaluate(other, cpu, cache, [Variant(1)])
    assert {str(line.message) for line in lines} == {
        f"a file in the cache {cache} is damaged; its images are made again"
    }
    assert (drawn, written.images) == ([1, 2, 1, 2], 6)
    assert again == first
    assert contents(other) == contents(run)
