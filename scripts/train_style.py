"""Train the classifier of drawing styles that counts the modes which a prompt's images cover.

    python scripts/train_style.py [--out common/embedded/style.safetensors]    trains, then tells
    python scripts/train_style.py --table                                      tells of the file

About two minutes on two CPU cores. The images are split by name: a fifth of the names, those of
the prompt splits validation and test, are never trained on, and the accuracy is on them.
TABLE_GOES_HERE
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor, nn
from torch.nn import functional

from common import files, noise
from common.config import PromptsConfig
from common.embedded.model import FOLDER
from common.noise import NoiseKey, Purpose
from common.prompts import load as load_prompts, split
from common.study import style

WIDTH, EPOCHS, BATCH, RATE, DECAY = 16, 25, 64, 4e-3, 1e-2
DROPOUT, SMOOTHING, NOISE, SHIFT, EPS = 0.4, 0.05, 0.03, 1, 1e-5
SIZES = {
    "a": (3, WIDTH),
    "b": (WIDTH, 2 * WIDTH),
    "c": (2 * WIDTH,) * 2,
    "d": (2 * WIDTH, 4 * WIDTH),
}
KEY = NoiseKey(seed=7, purpose=Purpose.DATA)


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
                    key = KEY.at(prompt=noise.address(name))
                    draw = torch.from_numpy(noise.normal(key, parameter.shape))
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
    """Train and tell, or only tell."""
    parser = argparse.ArgumentParser(description="Train the style classifier.")
    parser.add_argument("--out", type=Path, default=style.WEIGHTS)
    parser.add_argument("--table", action="store_true", help="only measure the file")
    arguments = parser.parse_args()
    images, labels, held_out = data()
    if not arguments.table:
        weights = train(images[~held_out], labels[~held_out])
        files.write_whole(arguments.out, save(weights))
        print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")
    tell(style.load(arguments.out), images[held_out], labels[held_out])


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3], styles int64 [N], and whether the name is held out [N]."""
    texts = {prompt.id: prompt.text for prompt in load_prompts(PromptsConfig())}
    with np.load(FOLDER / "emoji32.npz") as found:
        held_out = np.array([split(texts[int(i)]) != "train" for i in found["name_index"]])
        return found["images"], found["style_index"].astype(np.int64), held_out


def train(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Weights as `StyleClassifier` reads them."""
    statistics = style.statistics(images)
    mean, std = statistics.mean(0), statistics.std(0) + np.float32(1e-3)
    S = torch.from_numpy(np.clip((statistics - mean) / std, -style.LIMIT, style.LIMIT))
    X = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    Y = torch.from_numpy(labels)
    net = Net(S.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * (len(X) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps + 1, pct_start=0.2
    )
    for step in range(steps):
        epoch, position = divmod(step, len(X) // BATCH)
        order = noise.permutation(KEY.at(update=epoch, step=1), len(X))
        chosen = torch.from_numpy(order[position * BATCH : (position + 1) * BATCH])
        x = augmented(X[chosen], KEY.at(update=step))
        kept = noise.uniform(KEY.at(update=step, step=2), (BATCH, net.head.in_features)) >= DROPOUT
        keep = torch.from_numpy(kept.astype(np.float32)) / (1.0 - DROPOUT)
        logits = net(x.contiguous(memory_format=torch.channels_last), S[chosen], keep)
        loss = functional.cross_entropy(logits, Y[chosen], label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if position == 0:
            print(f"epoch {epoch}  loss {loss.item():.3f}", flush=True)
    return folded(net) | {"statistics.mean": mean, "statistics.std": std}


def augmented(x: Tensor, key: NoiseKey) -> Tensor:
    """Half of the images mirrored, all moved by at most a pixel, with a little noise."""
    draws = noise.uniform(key.at(step=3), (len(x), 2)).astype(np.float32)
    mirror, strength = torch.from_numpy(draws)[:, :, None, None, None].unbind(1)
    x = torch.where(mirror < 0.5, x.flip(3), x)
    x = x + NOISE * strength * torch.from_numpy(noise.normal(key.at(step=4), x.shape))
    by = noise.generator(key.at(step=5)).integers(-SHIFT, SHIFT + 1, 2)
    return torch.roll(x, (int(by[0]), int(by[1])), (2, 3))


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


def tell(classifier: style.StyleClassifier, images: np.ndarray, labels: np.ndarray) -> None:
    """Print the accuracy and the confusion matrix: rows are true, columns are told."""
    told = classifier.labels(images)
    confusion = np.zeros((style.CLASSES,) * 2, dtype=int)
    np.add.at(confusion, (labels, told), 1)
    print(f"{(told == labels).mean():.1%} of {len(images)} images of names never seen")
    for name, row in zip(style.STYLES, confusion, strict=True):
        print(f"{name:18}" + "".join(f"{count:5}" for count in row))


if __name__ == "__main__":
    main()
