"""Train the classifier of drawing styles that counts the modes of a prompt's images.

    python scripts/train_style.py [--out common/embedded/style.safetensors]    train and measure
    python scripts/train_style.py --table                                      measure the file

Two to four minutes of one CPU core. The images are split by name: a fifth of the names, those of
the prompt splits validation and test, are never trained on. On them the file in the package has

    74.3 % of 1,068 drawings right (rows: true style, columns: predicted; same order)
    emojione            106    4   14    1   17   12   14
    fluent-emoji          1  138   28    0    3    0    1
    fluent-emoji-flat     2   17  145    0    3    3    1
    fxemoji               5    1   12   11    4    4    8
    noto                 18    7   24    1  103   15    3
    noto-v1              12    0    9    0    6  140    4
    twemoji               4    0   12    0    3    1  151

So the two fluent sets are no more alike than emojione and noto, and stay two classes; fxemoji, with
only 223 drawings, is mostly predicted as another style. Generated images have slight noise where
drawings are flat. A classifier of clean drawings gets 83 % of them right, and predicts fluent-emoji
for half of the base model's images and flat for none; so training uses `degrade`. The second figure
is on 356 of these drawings that the model redrew: 66.0 % right; sure (`style.SURE`) of 47 %, and
86.3 % of those right. Groups of 16 redrawn images with 1 to 7 styles then count

    1.7  2.5  3.2  3.5  4.0  4.2  4.4 modes (standard deviation .8 to 1.1):

the count rises with the truth, but is compressed at the upper end. Use it to compare runs, not as a
true count.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor, nn
from torch.nn import functional

from common import backends, random
from common.algorithm.fidelity import mode_count
from common.config import AdapterConfig, ModelConfig, PromptsConfig
from common.embedded.model import FOLDER, from_images, to_images
from common.evaluation import style
from common.prompts import load as load_prompts, split
from common.random import Key, Purpose
from common.runs import files

WIDTH, EPOCHS, BATCH, RATE, DECAY = 16, 24, 64, 4e-3, 1e-2
DROPOUT, SMOOTHING, EPS = 0.4, 0.05, 1e-5
SHIFT, BLUR, FINE, COARSE = 1, 0.7, 0.02, 0.03
SIZES = {
    "a": (3, WIDTH),
    "b": (WIDTH, 2 * WIDTH),
    "c": (2 * WIDTH,) * 2,
    "d": (2 * WIDTH, 4 * WIDTH),
}
KEY = Key(seed=7, purpose=Purpose.DATA)
REDRAWN = 0.4


class Net(nn.Module):
    """`StyleClassifier` with a batch norm after each convolution, and dropout before the head."""

    def __init__(self, statistics: int):
        super().__init__()
        self.layers = nn.ModuleDict(
            {name: nn.Conv2d(i, o, 3, padding=1, bias=False) for name, (i, o) in SIZES.items()}
        )
        self.norms = nn.ModuleDict(
            {name: nn.BatchNorm2d(o, eps=EPS) for name, (_, o) in SIZES.items()}
        )
        width = 2 * sum(o for _, o in SIZES.values()) + statistics
        self.head = nn.Linear(width, style.CLASSES)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim > 1:
                    key = KEY.at(prompt=random.address(name))
                    draw = torch.from_numpy(random.normal(key, parameter.shape))
                    parameter.copy_(draw * (2.0 / parameter[0].numel()) ** 0.5)
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()

    def forward(self, x: Tensor, statistics: Tensor, keep: Tensor | float = 1.0) -> Tensor:
        """x: [B, 3, 32, 32] in [-1, 1]; statistics: [B, S]; keep: dropout's factors [B, F]."""
        pools = {"b": functional.max_pool2d, "d": functional.avg_pool2d}
        pooled = []
        for name in SIZES:
            x = pools[name](x, 2) if name in pools else x
            x = functional.relu(self.norms[name](self.layers[name](x)))
            pooled += [x.mean((2, 3)), x.amax((2, 3))]
        return self.head(torch.cat([*pooled, statistics], 1) * keep)


def main() -> None:
    """Train and measure, or only measure."""
    parser = argparse.ArgumentParser(description="Train the style classifier.")
    parser.add_argument("--out", type=Path, default=style.WEIGHTS)
    parser.add_argument("--table", action="store_true", help="only measure the file")
    arguments = parser.parse_args()
    images, labels, texts, held_out = data()
    if not arguments.table:
        weights = train(images[~held_out], labels[~held_out])
        files.write_whole(arguments.out, save(weights))
        print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")
    classifier = style.load(arguments.out)
    print_accuracy(classifier, images[held_out], labels[held_out])
    few = np.flatnonzero(held_out)[::3]
    print_redrawn_accuracy(classifier, images[few], labels[few], [texts[i] for i in few])


