"""Experiments: one file each, data only."""
