"""Sweeps: many runs planned, run as processes, and shown."""
