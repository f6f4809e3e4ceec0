"""Adapters: methods that decide which parameters of a model are trained. Each module defines one plug-in."""
