"""Comparison: runs grouped into methods, and what each gains over a baseline."""
