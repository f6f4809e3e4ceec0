"""Published methods by name: a strategy times a judge, one small TOML card each.

A card holds ``strategy``, ``judge``, ``paper`` and ``summary``. A pair without a card is asked for as
``strategy:judge``. This module knows names; what they stand for is in ``strategies`` and ``judges``.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rerank.errors import UnknownNameError
from rerank.judges import judges
from rerank.strategies import open_strategy, strategies

__all__ = ["Method", "describe_methods", "method_names", "open_method"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A strategy times a judge.

    Attributes:
        name: As after ``--method``.
        strategy: Name in the strategies' registry.
        judge: Name in the judges' registry.
        options: The strategy's options as they were written behind the name, e.g. ``size=10,stride=5``.
        paper: Where it was published; empty for a pair that nobody named.
        summary: One line on what it does.
    """

    name: str
    strategy: str
    judge: str
    options: str = ""
    paper: str = ""
    summary: str = ""

    @property
    def selector(self) -> str:
        """The strategy with its options, as `open_strategy` reads it."""
        return f"{self.strategy},{self.options}" if self.options else self.strategy


def method_names() -> list[str]:
    """The names that have a card, sorted."""
    return sorted(card.name.removesuffix(".toml") for card in files(__name__).iterdir() if card.name.endswith(".toml"))


def open_method(name: str) -> Method:
    """Find a method by its name, or by ``strategy:judge``; options of the strategy may follow, after a comma.

    >>> open_method("sliding,size=10,stride=5").selector
    'sliding,size=10,stride=5'

    Raises:
        UnknownNameError: There is none; the message suggests the nearest.
    """
    name, _, options = name.partition(",")
    if name in method_names():
        card = tomllib.loads((files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))
        return Method(name=name, options=options, **card)
    strategy, colon, judge = name.partition(":")
    if not colon:
        raise UnknownNameError("method", name, method_names())
    strategies.get(strategy)
    judges.get(judge)
    return Method(name=name, strategy=strategy, judge=judge, options=options)


def describe_methods() -> list[dict[str, Any]]:
    """A row for every card: name, strategy, judge, backends, calls for 100 documents, paper, summary."""
    rows = []
    for name in method_names():
        method = open_method(name)
        rows.append(
            {
                "name": name,
                "strategy": method.strategy,
                "judge": method.judge,
                "backends": judges.get(method.judge).backends,
                "calls_per_100": open_strategy(method.strategy).calls(100),
                "paper": method.paper,
                "summary": method.summary,
            }
        )
    return rows
