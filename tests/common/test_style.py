"""The style classifier tells the drawing style of emoji whose names it never saw."""

import json

import numpy as np
import pytest

from common.config import PromptsConfig
from common.embedded.model import FOLDER
from common.evaluation import style
from common.prompts import load as load_prompts, split


@pytest.fixture(scope="module")
def held_out():
    """Every third image of the names that training left out, and its style."""
    texts = {prompt.id: prompt.text for prompt in load_prompts(PromptsConfig())}
    with np.load(FOLDER / "emoji32.npz") as data:
        names = data["name_index"]
        chosen = [i for i, n in enumerate(names) if split(texts[int(n)]) != "train"][::3]
        return data["images"][chosen], data["style_index"][chosen]


def test_the_classes_are_the_styles_of_the_data():
    names = json.loads((FOLDER / "names.json").read_text(encoding="utf-8"))
    assert list(style.STYLES) == names["styles"]
    assert style.WEIGHTS.stat().st_size < 1_000_000


def test_accuracy_on_names_never_seen(held_out):
    images, styles = held_out
    predicted, labels = (
        style.load().probabilities(images).argmax(axis=1),
        style.load().labels(images),
    )
    assert len(images) > 300
    assert (predicted == styles).mean() > 0.70
    # Twins in shape, not in style: were they one, half of each would be predicted as the other.
    fluent = np.isin(styles, [1, 2]) & np.isin(predicted, [1, 2])
    assert (predicted == styles)[fluent].mean() > 0.80
    sure = labels >= 0
    assert 0.4 < sure.mean() < 0.8
    assert (labels[sure] == predicted[sure]).all()
    assert (labels == styles)[sure].mean() > 0.85


def test_probabilities_add_up_and_an_image_has_its_style_whatever_is_beside_it(held_out):
    images = held_out[0][:80]
    together = style.load().probabilities(images)
    assert together.shape == (80, style.CLASSES)
    assert together.min() > 0
    np.testing.assert_allclose(together.sum(axis=1), 1.0, atol=1e-12)
    alone = np.concatenate([style.load().probabilities(image[None]) for image in images[60:70]])
    np.testing.assert_allclose(alone, together[60:70], atol=1e-5)


def test_convolution_is_the_definition():
    x, weight = np.random.default_rng(0).normal(size=(2, 4, 4, 3)), np.zeros((3, 3, 3, 1))
    weight[2, 0, 1] = 1.0  # channel 2, the pixel above
    expected = np.zeros((2, 4, 4, 1))
    expected[:, 1:, :, 0] = np.maximum(x[:, :-1, :, 2] - 0.1, 0)
    expected[:, 0] = np.maximum(-0.1, 0)
    computed = style._convolved(x, weight.reshape(27, 1), np.array([-0.1]))
    np.testing.assert_allclose(computed, expected, atol=1e-12)


def test_it_agrees_with_the_network_that_is_trained():
    torch = pytest.importorskip("torch")
    import importlib.util
    from pathlib import Path

    path = Path(__file__).parents[2] / "scripts" / "train_style.py"
    spec = importlib.util.spec_from_file_location("train_style", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    images, _, _, held_out = script.data()
    images = images[held_out][:24]
    statistics = style.statistics(images)
    mean, std = statistics.mean(0), statistics.std(0) + np.float32(1e-2)
    net = script.Net(statistics.shape[1])
    with torch.no_grad():
        standard = torch.from_numpy(np.clip((statistics - mean) / std, -style.LIMIT, style.LIMIT))
        net(script.to_tensor(images), standard)  # moves the running averages of the batch norms
        net.eval()
        expected = torch.softmax(net(script.to_tensor(images), standard).double(), 1).numpy()
    weights = script.folded(net) | {"statistics.mean": mean, "statistics.std": std}
    computed = style.StyleClassifier(weights).probabilities(images)
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(computed, expected, atol=1e-5)


def test_weights_that_cannot_be_read_are_one_line(tmp_path):
    file = tmp_path / "style.safetensors"
    file.write_bytes(b"not a tensor file")
    with pytest.raises(ValueError, match=r"cannot read weights .*style\.safetensors"):
        style.load(file)
    with pytest.raises(ValueError, match="cannot read weights"):
        style.load(tmp_path / "none.safetensors")
