"""Runs measured in several image features, during training and after it; nothing is trained."""

import numpy as np
import pytest

from common import backends, pictures
from common.algorithm import diversity
from common.evaluation import measure, records
from common.evaluation.evaluator import Evaluator
from common.evaluation.records import MEASURES, Variant
from common.prompts import load as load_prompts
from common.rewards import RewardSuite
from common.rewards.image import jpeg_kilobytes
from common.runs.directory import RunDirectory


@pytest.fixture(scope="module")
def cpu():
    return backends.load("cpu")


def base_record(run, backend, cache, **changes):
    """The record of the model before tuning on two test prompts."""
    options = {"prompts": 2, "images": 3, "steps": 2, "seed": 5} | changes
    how, made = measure.protocol(run, "test", **options), []
    measure.evaluate(
        run,
        backend,
        [how],
        [Variant(0)],
        cache=cache,
        on_record=lambda record, is_new: made.append(record),
    )
    return made[0]


def test_the_emoji_model_has_its_own_features_first(tiny, cpu, tmp_path):
    run, cache = RunDirectory.create(tmp_path / "run", tiny(), {}), tmp_path / "cache"
    more = base_record(run, cpu, cache, features=("embedded", "embedded_heldout"))
    alone = base_record(run, cpu, cache)
    assert (more.protocol.features, more.protocol.more_features) == ("", ("embedded",))
    assert {name: more.by_prompt[name] for name in MEASURES} == alone.by_prompt
    assert (more.frechet, alone.overall) == (alone.frechet, {})
    assert more.overall["frechet/embedded"] > 0
    folders = [path.parent for path in cache.rglob("*.png")]
    assert len(folders) == 2  # the same images for both
    expected = []
    for folder in folders:
        images = pictures.load(*folder.glob("*.png")).reshape(-1, 32, 32, 3)
        seen = cpu.scorer("train").features(images).astype(np.float64).reshape(2, 3, -1)
        expected.append(diversity.mean_pairwise(diversity.cosine_distances(seen)).tolist())
    assert list(more.by_prompt["diversity/embedded"]) in expected
    assert records.load(run) == [more, alone]
    assert not {"overall", "more_features", "real"} & {*records.to_line(alone).split('"')}


def test_evaluations_during_a_run_have_the_same_scorers_and_features(tiny, cpu):
    config = tiny(
        'evaluate.features=["embedded_heldout", "embedded"]',
        'evaluate.scorers=["jpeg_compressibility"]',
    )
    evaluator = Evaluator(
        config,
        cpu,
        RewardSuite(config.reward.terms, cpu, config.reward),
        load_prompts(config.prompts),
        train=cpu.scorer("train"),
        heldout=cpu.scorer("heldout"),
    )
    made = evaluator(cpu.policy(config.model, config.adapter, seed=0), None)
    assert made.record["diversity/embedded"] == made.record["diversity_train"]
    sizes = jpeg_kilobytes(made.images.reshape(-1, 32, 32, 3))
    assert made.record["heldout/jpeg_compressibility"] == pytest.approx(-sizes.mean())
