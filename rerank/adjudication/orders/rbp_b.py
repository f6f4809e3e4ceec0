"""Judging order by weights of rank-biased precision (RBP) that favours runs with large residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base.rank_biased import ResidualOrder
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class RbpB(ResidualOrder):
    """RBP method B: score(d) = sum over runs of w x resid, where w is the weight of d in the run.

    The residual is resid = 1 - sum of the weights of the judged documents of the run.
    Source: method B of Moffat, Webber and Zobel, Strategic system comparisons via targeted relevance judgments, 2007.
    """

    title: ClassVar[str] = "RBP, by residual"

    def worth(self, base: Floats, residual: Floats) -> Floats:
        """Return an array of shape (runs,): the residual of each run, the factor for its weights."""
        return residual
