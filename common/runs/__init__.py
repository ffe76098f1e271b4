"""Runs on disk: directories, checkpoints, logs, and files that are written whole."""
