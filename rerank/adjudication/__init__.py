"""How judgments are made: pools, orders of judging, budgets, and what cheaper judgments do to conclusions."""

from __future__ import annotations

from rerank.adjudication.agreement import Agreement
from rerank.adjudication.budgets import Budget
from rerank.adjudication.categories import Categories
from rerank.adjudication.comparing import Conclusions, compare_qrels
from rerank.adjudication.ordering import Ordering, open_order, walk
from rerank.adjudication.pools import Pool, pool
from rerank.adjudication.results import Study
from rerank.adjudication.studies import Design, study
from rerank.adjudication.verdicts import Procedure, crossed

__all__ = [
    "Agreement",
    "Budget",
    "Categories",
    "Conclusions",
    "Design",
    "Ordering",
    "Pool",
    "Procedure",
    "Study",
    "compare_qrels",
    "crossed",
    "open_order",
    "pool",
    "study",
    "walk",
]
