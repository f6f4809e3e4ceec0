"""Non-stationary MaxMean: play a run whose latest document was relevant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rerank.adjudication.orders.mm import Mm


@dataclass(frozen=True, kw_only=True)
class MmNs(Mm):
    """MaxMean (`mm`) that forgets older outcomes. With rate 1, only the latest outcome counts.

    Source: Losada et al. 2017.
    """

    title: ClassVar[str] = "MaxMean, non-stationary"

    rate: float = 1.0
