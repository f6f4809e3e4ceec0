"""Corrections for testing many pairs: p-values in, adjusted p-values out, to be compared with the level itself.

A step-down procedure walks from the smallest p-value and stops at the first that is too large; a step-up procedure
walks from the largest and stops at the first that is small enough. In adjusted p-values, that is a running maximum and
a running minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rerank.errors import UnknownNameError
from rerank.evaluation.significance.base import Floats


def none(p: Floats) -> Floats:
    """As they are."""
    return p


def bonferroni(p: Floats) -> Floats:
    """Multiply by m. Keeps the chance of any false positive at the level."""
    return np.minimum(1.0, p * len(p))


def holm(p: Floats) -> Floats:
    """Step down over (m - i + 1) p_(i). Holm, Scandinavian Journal of Statistics 1979."""
    return _down(p, len(p) - np.arange(len(p)))


def hochberg(p: Floats) -> Floats:
    """Step up over (m - i + 1) p_(i); for independent tests. Hochberg, Biometrika 1988."""
    return _up(p, len(p) - np.arange(len(p)))


def bh(p: Floats) -> Floats:
    """Step up over m p_(i) / i: the share of false positives among the positives. Benjamini and Hochberg 1995."""
    return _up(p, len(p) / np.arange(1, len(p) + 1))


def by(p: Floats) -> Floats:
    """As `bh`, times 1 + 1/2 + ... + 1/m; however the tests depend on one another. Benjamini and Yekutieli 2001."""
    places = np.arange(1, len(p) + 1)
    return _up(p, len(p) / places * (1 / places).sum())


#: Name -> correction.
CORRECTIONS: dict[str, Callable[[Floats], Floats]] = {
    "none": none,
    "bonferroni": bonferroni,
    "holm": holm,
    "hochberg": hochberg,
    "bh": bh,
    "by": by,
}


#: Name -> what it is called in tables and reports.
TITLES = {
    "none": "none",
    "bonferroni": "Bonferroni",
    "holm": "Holm",
    "hochberg": "Hochberg",
    "bh": "Benjamini-Hochberg",
    "by": "Benjamini-Yekutieli",
}


def least_wanted(name: str, alpha: float, pairs: int) -> float:
    """How small the least p-value must be able to get, if a correction is to find anything among so many pairs.

    The step-up procedures of Hochberg and of Benjamini and Hochberg reject all pairs where all p-values are at most
    alpha, so a test that can reach alpha is not hopeless there.
    """
    if name in ("bonferroni", "holm"):
        return alpha / pairs
    return alpha / float((1 / np.arange(1, pairs + 1)).sum()) if name == "by" else alpha


def correct(p: Floats, name: str) -> Floats:
    """Adjust (pairs,) p-values.

    Raises:
        UnknownNameError: No such correction.
    """
    if name not in CORRECTIONS:
        raise UnknownNameError("correction", name, CORRECTIONS)
    return CORRECTIONS[name](p)


def _down(p: Floats, factors: npt.NDArray[Any]) -> Floats:
    order = np.argsort(p, kind="stable")
    return _placed(np.maximum.accumulate(p[order] * factors), order)


def _up(p: Floats, factors: npt.NDArray[Any]) -> Floats:
    order = np.argsort(p, kind="stable")
    return _placed(np.minimum.accumulate((p[order] * factors)[::-1])[::-1], order)


def _placed(adjusted: Floats, order: npt.NDArray[np.intp]) -> Floats:
    back = np.empty_like(adjusted)
    back[order] = np.minimum(1.0, adjusted)
    return back
