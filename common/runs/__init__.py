"""Runs on disk: the directory of one, its checkpoints and logs, and files that are written whole."""
