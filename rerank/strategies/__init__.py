"""Ways of choosing which windows of a ranking are judged: one a file, opened by name."""

from __future__ import annotations

from typing import cast

from rerank.pipeline.passages import Passages
from rerank.registry import Registry
from rerank.selector import build
from rerank.strategies.base import Strategy

__all__ = ["Passages", "Strategy", "open_strategy", "strategies"]

strategies = Registry("strategies", "strategy")


def open_strategy(selector: str) -> Strategy:
    """Make a strategy from its selector, e.g. ``"full"`` or ``"sliding,size=10,stride=5"``."""
    return cast(Strategy, build(strategies, selector))
