"""Weights of rank-biased precision, favouring runs that may be the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base.rank_biased import ResidualOrder
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class RbpC(ResidualOrder):
    """score(d) = sum over runs of w resid (base + resid / 2)^3; base = sum of w over the relevant documents of the run.

    Source: method C of Moffat, Webber and Zobel, Strategic system comparisons via targeted relevance judgments, 2007.
    """

    title: ClassVar[str] = "RBP, by residual and projected score"

    def worth(self, base: Floats, residual: Floats) -> Floats:
        """Return resid (base + resid / 2)^3 of each run, (runs,)."""
        # base + residual / 2 projects the final score; the cube favours the best runs
        return residual * (base + residual / 2) ** 3
