"""Weights of rank-biased precision, for runs that may be the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.base.rank_biased import Residuals
from rerank.adjudication.pools import Floats


@dataclass(frozen=True, kw_only=True)
class RbpC(Residuals):
    """score(d) = sum over runs of w resid (base + resid / 2)^3; base = sum of w over what is relevant in the run.

    Source: method C of Moffat, Webber and Zobel, Strategic system comparisons via targeted relevance judgments, 2007.
    """

    title: ClassVar[str] = "RBP, by residual and projected score"

    def worth(self, base: Floats, residual: Floats) -> Floats:
        """See `Residuals`."""
        return residual * (base + residual / 2) ** 3
