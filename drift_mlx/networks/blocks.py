"""What the denoisers share: recomputing blocks in the backward pass, and tracing their results."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.nn.utils import checkpoint

__all__ = ["Blocks", "Trace"]

Trace = dict[str, mx.array]
"""Results by the name that diffusers has for the part they are of, in order."""


class Blocks(nn.Module):
    """A network of blocks. checkpointing: their activations are recomputed for the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.checkpointing = False

    def run(self, block: Callable[..., Any], *arrays: mx.array) -> Any:
        """block(*arrays)."""
        if self.checkpointing and isinstance(block, nn.Module):
            return checkpoint(block)(*arrays)
        return block(*arrays)

    @staticmethod
    def keeper(trace: Trace | None) -> Callable[[str, mx.array], mx.array]:
        """A function that gives back its array, and puts it in the trace where there is one."""

        def keep(name: str, value: mx.array) -> mx.array:
            if trace is not None:
                trace[name] = value
            return value

        return keep
