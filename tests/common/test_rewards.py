"""Rewards: the built-in ones against Pillow and a scorer, their names, and combinations."""

import io
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from common.config import RewardConfig
from common.rewards import (
    RewardError,
    RewardNameError,
    RewardSuite,
    available,
    combine,
    create,
    register,
    registry,
)
from tests.common.scored_images import METADATA, PROMPTS, FakeBackend, FakeScorer, call, noisy

# Built-in rewards


def test_jpeg_is_the_size_of_pillows_file():
    images = noisy()
    expected = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=95)
        expected.append(len(file.getvalue()) / 1000)
    got = create("jpeg_incompressibility", FakeBackend())(images, PROMPTS, METADATA)
    assert np.asarray(got).tolist() == expected
    minus = create("jpeg_compressibility", FakeBackend())(images, PROMPTS, METADATA)
    assert np.asarray(minus).tolist() == [-value for value in expected]


def test_jpeg_incompressibility_rises_with_noise():
    images = np.concatenate([noisy(1, spread) for spread in (0, 16, 64, 255)])
    sizes = np.asarray(create("jpeg_incompressibility", FakeBackend())(images, [""] * 4, [{}] * 4))
    assert (np.diff(sizes) > 0).all()
    assert sizes[0] > 0


def test_embedded_is_the_training_scorer():
    backend, images = FakeBackend(), noisy()
    got = create("embedded", backend)(images, PROMPTS, METADATA)
    assert backend.asked == ["train"]
    assert np.asarray(got).tolist() == FakeScorer("train").score(images, PROMPTS).tolist()


def test_the_held_out_scorer_is_not_a_reward():
    infos = {info.name: info for info in available()}
    assert {"embedded", "jpeg_compressibility", "jpeg_incompressibility"} <= infos.keys()
    assert infos["embedded"].works
    assert infos["jpeg_compressibility"].works
    assert not [name for name in infos if "held" in name]


