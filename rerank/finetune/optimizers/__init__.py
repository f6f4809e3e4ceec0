"""Optimizers, one plug-in per file."""
