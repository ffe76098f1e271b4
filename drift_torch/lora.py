"""Low-rank adapters on linear layers, with PEFT's mathematics and PEFT's names."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.adapters import low_rank
from common.config import AdapterConfig

__all__ = ["LoRALinear", "MixedLoRALinear", "attach", "trainable"]


class LoRALinear(nn.Module):
    """y = W x + b + (alpha / r) B A x, with W and b frozen; `enabled = False` leaves y = W x + b.

    lora_A.weight: [r, in]; lora_B.weight: [out, r]. Computed as one product with the merged weight
    W + (alpha / r) B A: a quarter faster than PEFT's three, and equal to it up to float32 rounding.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        like = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.base = base
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, **like)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, **like)
        self.scale = alpha / rank
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to [..., out]."""
        if not self.enabled:
            return self.base(x)
        weight = self.base.weight + self.scale * (self.lora_B.weight @ self.lora_A.weight)
        return functional.linear(x, weight, self.base.bias)


class MixedLoRALinear(LoRALinear):
    """y = W x + b + (alpha / r) B (A x), with A and B in float32 whatever W's type is.

    The products are computed in the type of x, as under autocast: in float32 they would need
    their own float32 copy of every activation, and take longer than the layers they adapt. A and
    B, their gradients and their optimizer state keep all digits. Never holds a merged weight.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__(base, rank, alpha)
        self.lora_A.to(torch.float32)
        self.lora_B.to(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to [..., out]."""
        y = self.base(x)
        if not self.enabled:
            return y
        a, b = self.lora_A.weight.to(x.dtype), self.lora_B.weight.to(x.dtype)
        return y + self.scale * functional.linear(functional.linear(x, a), b)


def attach(
    module: nn.Module,
    config: AdapterConfig,
    *,
    seed: int,
    linear: type[LoRALinear] = LoRALinear,
) -> None:
    """Freeze `module` and put an adapter on each targeted linear, initialised from the seed.

    linear: how an adapted layer is computed. Raises ValueError naming a target that
    matches no linear.
    """
    linears = {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    names = low_rank.targets(linears, config)
    module.requires_grad_(False)
    for name in names:
        parent, _, last = name.rpartition(".")
        adapted = linear(linears[name], config.rank, config.alpha)
        setattr(module.get_submodule(parent), last, adapted)
    shapes = {name: (linears[name].out_features, linears[name].in_features) for name in names}
    parameters = trainable(module)
    with torch.no_grad():
        for name, value in low_rank.initial(shapes, config, seed).items():
            parameters[name].copy_(torch.from_numpy(value))


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The live trainable parameters, sorted by name."""
    return dict(sorted((n, p) for n, p in module.named_parameters() if p.requires_grad))
