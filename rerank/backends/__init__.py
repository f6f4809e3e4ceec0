"""Backends: what runs a model. One module or package per plug-in."""
