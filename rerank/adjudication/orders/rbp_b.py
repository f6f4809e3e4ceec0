"""Weights of rank-biased precision, favouring runs with large residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base.rank_biased import ResidualOrder
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class RbpB(ResidualOrder):
    """score(d) = sum over runs of w resid; resid = 1 - sum of w over the judged documents of the run.

    Source: method B of Moffat, Webber and Zobel, Strategic system comparisons via targeted relevance judgments, 2007.
    """

    title: ClassVar[str] = "RBP, by residual"

    def worth(self, base: Floats, residual: Floats) -> Floats:
        """Return the residual of each run, (runs,)."""
        return residual
