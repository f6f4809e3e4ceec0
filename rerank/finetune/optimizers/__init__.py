"""Optimizers for training. Each module defines one optimizer as a plug-in."""
