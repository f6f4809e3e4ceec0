"""Judging order by non-stationary MaxMean: follow a run whose latest judged document was relevant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.mm import Mm


@dataclass(frozen=True, kw_only=True)
class MmNs(Mm):
    """MaxMean (`mm`) that forgets older judgments of a run. With rate 1, only its latest judgment counts.

    Source: Losada et al. 2017.
    """

    title: ClassVar[str] = "MaxMean, non-stationary"

    rate: float = 1.0
