"""Optimizers: one a file, opened by name."""
