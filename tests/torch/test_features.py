"""Features for diversity: their formulas on tiny checkpoints, and a warning when one does both."""

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model

from common import config as configuration
from common.rewards import FEATURES, Features, RewardError, RewardNameError, features, preprocess

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_scorers.py"))))

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 40, 32, 3), dtype=np.uint8)
NOWHERE = SimpleNamespace(scorer=lambda name: SimpleNamespace(features=lambda images: name))


def unit(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def make(name, **options):
    return Features(name, NOWHERE, options)


def test_names_are_listed_with_the_embedded_ones():
    names = {info.name for info in FEATURES.available()}
    assert names == {"embedded", "embedded_heldout", "efficientnet", "clip", "dinov2", "dreamsim",
                     "lpips"}  # fmt: skip
    assert FEATURES.create("embedded", NOWHERE).function(IMAGES) == "train"
    assert FEATURES.create("embedded_heldout", NOWHERE).function(IMAGES) == "heldout"


def test_efficientnet_finds_a_crop_of_a_photo_nearer_than_another_photo():
    folder = Path(skimage.__file__).parent / "data"
    cat, coffee = (
        np.asarray(Image.open(folder / name).convert("RGB").resize((300, 200)))
        for name in ("chelsea.png", "coffee.png")
    )
    other = np.ascontiguousarray(cat[:, ::-1])
    got = make("efficientnet", device="cpu", size=128)(np.stack([cat, other, coffee]))
    assert got.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, rtol=1e-6)
    assert got[0] @ got[1] > got[0] @ got[2] + 0.3


def test_clip_features_are_its_unit_embeddings(tmp_path):
    model = tiny.clip_folder(tmp_path / "clip")
    got = make("clip", path=str(tmp_path / "clip"), device="cpu")(IMAGES)
    x = preprocess.clip_pixels(IMAGES, 16)
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(torch.from_numpy(x)).pooler_output)
    np.testing.assert_allclose(got, unit(seen.numpy()), atol=2e-6)