def data() -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Images uint8 [N, 32, 32, 3], styles int64 [N], N names, and whether each is held out [N]."""
    by_id = {prompt.id: prompt.text for prompt in load_prompts(PromptsConfig())}
    with np.load(FOLDER / "emoji32.npz") as arrays:
        texts = [by_id[int(index)] for index in arrays["name_index"]]
        held_out = np.array([split(text) != "train" for text in texts])
        return arrays["images"], arrays["style_index"].astype(np.int64), texts, held_out


def train(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Weights in the layout of `StyleClassifier`."""
    statistics = style.statistics(images)
    mean, std = statistics.mean(0), statistics.std(0) + np.float32(1e-2)
    X, Y = to_tensor(images), torch.from_numpy(labels)
    net = Net(statistics.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    epoch_steps = len(X) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=EPOCHS * epoch_steps + 1, pct_start=0.2
    )
    for step in range(EPOCHS * epoch_steps):
        epoch, position = divmod(step, epoch_steps)
        order = random.permutation(KEY.at(update=epoch, step=1), len(X))
        chosen = torch.from_numpy(order[position * BATCH : (position + 1) * BATCH])
        degraded = to_images(degrade(X[chosen], KEY.at(update=step)).numpy())
        standard = np.clip((style.statistics(degraded) - mean) / std, -style.LIMIT, style.LIMIT)
        kept = random.uniform(KEY.at(update=step, step=2), (BATCH, net.head.in_features)) >= DROPOUT
        keep = torch.from_numpy(kept.astype(np.float32)) / (1.0 - DROPOUT)
        x = to_tensor(degraded).contiguous(memory_format=torch.channels_last)
        logits = net(x, torch.from_numpy(standard), keep)
        loss = functional.cross_entropy(logits, Y[chosen], label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if position == 0:
            print(f"epoch {epoch}  loss {loss.item():.3f}", flush=True)
    return folded(net) | {"statistics.mean": mean, "statistics.std": std}


def to_tensor(images: np.ndarray) -> Tensor:
    """Pixels uint8 [N, 32, 32, 3] as [N, 3, 32, 32] in [-1, 1]."""
    return torch.from_numpy(from_images(images))


def degrade(x: Tensor, key: Key) -> Tensor:
    """Make drawings similar to generated images, which have slight noise and are less sharp.

    Half of the images are mirrored; each is moved by at most a pixel and gets random amounts of
    blur, fine noise and coarse noise.
    """
    draws = random.uniform(key.at(step=3), (4, len(x), 1, 1, 1)).astype(np.float32)
    mirror, blur, fine, coarse = torch.from_numpy(draws)
    x = torch.where(mirror < 0.5, x.flip(3), x)
    by = random.generator(key.at(step=4)).integers(-SHIFT, SHIFT + 1, 2)
    x = torch.roll(x, (int(by[0]), int(by[1])), (2, 3))
    x = x + BLUR * blur * (_averaged(x) - x)
    grain = torch.from_numpy(random.normal(key.at(step=5), (2, *x.shape)))
    return x + FINE * fine * grain[0] + COARSE * coarse * 3.0 * _averaged(grain[1])


def _averaged(x: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels; a third of the standard deviation, for noise."""
    return functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


@torch.no_grad()
def folded(net: Net) -> dict[str, np.ndarray]:
    """Each convolution and its batch norm as one matrix [C 9, out] and one bias."""
    weights = {}
    for name, layer in net.layers.items():
        norm = net.norms[name]
        mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        gain = norm.get_parameter("weight") / torch.sqrt(variance + EPS)
        weights[f"{name}.weight"] = (
            (layer.get_parameter("weight") * gain[:, None, None, None]).flatten(1).T
        )
        weights[f"{name}.bias"] = norm.get_parameter("bias") - mean * gain
    weights |= {"head.weight": net.head.weight.T, "head.bias": net.head.bias}
    return {name: np.ascontiguousarray(value.numpy()) for name, value in weights.items()}


def print_accuracy(
    classifier: style.StyleClassifier, images: np.ndarray, labels: np.ndarray
) -> None:
    """Print the accuracy and the confusion matrix: rows are true, columns are predicted."""
    predicted = classifier.probabilities(images).argmax(axis=1)
    confusion = np.zeros((style.CLASSES,) * 2, dtype=int)
    np.add.at(confusion, (labels, predicted), 1)
    print(f"{(predicted == labels).mean():.1%} of {len(images)} images of names never seen")
    for name, row in zip(style.STYLES, confusion, strict=True):
        print(f"{name:18}" + "".join(f"{count:5}" for count in row))


def print_redrawn_accuracy(
    classifier: style.StyleClassifier, images: np.ndarray, labels: np.ndarray, texts: list[str]
) -> None:
    """Print the accuracy on images that the model redrew, and the mode counts of known groups."""
    images = redrawn(images, texts)
    predicted, likeliest = (
        classifier.labels(images),
        classifier.probabilities(images).argmax(axis=1),
    )
    sure = predicted >= 0
    print(
        f"{(likeliest == labels).mean():.1%} of {len(images)} redrawn; sure of {sure.mean():.0%}, "
        f"and of those {(predicted == labels)[sure].mean():.1%} right"
    )
    generator = random.generator(KEY.at(step=7))
    for styles in range(1, style.CLASSES + 1):
        counts = []
        for _ in range(400):
            drawn = generator.permutation(style.CLASSES)[:styles]
            group = [
                generator.choice(np.flatnonzero(labels == drawn[i % styles])) for i in range(16)
            ]
            counts.append(mode_count(predicted[group], style.CLASSES))
        print(f"16 images of {styles} styles: {np.mean(counts):.1f} +- {np.std(counts):.1f} modes")


def redrawn(images: np.ndarray, texts: list[str]) -> np.ndarray:
    """Images with 40 % of noise mixed in and removed by the model: generated, of a known style."""
    backend, steps = backends.load("cpu"), 8
    policy = backend.policy(ModelConfig(), AdapterConfig(), seed=0)
    sigmas = np.linspace(REDRAWN, 0.0, steps + 1)
    out = []
    with backend.inference():
        for start in range(0, len(images), 100):
            clean = to_tensor(images[start : start + 100])
            z = random.normal(KEY.at(step=6, sample=start), clean.shape)
            x = (1 - REDRAWN) * clean + REDRAWN * torch.from_numpy(z)
            conditioning = policy.encode(texts[start : start + 100])
            for sigma, following in pairwise(sigmas):
                time = policy.embed_time(np.full(len(x), sigma))
                x = x + (following - sigma) * policy.predict(x, time, conditioning)
            out.append(policy.decode(x))
    return np.concatenate(out)


if __name__ == "__main__":
    main()
