"""Measures a CUDA GPU: speed, memory, parity, a study, a resumed run; `scripts/gpu_bench.sh`.

`rows.py` lists what is measured, most valuable first; `schedule.py` runs each row in a process of
its own within the time there is; the other files measure.
"""
