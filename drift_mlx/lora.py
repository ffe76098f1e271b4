"""Low-rank adapters on linear layers, with PEFT's mathematics and PEFT's names.

mlx-lm has such a layer too; importing it takes seconds (it loads transformers) and it stores the
transposed matrices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from common import adapter
from common.config import AdapterConfig

__all__ = ["LoRALinear", "attach", "disabled", "trainable"]


class LoRALinear(nn.Module):
    """y = W x + b + (alpha / r) B A x, with W and b frozen; `enabled = False` leaves y = W x + b.

    lora_A.weight: [r, in]; lora_B.weight: [out, r]. Computed as one product with the merged weight
    W + (alpha / r) B A: a quarter faster than PEFT's three, and equal to it up to float32 rounding.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        out, width = base.weight.shape
        self.base = base
        self.lora_A = nn.Linear(width, rank, bias=False)
        self.lora_B = nn.Linear(rank, out, bias=False)
        self.scale = alpha / rank
        self.enabled = True

    def __call__(self, x: mx.array) -> mx.array:
        """Map x [..., in] to [..., out]."""
        if not self.enabled:
            return self.base(x)
        weight = self.base.weight + self.scale * (self.lora_B.weight @ self.lora_A.weight)
        return mx.addmm(self.base.bias, x, weight.T) if "bias" in self.base else x @ weight.T


def attach(module: nn.Module, config: AdapterConfig, *, seed: int) -> None:
    """Freeze `module` and put an adapter on each targeted linear, initialised from the seed.

    Raises ValueError naming a target that matches no linear.
    """
    linears = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    names = adapter.targets(linears, config)
    module.freeze()
    adapted = {name: LoRALinear(linears[name], config.rank, config.alpha) for name in names}
    module.update_modules(tree_unflatten(list(adapted.items())))
    shapes = {
        name: (linears[name].weight.shape[0], linears[name].weight.shape[1]) for name in names
    }
    values = adapter.initial(shapes, config, seed)
    module.load_weights([(name, mx.array(v)) for name, v in values.items()], strict=False)


@contextmanager
def disabled(module: nn.Module) -> Iterator[None]:
    """Within it, every adapter in `module` is off."""
    adapters = [part for part in module.modules() if isinstance(part, LoRALinear)]
    before = [part.enabled for part in adapters]
    try:
        for part in adapters:
            part.enabled = False
        yield
    finally:
        for part, enabled in zip(adapters, before, strict=True):
            part.enabled = enabled


def trainable(module: nn.Module) -> dict[str, mx.array]:
    """The trainable arrays as they are now, sorted by name."""
    flat: Any = tree_flatten(module.trainable_parameters())
    return dict(sorted(flat))
