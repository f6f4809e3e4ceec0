"""How many documents are judged: so many a topic, a share of each topic's pool, or so many over all topics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rerank.adjudication.pools import Ints
from rerank.errors import UsageError

_FORM = re.compile(r"(?P<total>total:)?(?P<amount>\d+(?:\.\d+)?)(?P<share>%)?")
_EXPECTED = "10 (documents a topic), 10% (of each topic's pool; at most 100%) or total:5000 (documents over all topics)"


@dataclass(frozen=True, slots=True)
class Budget:
    """An amount of judging.

    Attributes:
        kind: Whether it is for each topic, a share of each pool, or for all topics together.
        amount: Documents, or per cent.
    """

    kind: Literal["topic", "share", "total"]
    amount: float

    def __post_init__(self) -> None:
        """Check the invariants."""
        whole = self.kind == "share" or float(self.amount).is_integer()
        if not (whole and self.amount > 0) or (self.kind == "share" and self.amount > 100):
            raise UsageError(f"A budget of {self}", expected=_EXPECTED)

    def __str__(self) -> str:
        """As it is written."""
        return {"topic": "{:.15g}", "share": "{:.15g}%", "total": "total:{:.15g}"}[self.kind].format(self.amount)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``10``, ``10%`` or ``total:5000``.

        Raises:
            UsageError: It is none of them.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None or (found["total"] and found["share"]):
            raise UsageError(f"{text!r} is no budget", expected=_EXPECTED)
        kind: Literal["topic", "share", "total"] = "total" if found["total"] else "share" if found["share"] else "topic"
        return cls(kind, float(found["amount"]))

    def sizes(self, pools: Sequence[int]) -> Ints:
        """How many documents of each topic are judged.

        A share is that of the topic's pool, rounded as Python rounds (half to even). A total gives every topic the
        same, as far as its pool goes; what is left over goes round, one a topic, in the topics' order, until it is
        spent (findTopicSizes of Lipani's PoolBiasEstimators).

        Args:
            pools: (topics,) their sizes.
        """
        sizes = np.asarray(pools, dtype=np.int64)
        if self.kind == "share":
            return np.array([round(size * self.amount / 100) for size in pools], dtype=np.int64)
        if self.kind == "topic":
            return np.minimum(sizes, int(self.amount))
        left = min(int(self.amount), int(sizes.sum()))
        given = np.minimum(sizes, left // len(sizes))
        while left > given.sum():
            open_ = np.flatnonzero(given < sizes)
            given[open_[: left - given.sum()]] += 1
        return given
