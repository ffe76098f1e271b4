"""Pretrain the emoji model: the flow denoiser and the two image-text scorers, in PyTorch.

    python scripts/pretrain_emoji.py denoiser --device cuda --out FOLDER
    python scripts/pretrain_emoji.py train    --device cuda --out FOLDER
    python scripts/pretrain_emoji.py heldout  --device cuda --out FOLDER
    python scripts/pretrain_emoji.py table   [--out FOLDER]     quality, beside the shipped weights

Every batch is drawn from a key, so a stopped run continues from its last save and ends with the
same weights. The weights in the package are the reference: the denoiser had about 66,000 steps of
batch 512 (13 minutes on one H100). The other settings of their training are not recorded, so those
below are this script's own and do not reproduce the same bits; a full-length run of this script has
not been measured. `table` measures both in the same way.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common import config, random
from common.embedded import model as shared
from common.embedded.model import DenoiserConfig
from common.evaluation.emoji_measures import ALIGNMENT_SCALE
from common.random import Key, Purpose
from common.runs import files
from common.sampling.ode import sample_images
from common.sampling.process import FlowProcess
from drift_torch import backend as torch_backend
from drift_torch.embedded import Denoiser, EmbeddedPolicy, EmbeddedScorer, ImageText

NULL_SHARE = 0.1
SHIFT = 2


@dataclass(frozen=True)
class Settings:
    """The settings that determine every number of a run; a resumed run must have the same."""

    part: str
    steps: int
    batch: int = 512
    rate: float = 1e-3
    average: float = 0.9995
    seed: int = 0


DEFAULTS = {
    "denoiser": Settings("denoiser", steps=66_000),
    "train": Settings("train", steps=6_000, average=0.998, seed=1),
    "heldout": Settings("heldout", steps=6_000, average=0.998, seed=2),
}

Loss = Callable[..., Tensor]
"""(module, data, key, batch) -> mean loss of the batch that the key draws."""


@dataclass(frozen=True)
class Data:
    """images: [N, 3, 32, 32] in [-1, 1]. labels: [N] into tokens [names, 6]. held_out: bool [N]."""

    images: Tensor
    labels: Tensor
    tokens: Tensor
    held_out: np.ndarray

    @classmethod
    def load(cls, device: torch.device) -> "Data":
        """The shipped images; the held-out tenth was never used to train the shipped scorers."""
        names = json.loads((shared.FOLDER / "names.json").read_text(encoding="utf-8"))["names"]
        with np.load(shared.FOLDER / "emoji32.npz") as file:
            images, drawn = shared.from_images(file["images"]), file["name_index"]
        used, labels = np.unique(drawn, return_inverse=True)
        tokens = shared.tokenize([names[i] for i in used], DenoiserConfig())
        uniform = torch.rand(len(images), generator=torch.Generator().manual_seed(5))
        tensors = (torch.tensor(values, device=device) for values in (images, labels, tokens))
        return cls(*tensors, held_out=(uniform < 0.1).numpy())


def flow_loss(module: Denoiser, data: Data, key: Key, batch: int) -> Tensor:
    """Mean of (v(x_t, t, c) - (z - x0))^2 at x_t = (1 - t) x0 + t z; t uniform, some c null."""
    rng, device = random.generator(key), data.images.device
    rows = torch.from_numpy(rng.integers(len(data.images), size=batch)).to(device)
    t = rng.random(batch)
    is_null = torch.from_numpy(rng.random(batch) < NULL_SHARE).to(device)
    z = torch.from_numpy(rng.standard_normal((batch, *module.config.latent_shape), np.float32))
    x0, z = data.images[rows], z.to(device)
    null = torch.from_numpy(shared.null_tokens(1, module.config)).to(device)
    tokens = torch.where(is_null[:, None], null, data.tokens[data.labels[rows]])
    level = torch.tensor(t, dtype=torch.float32, device=device)[:, None, None, None]
    features = shared.time_features(t, module.config).astype(np.float32)
    time = torch.from_numpy(features).to(device)
    velocity = module((1 - level) * x0 + level * z, time, module.encode(tokens))
    return functional.mse_loss(velocity, z - x0)


def contrastive_loss(module: ImageText, data: Data, key: Key, batch: int) -> Tensor:
    """Symmetric InfoNCE (CLIP) on shifted images; those of one name share the target evenly."""
    rng, device = random.generator(key), data.images.device
    pool = np.flatnonzero(~data.held_out)
    rows = torch.from_numpy(pool[rng.integers(len(pool), size=batch)]).to(device)
    dy, dx = torch.from_numpy(rng.integers(2 * SHIFT + 1, size=(2, batch))).to(device)
    padded = functional.pad(data.images[rows], (SHIFT,) * 4, value=1.0)
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1)
    shifted = windows[torch.arange(batch, device=device), :, dy, dx]
    labels = data.labels[rows]
    logits = module.ls.exp() * cosines(module, shifted, data.tokens[labels])
    same = (labels[:, None] == labels).to(logits.dtype)
    target = same / same.sum(1)  # symmetric, so it serves both directions
    rows_loss = functional.cross_entropy(logits, target)
    return (rows_loss + functional.cross_entropy(logits.T, target)) / 2


def cosines(module: ImageText, images: Tensor, tokens: Tensor) -> Tensor:
    """Cosine of every image with every text: [B, M]."""
    image, text = module.head(module.features(images)), module.text(tokens)
    return functional.normalize(image, dim=-1) @ functional.normalize(text, dim=-1).T


def make(part: str, seed: int) -> tuple[nn.Module, Loss]:
    """A fresh module, the same for the same seed, and the loss that trains it."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if part != "denoiser":
            scorer = ImageText(shared.scorer_config(part))
            scorer.ls.fill_(math.log(1 / 0.07))  # CLIP's first temperature
            return scorer, contrastive_loss
        denoiser = Denoiser(DenoiserConfig())
        for layer in (denoiser.adal, denoiser.ada, denoiser.out):  # adaLN-Zero (DiT)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(denoiser.pos, std=0.02)
        return denoiser, flow_loss