# Names


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("embeded", "did you mean 'embedded'"),
        ("zzzz", r"valid: .*embedded, .*jpeg_compressibility"),
        ("no_such_module_:score", "cannot import 'no_such_module_': ModuleNotFoundError"),
        ("os.path:joint", "did you mean 'join'"),
        ("math:pi", "'pi' is a float, not a function"),
        (":score", "write module:function"),
        ("math:", "write module:function"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(name, says):
    with pytest.raises(RewardNameError, match=says) as caught:
        create(name, FakeBackend())
    assert "\n" not in str(caught.value)


def test_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_reward_d.py").write_text(
        "def ones(images, prompts, metadata):\n    return [1] * len(images)\n"
    )
    (tmp_path / "broken_reward_d.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    reward = create("my_reward_d:ones", FakeBackend())
    assert reward.name == "my_reward_d:ones"
    assert call(reward).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(RewardNameError, match="ZeroDivisionError: division by zero"):
        create("broken_reward_d:score", FakeBackend())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(registry.REWARDS, "entries", dict(registry.REWARDS.entries))
    register("needy", needs=["no_such_package_"], range="0 to 1", description="d")(
        lambda backend: lambda *a: []
    )
    info = next(info for info in available() if info.name == "needy")
    assert (info.works, info.needs) == (False, "needs the Python package no_such_package_")
    with pytest.raises(RewardNameError, match="reward 'needy' needs the Python package no_such"):
        create("needy", FakeBackend())
    with pytest.raises(RewardNameError, match="registered twice"):
        register("needy", range="", description="")(lambda backend: lambda *a: [])
    with pytest.raises(RewardNameError, match="':'"):
        register("a:b", range="", description="")(lambda backend: lambda *a: [])


class Point:
    """An entry point."""

    value = "plugin:factory"

    def __init__(self, name, load):
        self.name, self.load = name, load


def test_other_distributions_add_rewards(monkeypatch):
    def load():
        factory = register("from_plugin", range="0", description="zeros")
        return factory(lambda backend: lambda images, prompts, metadata: np.zeros(len(images)))

    def fail():
        raise ImportError("libfoo is missing")

    points = [Point("from_plugin", load), Point("ill", fail), Point("shy", lambda: None)]
    monkeypatch.setattr(registry.REWARDS, "entries", dict(registry.REWARDS.entries))
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert call(create("from_plugin", FakeBackend())).tolist() == [0.0, 0.0, 0.0]
    infos = {info.name: info for info in available()}
    assert infos["from_plugin"].works
    assert "ImportError: libfoo is missing" in infos["ill"].needs
    assert "did not register" in infos["shy"].needs
    with pytest.raises(RewardNameError, match="libfoo"):
        create("ill", FakeBackend())


# Combination


def test_weighted_sum_by_hand():
    scores = {"a": np.array([[1.0, 2.0], [3.0, np.nan]]), "b": np.array([[10.0, 0.0], [1.0, 1.0]])}
    got = combine(scores, {"a": 2.0, "b": -0.5}, method="weighted_sum")
    np.testing.assert_array_equal(got, [[-3.0, 4.0], [5.5, np.nan]])


def test_group_zscore_by_hand():
    # [1, 3]: mean 2, std 1. [5, 5, 8]: mean 6, std sqrt 2.
    scores = {"a": np.array([[1.0, np.nan, 3.0], [5.0, 5.0, 8.0]])}
    got = combine(scores, {"a": 2.0}, method="group_zscore")
    root = np.sqrt(2)
    np.testing.assert_allclose(got, [[-2, np.nan, 2], [-root, -root, 2 * root]], rtol=1e-14)


def test_group_zscore_forgets_scale_and_a_constant_term():
    rng = np.random.default_rng(1)
    scores = {"a": rng.normal(size=(3, 8)), "b": 20 + rng.normal(size=(3, 8))}
    weights = {"a": 1.0, "b": 0.5}
    expected = combine(scores, weights, method="group_zscore")
    scaled = {"a": 1000 * scores["a"] - 7, "b": scores["b"]}
    np.testing.assert_allclose(
        combine(scaled, weights, method="group_zscore"), expected, atol=1e-11, rtol=0
    )
    rounding = np.float32(0.1) * (1 + 1e-7 * rng.integers(0, 2, size=(3, 8)))
    flat = combine(scores | {"c": rounding}, weights | {"c": 9.0}, method="group_zscore")
    np.testing.assert_array_equal(flat, expected)


@pytest.mark.parametrize("method", ["weighted_sum", "group_zscore"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_missing_in_one_term_is_missing_in_the_sum(method, bad):
    scores = {"a": np.arange(6.0).reshape(2, 3), "b": np.full((2, 3), bad)}
    scores["b"][1] = 1.0
    got = combine(scores, {"a": 1.0, "b": 0.0}, method=method)
    assert np.isnan(got[0]).all()
    assert np.isfinite(got[1]).all()


def test_terms_that_do_not_fit_are_refused():
    a = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"\['a'\] do not fit weights of \['b'\]"):
        combine({"a": a}, {"b": 1.0}, method="weighted_sum")
    with pytest.raises(ValueError, match="same shape"):
        combine({"a": a, "b": a[:1]}, {"a": 1.0, "b": 1.0}, method="weighted_sum")
    with pytest.raises(ValueError, match="same shape"):
        combine({"a": a[0]}, {"a": 1.0}, method="weighted_sum")
    with pytest.raises(ValueError, match="is not one of weighted_sum"):
        combine({"a": a}, {"a": 1.0}, method="sum")  # pyright: ignore[reportArgumentType]


def test_a_suite_gives_the_raw_values_of_each_term():
    backend, images = FakeBackend(), noisy()
    terms = {"embedded": 10.0, "jpeg_compressibility": 0.1}
    suite = RewardSuite(terms, backend, RewardConfig(terms=terms))
    got = suite.score(images, PROMPTS, METADATA, describe=str)
    assert list(got) == list(terms)
    assert got["embedded"].tolist() == FakeScorer("train").score(images, PROMPTS).tolist()
    assert (got["jpeg_compressibility"] < 0).all()
    with pytest.raises(RewardNameError, match="did you mean 'embedded'"):
        RewardSuite({"embeddd": 1.0}, backend, RewardConfig())


def test_a_suite_passes_on_what_the_configuration_says(monkeypatch):
    monkeypatch.setattr(registry.REWARDS, "entries", dict(registry.REWARDS.entries))
    register("ill", range="", description="")(lambda backend: lambda *a: [1.0, np.nan, 0.0])
    register("slow", range="", description="")(
        lambda backend: lambda *a: threading.Event().wait(600)
    )

    def score(name, **settings):
        config = RewardConfig(terms={name: 1.0}, **settings)
        suite = RewardSuite(config.terms, FakeBackend(), config)
        return suite.score(noisy(), PROMPTS, METADATA, describe=lambda n: f"sample {n}")[name]

    with pytest.raises(RewardError, match="sample 1"):
        score("ill")
    assert np.isnan(score("ill", on_error="drop")).tolist() == [False, True, False]
    with pytest.raises(RewardError, match=r"more than 0\.05 s"):
        score("slow", timeout=0.05)
