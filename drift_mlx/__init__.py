"""The MLX backend: Metal, CPU or CUDA. Each file has its twin of the same name in `drift_torch`.

MLX's Linux wheel multiplies matrices with reference BLAS, 25 times slower than OpenBLAS. Symbols
of a library that is already loaded globally win, so loading OpenBLAS before MLX is enough. Recent
Apple and NVIDIA GPUs would multiply in TF32, a thousand times less exact: it is off unless asked
for in the environment, which MLX reads when it loads.
"""

import ctypes
import os
import sys
from contextlib import suppress

OPENBLAS = "libopenblas.so.0"

os.environ.setdefault("MLX_ENABLE_TF32", "0")
if sys.platform == "linux" and "mlx.core" not in sys.modules:
    with suppress(OSError):  # not installed: `Backend.advice` says so
        ctypes.CDLL(OPENBLAS, mode=ctypes.RTLD_GLOBAL)
