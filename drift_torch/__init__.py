"""The PyTorch backend: CUDA and CPU. Each file has its twin of the same name in `drift_mlx`."""
