"""Judging order by weights of rank-biased precision (RBP) that favours runs that may be the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base.rank_biased import ResidualOrder
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class RbpC(ResidualOrder):
    """RBP method C: score(d) = sum over runs of w x resid x (base + resid / 2)^3, where w is the weight of d.

    base is the sum of the weights of the run's documents judged relevant; resid is the residual, as in `rbp_b`.
    Source: method C of Moffat, Webber and Zobel, Strategic system comparisons via targeted relevance judgments, 2007.
    """

    title: ClassVar[str] = "RBP, by residual and projected score"

    def worth(self, base: Floats, residual: Floats) -> Floats:
        """Return an array of shape (runs,): resid (base + resid / 2)^3, the factor for the weights of each run."""
        # base + residual / 2 is an estimate of the final RBP; the cube favours the best runs
        return residual * (base + residual / 2) ** 3
