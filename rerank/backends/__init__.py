"""Backends: what runs a model. One module or package per plug-in."""

from __future__ import annotations

from rerank.registry import Registry

__all__ = ["BACKENDS"]

BACKENDS = Registry("backends", "backend")
