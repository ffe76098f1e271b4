"""Variants of prompts in a run: part of each group is drawn for them, rewards see the prompt."""

import sys

import pytest

from common.config import RewriterConfig
from common.prompts import rewrite
from common.prompts.rewrite import Variants
from common.runs.directory import RunDirectory
from tests.slow import MLX_SLOW

MODEL = 'prompts.rewriter.model="/gone"'  # a run that has its variants asks for no model
WRITTEN = {"rose": ["tulip", "bouquet"], "owl": ["eagle", "bird"]}
SEEN = """
import numpy as np
PROMPTS = []
def score(images, prompts, metadata):
    PROMPTS.append(list(prompts))
    return images.mean(axis=(1, 2, 3))
"""


@pytest.fixture
def written(tmp_path, tiny):
    """Makes a configuration with variants, and the directory of a run that has them."""

    def make(*changes, variants=WRITTEN, name="run"):
        config = tiny(MODEL, *changes)
        directory = RunDirectory.create(tmp_path / name, config, {})
        made = Variants(variants, config.prompts.rewriter.share)
        rewrite.keep(made, config.prompts.rewriter, seed=config.run.seed, run=directory.path)
        return config, directory.path

    return make


def test_variants_are_replayed_in_the_update_and_logged(backend, written, train):
    config, path = written("objective.kl_weight=0.1", "drift.noise.strength=0.3")
    directory, _, _ = train(config, backend, path)
    for row in directory.metrics():
        assert row["objective/ratio_max"] < 1e-6
        assert row["prompts/varied"] == 0.5


def test_rewards_and_evaluations_see_the_prompts_themselves(
    backend, written, train, tmp_path, monkeypatch
):
    (tmp_path / "seen_by_reward.py").write_text(SEEN)
    monkeypatch.syspath_prepend(tmp_path)
    terms = "reward.terms={'seen_by_reward:score' = 1.0}"
    config, path = written(terms, "prompts.rewriter.share=1.0")
    directory, record, _ = train(config, backend, path)
    seen = sys.modules.pop("seen_by_reward").PROMPTS
    assert {text for prompts in seen for text in prompts} == {"rose", "owl"}
    assert {row["prompts/varied"] for row in directory.metrics()} == {1.0}
    assert all(set(row["prompts"]) == {"rose", "owl"} for row in record.evaluations)


@MLX_SLOW
def test_no_share_changes_no_byte_and_a_share_does(backend, written, tiny, train, final_bytes):
    few = ("run.updates=1", "evaluate.prompts=1")
    plain, _, _ = train(tiny(*few), backend)
    assert not any("prompts/varied" in row for row in plain.metrics())
    final = {}
    for share in ("0.0", "0.5"):
        config, path = written(*few, f"prompts.rewriter.share={share}", name=share)
        final[share] = final_bytes(train(config, backend, path)[0])
    assert final["0.0"] == final_bytes(plain)
    assert final["0.5"] != final_bytes(plain)


@MLX_SLOW
def test_a_stopped_run_goes_on_with_its_variants(backend, written, train, final_bytes):
    config, whole = written(name="whole")
    _, stopped = written(name="stopped")
    assert not train(config, backend, stopped, stop_after=1)[2]
    directory, _, finished = train(config, backend, stopped)
    assert finished
    assert final_bytes(directory) == final_bytes(train(config, backend, whole)[0])


def test_the_backend_is_asked_for_the_model_and_the_run_keeps_what_it_wrote(
    backend, tiny, train, monkeypatch
):
    asked = []

    def write(prompt, model, settings, seed):
        return WRITTEN[prompt]

    class Model:
        folder = None

        def close(self):
            asked.append("closed")

    monkeypatch.setattr(
        backend, "language_model", lambda name: asked.append(name) or Model(), raising=False
    )
    monkeypatch.setattr(rewrite, "write", write)
    monkeypatch.setattr(rewrite.language, "find", lambda name: None)
    monkeypatch.setattr(rewrite.language, "digest", lambda folder: "d")
    directory, record, _ = train(tiny(MODEL), backend)
    assert asked == ["/gone", "closed"]
    assert record.rewrote == (2, 2)
    settings = RewriterConfig(model="/gone")
    kept = rewrite.prepare((), settings, seed=0, load=asked.append, run=directory.path)
    assert kept.share == 0.5
    assert (directory.path / rewrite.RUN_FILE).exists()


def test_a_variant_that_the_policy_cannot_read_is_reported_before_training(backend, written, train):
    config, path = written(variants={"rose": ["a qqqq"], "owl": []})
    with pytest.raises(ValueError, match="qqqq"):
        train(config, backend, path)


def test_a_model_that_is_not_there_is_reported_before_anything_is_loaded(backend, tiny, train):
    with pytest.raises(rewrite.language.LanguageModelError, match="/gone"):
        train(tiny(MODEL), backend)
