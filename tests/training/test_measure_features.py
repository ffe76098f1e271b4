"""Runs measured in several image features, during training and after it; nothing is trained."""

import numpy as np
import pytest

from common import backends, pictures
from common.algorithm import diversity, fidelity
from common.evaluation import measure, records
from common.evaluation.emoji_measures import real_images
from common.evaluation.evaluator import Evaluator
from common.evaluation.foreign import ImagesError, RealImages
from common.evaluation.records import MEASURES, Variant
from common.prompts import load as load_prompts
from common.rewards import RewardSuite
from common.rewards.image import jpeg_kilobytes
from common.runs.directory import RunDirectory
from common.sampling.ode import sample_images
from common.sampling.process import make_process


@pytest.fixture(scope="module")
def cpu():
    return backends.load("cpu")


def base_record(run, backend, cache, **changes):
    """The record of the model before tuning on two test prompts."""
    options = {"prompts": 2, "images": 3, "steps": 2, "seed": 5} | changes
    how, made = measure.protocol(run, "test", **options), []
    real = changes.get("real")
    measure.evaluate(
        run,
        backend,
        [how],
        [Variant(0)],
        cache=cache,
        on_record=lambda record, is_new: made.append(record),
        real=real,
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
    folders = {path.parent for path in cache.rglob("*.png")}
    assert len(folders) == 2  # the same images for both
    expected = []
    for folder in folders:
        parts = [pictures.load(path) for path in sorted(folder.iterdir())]
        images = np.concatenate(parts).reshape(-1, 32, 32, 3)
        seen = cpu.scorer("train").features(images).astype(np.float64).reshape(2, 3, -1)
        expected.append(diversity.mean_pairwise(diversity.cosine_distances(seen)).tolist())
    assert list(more.by_prompt["diversity/embedded"]) in expected
    assert records.load(run) == [more, alone]
    assert not {"overall", "more_features", "real"} & {*records.to_line(alone).split('"')}


def test_the_distance_to_real_images_is_beside_that_to_the_base_model(tiny, cpu, tmp_path):
    run, cache, drawn = (tmp_path / name for name in ("run", "cache", "real"))
    run = RunDirectory.create(run, tiny(), {})
    drawn.mkdir()
    for number, image in enumerate(real_images(["rose", "owl"])[:5]):
        (drawn / f"{number}.png").write_bytes(pictures.encode_png(image))
    real = RealImages.open(drawn)
    words = {"features": ("embedded",), "real": real}
    record = base_record(run, cpu, cache, **words)
    assert record.protocol.real == real.digest
    assert record.overall.keys() == {
        "frechet/embedded", "frechet_real", "frechet_real/embedded",
    }  # fmt: skip
    for name, kind in {"frechet_real": "heldout", "frechet_real/embedded": "train"}.items():
        extract = cpu.scorer(kind).features
        expected = fidelity.frechet_distance(
            *(
                extract(images.reshape(-1, 32, 32, 3)).astype(np.float64)
                for images in (measured_images(run, cpu), real_images(["rose", "owl"])[:5])
            )
        )
        assert record.overall[name] == pytest.approx(expected, rel=1e-6)
    assert records.load(run) == [record]
    (drawn / "0.png").write_bytes(b"no picture")
    with pytest.raises(ImagesError, match=r"the image .*0\.png is damaged"):
        base_record(run, cpu, cache, seed=7, **words)
    assert records.load(run) == [record]


def measured_images(run, backend):
    """The images of `base_record` with its defaults."""
    policy = backend.policy(run.config.model, run.config.adapter, seed=0)
    process = make_process(policy, run.config.rollout, 2)
    texts = records.load(run)[0].protocol.prompts
    return sample_images(policy, backend, process, texts, 3, seed=5, batch_size=8)


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
