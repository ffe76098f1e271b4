"""The same work on several backends, and how far each is from float64: what `drift parity` runs."""

from common.parity.compare import Progress, StageResult, compare

__all__ = ["Progress", "StageResult", "compare"]
