"""The MLX backend: Metal, CPU or CUDA. Each file has its twin of the same name in `drift_torch`."""