def test_dinov2_sees_the_middle_224_of_256(tmp_path):
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=56
    )
    model = tiny.scrambled(Dinov2Model(config))
    model.save_pretrained(tmp_path / "dino")
    got = make("dinov2", path=str(tmp_path / "dino"), device="cpu")(IMAGES[:2])
    large = np.stack([tiny.resize(image, 320, 256) for image in IMAGES[:2]])
    middle = large[:, 48:272, 16:240] / 255
    x = (middle - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        seen = model(torch.from_numpy(x.transpose(0, 3, 1, 2)).float()).last_hidden_state[:, 0]
    np.testing.assert_allclose(got, unit(seen.numpy()), atol=2e-4)  # of Pillow's rounding


def alexnet(folder, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        0: (64, 3, 11),
        3: (192, 64, 5),
        6: (384, 192, 3),
        8: (256, 384, 3),
        10: (256, 256, 3),
    }
    state, head = {}, {}
    for i, (number, (after, before, kernel)) in enumerate(shapes.items()):
        fan = before * kernel * kernel
        weight = torch.randn(after, before, kernel, kernel, generator=generator) / fan**0.5
        state[f"features.{number}.weight"] = weight
        state[f"features.{number}.bias"] = 0.1 * torch.randn(after, generator=generator)
        head[f"lin{i}.model.1.weight"] = torch.rand(1, after, 1, 1, generator=generator)
    torch.save({**state, "classifier.1.weight": torch.zeros(2, 2)}, folder / "alexnet.pth")
    torch.save(head, folder / "alex.pth")
    return state, head


@torch.no_grad()
def lpips(a, b, state, head):
    """The distance as the paper words it, layer by layer."""
    total = 0.0
    x = torch.from_numpy(np.stack([a, b]).astype(np.float64).transpose(0, 3, 1, 2)) / 127.5 - 1
    shift, scale = (
        torch.tensor(v, dtype=torch.float64)[:, None, None]
        for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
    )
    x = (x - shift) / scale
    for i, number in enumerate((0, 3, 6, 8, 10)):
        if number in (3, 6):
            x = functional.max_pool2d(x, 3, 2)
        weight, bias = (state[f"features.{number}.{k}"].double() for k in ("weight", "bias"))
        x = functional.relu(
            functional.conv2d(
                x, weight, bias, stride=4 if i == 0 else 1, padding=(2, 2, 1, 1, 1)[i]
            )
        )
        y = x / (x.norm(dim=1, keepdim=True) + 1e-10)
        w = head[f"lin{i}.model.1.weight"].double()
        total += float(((y[0] - y[1]) ** 2 * w[0]).sum(dim=0).mean())
    return total


def test_the_squared_distance_of_the_maps_is_lpips(tmp_path):
    from drift_torch.features import LpipsOptions
    from drift_torch.lpips import Maps

    state, head = alexnet(tmp_path)
    images = IMAGES[:, :32]
    options = {"path": str(tmp_path / "alexnet.pth"), "head": str(tmp_path / "alex.pth")}
    maps = Maps(LpipsOptions(**options, size=32, device="cpu"))
    got = maps(images).astype(np.float64)
    for other in (1, 2):
        expected = lpips(images[0], images[other], state, head)
        assert ((got[0] - got[other]) ** 2).sum() == pytest.approx(expected, rel=1e-4)
    whole = make("lpips", **options, size=32, device="cpu")(images)
    np.testing.assert_allclose(whole, unit(got), atol=1e-6)
    with pytest.raises(RewardNameError, match="needs the option head"):
        make("lpips", path=options["path"])
    with pytest.raises(RewardNameError, match="holds no LPIPS weights"):
        make("lpips", path=options["path"], head=options["path"])


def test_dreamsim_is_asked_for_what_it_wants(monkeypatch, tmp_path):
    """Its package is not installed here, so a stand-in takes its place and looks at the pixels."""
    asked = {}

    class Stand(nn.Module):
        def embed(self, pixels):
            asked["pixels"] = pixels
            return pixels.mean(dim=(2, 3)) + 1

    def load(**settings):
        asked.update(settings)
        return Stand(), None

    module = ModuleType("dreamsim")
    module.dreamsim = load  # pyright: ignore[reportAttributeAccessIssue]
    module.__spec__ = SimpleNamespace()  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "dreamsim", module)
    got = make("dreamsim", path=str(tmp_path), variant="dino_vitb16", device="cpu")(IMAGES)
    assert (asked["dreamsim_type"], asked["cache_dir"]) == ("dino_vitb16", str(tmp_path))
    assert asked["pixels"].shape == (5, 3, 224, 224)
    assert asked["pixels"].max() <= 1
    expected = np.stack([tiny.resize(image, 224, 224) for image in IMAGES]) / 255
    np.testing.assert_allclose(got, unit(expected.mean(axis=(1, 2)) + 1), atol=1e-4)


# --- a function of one's own, and the warning ----------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_features_f.py").write_text(
        "import numpy as np\n"
        "def colors(images):\n    return images.mean(axis=(1, 2)) * 7\n"
        "def flat(images):\n    return np.zeros(len(images))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "own_features_f"


def test_a_function_of_ones_own_is_made_unit_length(own):
    got = make(f"{own}:colors")(IMAGES)
    np.testing.assert_allclose(got, unit(IMAGES.mean(axis=(1, 2))), rtol=1e-6)
    with pytest.raises(RewardError, match=r"returned float64 \[5\] for 5 images: expected floats"):
        make(f"{own}:flat")(IMAGES)
    with pytest.raises(RewardNameError, match="no features 'clipp'; did you mean 'clip'"):
        make("clipp")


@pytest.mark.parametrize(
    ("changes", "warns"),
    [
        ((), False),
        (("evaluate.features=embedded",), True),
        (("drift.shaping.features=embedded_heldout",), True),
        (("drift.shaping.features=clip", "evaluate.features=clip"), True),
        (
            ("drift.shaping.features=clip", "evaluate.features=clip",
             "evaluate.features_options.path=other"),
            False,
        ),
        (("evaluate.features=embedded", "drift.shaping.mode=none"), False),
        (('evaluate.features=["embedded", "clip"]',), False),
        (
            ("drift.shaping.features=clip", "evaluate.features=mine",
             "evaluate.features_options.reward=clip"),
            True,
        ),
    ],
)  # fmt: skip
def test_what_shapes_must_not_measure(changes, warns):
    assert bool(features.same(configuration.load("emoji", changes))) == warns
