"""What a smaller benchmark must keep of the whole one's conclusions, and how that is measured.

The measures of agreement are those of judgments (`rerank.adjudication`): a benchmark with less in it is a cheap one,
and the whole is gold. Knows arrays and names, not what was left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from rerank.adjudication.categories import NAMES, Codes
from rerank.adjudication.verdicts import Procedure, Verdicts, row
from rerank.errors import UsageError
from rerank.evaluation.significance.base import Floats

__all__ = ["Goal", "Paired", "Procedure", "compared", "counted", "judged", "pairs_by_fate"]

#: What becomes of a pair of systems that differs significantly by one of the two: names of categories.
_FATES = {
    "kept": ("AA",),
    "lost": ("MA_missed", "MD_missed"),
    "new": ("MA_spurious", "MD_spurious"),
    "reversed": ("AD",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What must be kept; None leaves it open.

    Attributes:
        tau: Least Kendall's tau-b of the systems' means with those of the whole.
        recall: Least share of the whole's significant differences that are found, in their direction.
        precision: Least share of the significant differences found that the whole confirms.
    """

    tau: float | None = 0.9
    recall: float | None = None
    precision: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("tau", "recall", "precision"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"A least {name} of {value}", expected="a number from 0 to 1")
        if self.tau is self.recall is self.precision is None:
            raise UsageError("Nothing must be kept, so nothing is best", expected="a least tau, recall or precision")

    def met(self, figures: dict[str, Any]) -> bool:
        """Whether figures of `compared` reach it. A rate of 0 / 0 is met: there is nothing to lose or to be wrong."""
        wanted = {"tau": self.tau, "recall": self.recall, "precision": self.precision}
        # a ranking that tells no two systems apart has no tau, and keeps nothing
        return all(
            least is None or (figures[name] is None and name != "tau") or (figures[name] or 0.0) >= least - 1e-12
            for name, least in wanted.items()
        )


@dataclass(frozen=True, kw_only=True)
class Paired:
    """How differences are tested.

    Attributes:
        procedure: The paired test and its correction.
        alpha: The level.
    """

    procedure: Procedure = field(default_factory=lambda: Procedure("t", "bh"))
    alpha: float = 0.05


def judged(values: Floats, systems: Sequence[str], paired: Paired) -> Verdicts:
    """Test every pair of systems on (rows, systems); with one row alone nothing is significant."""
    names = tuple(systems)
    if len(values) < 2:
        pairs = len(names) * (len(names) - 1) // 2
        return Verdicts(values, names, (np.zeros(pairs, dtype=np.bool_),))
    return Verdicts.of(values, names, [paired.procedure], paired.alpha)


def counted(whole: Verdicts) -> dict[str, int]:
    """What there is: systems, rows that are tested, pairs of systems, and how many of them differ significantly."""
    return {
        "systems": len(whole.systems),
        "rows": len(whole.values),
        "pairs": len(whole.differences),
        "significant": int(whole.significant[0].sum()),
    }


def compared(gold: Verdicts, cheap: Verdicts) -> dict[str, Any]:
    """The figures of one comparison: categories of pairs, their rates, and how alike the rankings of systems are."""
    (codes,) = cheap.beside(gold)
    return {**row(codes, cheap.alike(gold)), "spearman": spearman(gold.means, cheap.means)}


def spearman(first: Floats, second: Floats) -> float | None:
    """Rank correlation, equal values sharing their mean rank; None where either has all values equal."""
    from scipy.stats import rankdata

    ranks = np.asarray(rankdata(np.round([first, second], 12), axis=1))
    return None if (np.ptp(ranks, axis=1) == 0).any() else round(float(np.atleast_2d(np.corrcoef(ranks))[0, 1]), 12)


def pairs_by_fate(gold: Verdicts, cheap: Verdicts) -> dict[str, list[list[str]]]:
    """Which significant differences are kept, lost, new and reversed, each as [better, worse] by who finds it.

    New ones are as the smaller benchmark has them, all others as the whole.
    """
    (codes,) = cheap.beside(gold)
    return {fate: _named(codes, kinds, cheap if fate == "new" else gold) for fate, kinds in _FATES.items()}


def _named(codes: Codes, kinds: Sequence[str], finder: Verdicts) -> list[list[str]]:
    wanted = [NAMES.index(kind) for kind in kinds]
    couples = combinations(finder.systems, 2)
    return [
        [a, b] if difference >= 0 else [b, a]
        for (a, b), code, difference in zip(couples, codes, finder.differences, strict=True)
        if code in wanted
    ]
