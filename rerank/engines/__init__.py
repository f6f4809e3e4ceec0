"""Engines, which compute the rankings of a run in this process or in others.

Each module or sub-package defines one engine.
"""

from __future__ import annotations

from typing import Any

from rerank.engines.base import Engine, RankingJob
from rerank.errors import UsageError
from rerank.registry import Registry
from rerank.selector import Selector, build_from_selector

__all__ = ["ENGINES", "Engine", "RankingJob", "open_engine"]

ENGINES = Registry("engines", "engine")


def open_engine(selector: str, **options: Any) -> Engine:
    """Build the engine that a selector names.

    Args:
        selector: The selector, such as ``local`` or ``ray:HOST:PORT``.
        options: Options of the engine that are set by separate command-line flags; None counts as not given.
    """
    given = {name: value for name, value in options.items() if value is not None}
    parsed = Selector.parse(selector)
    if given and parsed.name == "local":
        raise UsageError(
            f"--{next(iter(given)).replace('_', '-')} cannot be used with --engine local",
            expected="an engine with several workers",
            remedy="Add --engine ray, or omit the option",
        )
    engine: Engine = build_from_selector(ENGINES, parsed, **given)
    return engine
