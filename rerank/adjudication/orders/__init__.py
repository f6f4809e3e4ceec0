"""Judging orders: which document of a pool is judged next. Orders without and with feedback share a module each."""

from typing import cast

from rerank.adjudication.orders.base import JudgingOrder, StaticOrder
from rerank.registry import Registry
from rerank.selector import build_from_selector

orders = Registry(
    "adjudication.orders",
    "judging order",
    shared={
        "adjudication.orders.fixed": "borda combmnz condorcet dcg depth docid llm ntcir random rbp_a rrf",
        "adjudication.orders.adaptive": "eps_n_greedy hedge mm mm_ns mtf mtf_global rbp_b rbp_c ts ucb1_tuned",
    },
)


def open_judging_order(selector: str) -> JudgingOrder:
    """Create a judging order from its selector, such as ``"mtf"``, ``"rbp-a,p=0.9"`` or ``"llm:reranked.trec"``."""
    return cast(JudgingOrder, build_from_selector(orders, selector))


def static_judging_orders() -> list[str]:
    """Return the names of the orders that do not depend on judgments."""
    found = {name.replace("_", "-"): orders.get(name) for name in orders.names()}
    return [name for name, order in found.items() if isinstance(order, type) and issubclass(order, StaticOrder)]
