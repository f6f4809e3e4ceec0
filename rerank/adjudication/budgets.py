"""Judging budgets: a number of documents per topic, a share of each topic's pool, or a total over all topics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rerank.adjudication.pools import Ints
from rerank.errors import UsageError

_FORM = re.compile(r"(?P<total>total:)?(?P<amount>\d+(?:\.\d+)?)(?P<share>%)?")
_EXPECTED = "10 (documents per topic), 10% (of each topic's pool, at most 100%) or total:5000 (over all topics)"


@dataclass(frozen=True, slots=True)
class AdjudicationBudget:
    """Limit on the number of documents to judge.

    Attributes:
        kind: ``topic`` limits the documents per topic, ``share`` the percentage of each topic's pool, and ``total`` the
            documents over all topics.
        amount: Number of documents; for ``share``, a percentage.
    """

    kind: Literal["topic", "share", "total"]
    amount: float

    def __post_init__(self) -> None:
        """Check that the amount is positive, whole for numbers of documents, and at most 100 for a percentage."""
        whole = self.kind == "share" or float(self.amount).is_integer()
        if not (whole and self.amount > 0) or (self.kind == "share" and self.amount > 100):
            raise UsageError(f"The budget {self} is invalid", expected=_EXPECTED)

    def __str__(self) -> str:
        """Return the budget in the form that `parse` accepts."""
        return {"topic": "{:.15g}", "share": "{:.15g}%", "total": "total:{:.15g}"}[self.kind].format(self.amount)

    @classmethod
    def parse(cls, text: str) -> AdjudicationBudget:
        """Parse ``10`` (per topic), ``10%`` (of each pool) or ``total:5000`` (over all topics).

        Raises:
            UsageError: The text has none of these forms.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None or (match["total"] and match["share"]):
            raise UsageError(f"{text!r} is not a budget", expected=_EXPECTED)
        kind: Literal["topic", "share", "total"] = "total" if match["total"] else "share" if match["share"] else "topic"
        return cls(kind, float(match["amount"]))

    def sizes(self, pools: Sequence[int]) -> Ints:
        """Return an array of shape (topics,): the number of documents to judge per topic.

        A share is rounded half to even, as Python's ``round`` does. A total is divided equally among topics. No topic
        gets more documents than its pool contains. The remainder is distributed in rounds of one document per topic, in
        the order of the topics (findTopicSizes of Lipani's PoolBiasEstimators).

        Args:
            pools: (topics,) sizes of the pools.
        """
        sizes = np.asarray(pools, dtype=np.int64)
        if self.kind == "share":
            return np.array([round(size * self.amount / 100) for size in pools], dtype=np.int64)
        if self.kind == "topic":
            return np.minimum(sizes, int(self.amount))
        # equal shares first; small pools leave a remainder, which is distributed in rounds
        remaining = min(int(self.amount), int(sizes.sum()))
        allocated = np.minimum(sizes, remaining // len(sizes))
        while remaining > allocated.sum():
            unfilled = np.flatnonzero(allocated < sizes)
            allocated[unfilled[: remaining - allocated.sum()]] += 1
        return allocated
