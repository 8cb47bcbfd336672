"""Experiments: one file each, with its data, loss, metrics and picture."""
