"""How fast the device multiplies matrices and copies memory: what other rows are compared with."""

import time
from collections.abc import Callable
from typing import Any

import torch

from scripts.gpu_bench.context import Context, spread

__all__ = ["rates"]


def rates(context: Context) -> dict[str, Any]:
    """Operations a second of square products by type, and bytes a second of copies.

    float32 is without TF32, as the toolkit computes it; "float32, TF32" is what it gives up.
    """
    device = torch.device("cuda" if context.backend == "cuda" else "cpu")
    side = context.pick(8192, 4096, 256)
    figures: dict[str, Any] = {"side": side, "products": {}, "copies": {}}
    kinds = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    if device.type == "cuda":
        kinds["float16"] = torch.float16
    torch.set_float32_matmul_precision("highest")
    for name, kind in kinds.items():
        figures["products"][name] = _product(side, kind, device, context)
        context.keep(figures)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        figures["products"]["float32, TF32"] = _product(side, torch.float32, device, context)
        torch.set_float32_matmul_precision("highest")
    size = context.pick(4 << 30, 1 << 30, 1 << 20)
    figures["bytes"] = size
    for name, rate in _copies(size, device, context).items():
        figures["copies"][name] = rate
    return figures


def _product(side: int, kind: torch.dtype, device: torch.device, context: Context) -> Any:
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    out = torch.empty_like(a)
    return _rate(lambda: torch.mm(a, b, out=out), 2 * side**3, device, context)


def _copies(size: int, device: torch.device, context: Context) -> dict[str, Any]:
    """On the device, counting bytes read and written; and from and to the host, pinned or not."""
    a = torch.zeros(size, dtype=torch.uint8, device=device)
    b = torch.zeros_like(a)
    copies = {"on the device": _rate(lambda: b.copy_(a), 2 * size, device, context)}
    if device.type == "cuda":
        part = a[: size // 4]
        for name, pinned in (("pageable", False), ("pinned", True)):
            host = torch.zeros(size // 4, dtype=torch.uint8, pin_memory=pinned)
            to = _rate(lambda host=host: part.copy_(host), size // 4, device, context)
            back = _rate(lambda host=host: host.copy_(part), size // 4, device, context)
            copies |= {f"to the device, {name}": to, f"from the device, {name}": back}
    return copies


def _rate(
    work: Callable[[], Any], amount: int, device: torch.device, context: Context
) -> dict[str, float]:
    """Operations or bytes a second, by several repeats of at least some tens of milliseconds."""

    def seconds(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds(2)  # warm-up
    count = max(1, int(context.pick(0.1, 0.03, 0.01) / max(seconds(1), 1e-6)))
    return spread([amount * count / seconds(count) for _ in range(context.pick(5, 3, 3))])
