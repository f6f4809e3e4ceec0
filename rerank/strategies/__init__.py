"""Strategies decide which windows of a ranking are judged; they are opened by name."""

from typing import cast

from rerank.registry import Registry
from rerank.selector import Selector, build_from_selector
from rerank.strategies.base import Strategy

__all__ = ["Strategy", "open_strategy", "strategies"]

strategies = Registry(
    "strategies",
    "strategy",
    shared={
        "strategies.sliding": "full multipass sliding top_down",
        "strategies.setwise": "all_pairs bubblesort heapsort",
        "strategies.tournament": "tournament tournament_graph tournament_sort",
    },
)


def open_strategy(selector: str | Selector) -> Strategy:
    """Build a strategy from its selector, such as ``"full"`` or ``"sliding,size=10,stride=5"``.

    Raises:
        UnknownNameError: No strategy or option has this name.
        UsageError: The value of an option is invalid.
    """
    return cast(Strategy, build_from_selector(strategies, selector))
