"""Optimizers of the research literature that few trainings need, one per file."""
