"""Backends, which run models. Each plug-in is one module or package."""

from __future__ import annotations

from rerank.registry import Registry

__all__ = ["BACKENDS"]

BACKENDS = Registry("backends", "backend")
