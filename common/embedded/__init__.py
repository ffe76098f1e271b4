"""The emoji model: what both backends share of it, with its weights and data beside this file."""
