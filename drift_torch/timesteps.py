"""The time input of a denoiser: diffusers' sinusoid, but computed in float64."""

import math

import torch
from torch import Tensor, nn

__all__ = ["Sinusoid", "use_exact_sinusoids"]


class Sinusoid(nn.Module):
    """`common.arrays.sinusoid` on the device.

    diffusers computes the angle in float32, which puts it 5e-5 off at a timestep of 950.
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        """Timesteps [B] to features, float32 [B, width]."""
        J = self.width // 2
        j = torch.arange(J, dtype=torch.float64, device=t.device)
        angle = t.double()[:, None] * torch.exp(-math.log(1e4) * j / J)
        return torch.cat([angle.cos(), angle.sin()], dim=-1).float()


def use_exact_sinusoids(denoiser: nn.Module) -> None:
    """Replace each sinusoid of a denoiser of diffusers by the exact one."""
    for name, part in list(denoiser.named_modules()):
        parent, _, last = name.rpartition(".")
        if last == "time_proj":
            width = part.num_channels
            if not isinstance(width, int) or not part.flip_sin_to_cos or part.downscale_freq_shift:
                raise ValueError(f"{name} of the denoiser is no sinusoid that is known here")
            setattr(denoiser.get_submodule(parent), last, Sinusoid(width))