def fit(
    module: nn.Module, loss: Loss, data: Data, settings: Settings, state: Path, *, every: int
) -> Iterator[Tensor]:
    """Train from the saved `state`; yields the loss of each step and saves every few steps.

    Raises ValueError when `state` belongs to a run with other settings.
    """
    module.to(data.images.device)
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(settings.average))
    optimizer = torch.optim.AdamW(module.parameters(), lr=settings.rate, weight_decay=0.01)
    done = _restore(state, module, average, optimizer, settings) if state.exists() else 0
    key = Key(settings.seed, Purpose.DATA, prompt=list(DEFAULTS).index(settings.part))
    for step in range(done, settings.steps):
        warm = min(1.0, (step + 1) / max(1, settings.steps // 50))
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * warm * (1 + math.cos(math.pi * step / settings.steps)) / 2
        value = loss(module, data, key.at(update=step), settings.batch)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        average.update_parameters(module)
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            _save(state, module, average, optimizer, settings, step + 1)
        yield value.detach()


@torch.no_grad()
def table(folder: Path, backend: torch_backend.Backend) -> dict[str, float]:
    """Quality of the weights in a folder; the shipped ones replace missing files."""
    own = {part: folder / _file(part) for part in DEFAULTS}
    paths = {part: p if p.exists() else shared.FOLDER / p.name for part, p in own.items()}
    data, result = Data.load(backend.device), {}
    run = config.load("emoji", ["adapter.kind=full", f"model.path={paths['denoiser']}"])
    policy = EmbeddedPolicy(
        run.model, run.adapter, seed=0, device=backend.device, dtype=torch.float32
    )
    keys = [Key(0, Purpose.DATA, prompt=len(DEFAULTS), update=i) for i in range(4)]
    losses = [flow_loss(policy.module, data, key, 512) for key in keys]
    result["flow loss"] = float(torch.stack(losses).mean())
    process = FlowProcess.from_config(run.rollout, run.evaluate.steps)
    texts, count = list(run.prompts.names), run.evaluate.images
    images = sample_images(policy, backend, process, texts, count, seed=0, batch_size=128)
    images = images.reshape(-1, *images.shape[2:])
    prompts = [text for text in texts for _ in range(count)]
    unseen = torch.from_numpy(np.flatnonzero(data.held_out)).to(backend.device)
    for part in shared.SCORERS:
        scorer = EmbeddedScorer(part, device=backend.device, dtype=torch.float32)
        safetensors.torch.load_model(scorer.module, paths[part])
        predicted = cosines(scorer.module, data.images[unseen], data.tokens).argmax(1)
        right = (predicted == data.labels[unseen]).float()
        result[f"{part}: top-1 on held-out images"] = float(right.mean())
        aligned = ALIGNMENT_SCALE * scorer.score(images, prompts).mean()
        result[f"{part}: {ALIGNMENT_SCALE:g} x cosine of samples"] = float(aligned)
    return result


def main() -> None:
    """Train one part, then print the table; or only print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("part", choices=[*DEFAULTS, "table"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, default=shared.FOLDER, help="folder of the weights")
    parser.add_argument("--every", type=int, default=1000, help="steps between two saves")
    for name in ("steps", "batch", "seed"):
        parser.add_argument(f"--{name}", type=int, help=f"{name} of the run")
    arguments = parser.parse_args()
    backend = torch_backend.Backend(arguments.device, torch.device(arguments.device), "float32")
    if arguments.part != "table":
        if arguments.out.resolve() == shared.FOLDER.resolve():
            parser.error("--out FOLDER is needed: training does not overwrite the shipped weights")
        arguments.out.mkdir(parents=True, exist_ok=True)
        given = {name: getattr(arguments, name) for name in ("steps", "batch", "seed")}
        given = {name: value for name, value in given.items() if value is not None}
        train(replace(DEFAULTS[arguments.part], **given), arguments.out, backend, arguments.every)
    for name, number in table(arguments.out, backend).items():
        print(f"{name:36} {number:.4f}")


def train(settings: Settings, out: Path, backend: torch_backend.Backend, every: int) -> None:
    """Train a part to its end, print the mean loss from time to time, and write its weights."""
    state = out / f"{settings.part}.state.safetensors"
    module, loss = make(settings.part, settings.seed)
    recent: list[Tensor] = []
    for value in fit(module, loss, Data.load(backend.device), settings, state, every=every):
        recent.append(value)
        if len(recent) == max(1, min(100, settings.steps // 10)):
            print(f"loss {float(torch.stack(recent).mean()):.4f}", flush=True)
            recent.clear()
    _export(state, out / _file(settings.part))


def _save(
    state: Path,
    module: nn.Module,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    done: int,
) -> None:
    tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in values.items()}
    metadata = {"settings": json.dumps(asdict(settings)), "done": str(done)}
    whole = {name: value.contiguous() for name, value in tensors.items()}
    files.write_whole(state, safetensors.torch.save(whole, metadata))


def _restore(
    state: Path,
    module: nn.Module,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
) -> int:
    with safe_open(state, "pt") as file:
        metadata = file.metadata()
    before = json.loads(metadata["settings"])
    if before != asdict(settings):
        raise ValueError(f"{state} belongs to a run with other settings: {before}")
    module.load_state_dict(_under(state, "module/"))
    average.load_state_dict(_under(state, "average/"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(state, "optimizer/").items():
        index, _, key = name.partition("/")
        moments.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return int(metadata["done"])


def _export(state: Path, path: Path) -> None:
    """Write the averaged weights alone, under the names of the shipped files."""
    weights = _under(state, "average/module.")
    files.write_whole(path, safetensors.torch.save(weights))


def _under(state: Path, prefix: str) -> dict[str, Tensor]:
    tensors = safetensors.torch.load_file(state)
    return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}


def _file(part: str) -> str:
    return "denoiser.safetensors" if part == "denoiser" else f"scorer_{part}.safetensors"


if __name__ == "__main__":
    main()
