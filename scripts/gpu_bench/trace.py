"""A profile of one update of SD 3.5 medium, small enough to send: open it at ui.perfetto.dev."""

import gzip
import json
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from scripts.gpu_bench.context import Context
from scripts.gpu_bench.models import configured, reset_peak_memory, trained

__all__ = ["trace"]

MOST = 16_000_000
"""Bytes of a compressed trace."""

PARTS = (
    None,
    {"kernel", "gpu_memcpy", "gpu_memset", "user_annotation", "cpu_op"},
    {"kernel", "gpu_memcpy", "gpu_memset"},
)
"""Categories of events to keep, tried in order until the trace is small enough."""

TOP = 20


def trace(context: Context) -> dict[str, Any]:
    """Record one update of the fast recipe after a warm-up; the kernels that took longest."""
    config = configured(context, "sd35m-fast-grpo")
    cuda = context.backend == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with trained(context, config) as trainer:
        trainer.step()
        reset_peak_memory(context)
        with profile(activities=activities) as record:
            row = trainer.step()
            reset_peak_memory(context)
    path = context.folder / f"{context.name}.json.gz"
    kept = shrink(record, path)
    return {
        "recipe": "sd35m-fast-grpo",
        "update_s": row["seconds"],
        "bytes": path.stat().st_size,
        "kept": kept,
        "busy_s": _busy(path) if cuda else None,
        "top": _top(record, cuda),
    }


def shrink(record: Any, path: Path, most: int = MOST) -> str:
    """Write the trace with as many kinds of events as fit; returns which they are."""
    whole = path.with_suffix(".whole.json")
    record.export_chrome_trace(str(whole))
    content = json.loads(whole.read_bytes())
    whole.unlink()
    for kinds in PARTS:
        events = [e for e in content["traceEvents"] if not kinds or e.get("cat") in kinds]
        data = json.dumps(content | {"traceEvents": events}, separators=(",", ":")).encode()
        path.write_bytes(gzip.compress(data, 6))
        if path.stat().st_size <= most:
            return "everything" if kinds is None else ", ".join(sorted(kinds))
    size = path.stat().st_size
    path.unlink()
    raise RuntimeError(f"even the kernels alone take {size / 1e6:.0f} MB, above {most / 1e6:.0f}")


def _busy(path: Path) -> float:
    """Seconds in which the card ran a kernel, overlaps counted once."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    spans = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("cat") == "kernel"
    )
    total, end = 0.0, float("-inf")
    for start, stop in spans:
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total / 1e6


def _top(record: Any, cuda: bool) -> list[dict[str, Any]]:
    """The operations that took longest by themselves."""

    def own(event: Any) -> float:
        return event.self_device_time_total if cuda else event.self_cpu_time_total

    events = sorted(record.key_averages(), key=own, reverse=True)
    total = sum(own(event) for event in events) or 1.0
    return [
        {"name": event.key[:120], "calls": event.count, "share": own(event) / total}
        for event in events[:TOP]
    ]
