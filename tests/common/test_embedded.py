"""The emoji model's host side: words, time features and pixels, against values worked by hand."""

import numpy as np
import pytest

from common.embedded import model
from common.embedded.model import DenoiserConfig

CONFIG = DenoiserConfig()


def test_words_become_indices_padded_with_zero():
    vocabulary = model._vocabulary()
    rows = model.tokenize(["Cat-Face!", "owl"], CONFIG)
    assert rows.dtype == np.int32
    assert rows.tolist() == [
        [vocabulary["cat"], vocabulary["face"], 0, 0, 0, 0],
        [vocabulary["owl"], 0, 0, 0, 0, 0],
    ]
    assert model.null_tokens(2, CONFIG).tolist() == [[1, 0, 0, 0, 0, 0]] * 2


def test_an_unknown_word_is_named_with_its_prompt_and_the_nearest_known_word():
    with pytest.raises(ValueError, match=r"'red strawbery'.*'strawbery'.*known.*'strawberry'"):
        model.tokenize(["owl", "red strawbery"], CONFIG)


@pytest.mark.parametrize("prompt", ["", "?!", "owl owl owl owl owl owl owl"])
def test_a_prompt_without_words_or_with_too_many_is_refused(prompt):
    with pytest.raises(ValueError, match="reads 1 to 6 words"):
        model.tokenize([prompt], CONFIG)


def test_time_features_by_hand():
    features = model.time_features(np.array([0.0, 0.95]), CONFIG)
    assert features.shape == (2, 64)
    assert features.dtype == np.float64
    np.testing.assert_array_equal(features[0], [1.0] * 32 + [0.0] * 32)
    # j = 0: frequency 1, angle 950; j = 16: frequency 10^-2, angle 9.5.
    np.testing.assert_allclose(features[1, [0, 16]], np.cos([950.0, 9.5]), rtol=1e-12)
    np.testing.assert_allclose(features[1, [32, 48]], np.sin([950.0, 9.5]), rtol=1e-12)


def test_pixels_clip_and_round_to_the_nearest():
    values = np.array([-2.0, -1.0, 2 * 1.4 / 255 - 1, 2 * 1.6 / 255 - 1, 0.0, 1.0, 3.0])
    x = np.broadcast_to(values, (1, 3, 1, 7))
    images = model.to_images(x)
    assert images.dtype == np.uint8
    assert images.shape == (1, 1, 7, 3)
    assert images[0, 0, :, 0].tolist() == [0, 0, 1, 2, 128, 255, 255]


def test_pixels_survive_the_way_to_latents_and_back():
    images = np.arange(256 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(model.to_images(model.from_images(images)), images)


def test_latents_that_are_not_finite_are_counted():
    x = np.zeros((3, 3, 2, 2))
    x[1, 0, 0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="1 of 3 latents"):
        model.to_images(x)


def test_images_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        model.from_images(np.zeros((1, 32, 32, 3)))


def test_unit_rows_and_a_row_of_zeros():
    rows = model.unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]])


def test_weights_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"not a tensor file")
    for name in ("broken", "absent"):
        with pytest.raises(ValueError, match=f"{name}.safetensors"):
            model.denoiser_weights(tmp_path / f"{name}.safetensors")


def test_the_scorers_are_named_when_another_is_asked_for():
    with pytest.raises(ValueError, match="'test'; valid: train, heldout"):
        model.scorer_weights("test")
