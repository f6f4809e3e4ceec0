"""Adapters: methods that decide which parameters of a model are trained, one plug-in per file."""
