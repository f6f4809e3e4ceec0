"""Corrections for multiple comparisons. They adjust p-values, which are then compared with the significance level.

In the formulas, m is the number of p-values and p_(i) is the i-th smallest. A step-down procedure starts at the
smallest p-value and stops at the first that is too large. A step-up procedure starts at the largest p-value and stops
at the first that is small enough. For adjusted p-values, step-down becomes a running maximum and step-up a running
minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation.significance.base import Floats


def no_correction(p: Floats) -> Floats:
    """Return the p-values unchanged; this is the correction ``none``."""
    return p


def bonferroni(p: Floats) -> Floats:
    """Multiply the p-values by m, which controls the family-wise error."""
    return np.minimum(1.0, p * len(p))


def holm(p: Floats) -> Floats:
    """Adjust p-values by the step-down procedure with (m - i + 1) p_(i).

    Source: Holm, Scandinavian J. of Statistics 1979.
    """
    return _step_down(p, len(p) - np.arange(len(p)))


def hochberg(p: Floats) -> Floats:
    """Adjust p-values by the step-up procedure with (m - i + 1) p_(i), which assumes independent tests.

    Source: Hochberg, Biometrika 1988.
    """
    return _step_up_p_values(p, len(p) - np.arange(len(p)))


def benjamini_hochberg(p: Floats) -> Floats:
    """Adjust p-values by the step-up procedure with m p_(i) / i, which controls the false discovery rate.

    Source: Benjamini and Hochberg 1995.
    """
    return _step_up_p_values(p, len(p) / np.arange(1, len(p) + 1))


def benjamini_yekutieli(p: Floats) -> Floats:
    """Adjust p-values by the step-up procedure with (1 + 1/2 + ... + 1/m) m p_(i) / i.

    Unlike `benjamini_hochberg`, the procedure allows any dependence between the tests.
    Source: Benjamini and Yekutieli 2001.
    """
    ranks = np.arange(1, len(p) + 1)
    return _step_up_p_values(p, len(p) / ranks * (1 / ranks).sum())


#: Functions that adjust p-values, by the name of the correction.
CORRECTIONS: dict[str, Callable[[Floats], Floats]] = {
    "none": no_correction,
    "bonferroni": bonferroni,
    "holm": holm,
    "hochberg": hochberg,
    "bh": benjamini_hochberg,
    "by": benjamini_yekutieli,
}


#: Titles of the corrections in tables and reports, by name.
TITLES = {
    "none": "none",
    "bonferroni": "Bonferroni",
    "holm": "Holm",
    "hochberg": "Hochberg",
    "bh": "Benjamini-Hochberg",
    "by": "Benjamini-Yekutieli",
}


def required_p_value(name: str, alpha: float, pairs: int) -> float:
    """Return the p-value that a test must be able to reach so that at least one pair can become significant.

    The step-up procedures of Hochberg and of Benjamini and Hochberg reject all pairs if all p-values are at most alpha.
    With these corrections, a test only needs to reach alpha.
    """
    if name in ("bonferroni", "holm"):
        return alpha / pairs
    # "by" divides alpha by the harmonic number; the other step-up procedures only need alpha
    return alpha / float((1 / np.arange(1, pairs + 1)).sum()) if name == "by" else alpha


def correct_p_values(p: Floats, name: str) -> Floats:
    """Adjust the (pairs,) p-values with the named correction.

    Raises:
        UnknownNameError: The correction does not exist.
    """
    if name not in CORRECTIONS:
        raise UnknownNameError("correction", name, CORRECTIONS)
    return CORRECTIONS[name](p)


def resolve_correction(test: str, correction: str, *, family_wise: bool) -> str:
    """Return the name of the correction to use with a test. ``auto`` is replaced by the test's default.

    Args:
        test: Selector of the test, for the message.
        correction: Name of a correction, or ``auto``.
        family_wise: Whether the test controls the family-wise error itself. Only ``none`` and ``auto`` are then valid.

    Raises:
        UnknownNameError: The correction does not exist.
        UsageError: The test cannot be combined with the correction.
    """
    if correction == "auto":
        return "none" if family_wise else "holm"
    correct_p_values(np.ones(1), correction)  # raises if the name is unknown
    if family_wise and correction != "none":
        raise UsageError(
            f"The correction {correction!r} cannot be combined with the test {test!r}",
            expected="none, because the test controls the family-wise error itself",
            remedy="Omit the correction",
        )
    return correction


def _step_down(p: Floats, factors: npt.NDArray[Any]) -> Floats:
    """Compute the running maximum of p_(i) times its factor, from smallest to largest, and restore the input order."""
    order = np.argsort(p, kind="stable")
    return _p_values_in_original_order(np.maximum.accumulate(p[order] * factors), order)


def _step_up_p_values(p: Floats, factors: npt.NDArray[Any]) -> Floats:
    """Compute the running minimum of p_(i) times its factor, from largest to smallest, and restore the input order."""
    order = np.argsort(p, kind="stable")
    return _p_values_in_original_order(np.minimum.accumulate((p[order] * factors)[::-1])[::-1], order)


def _p_values_in_original_order(adjusted: Floats, order: npt.NDArray[np.intp]) -> Floats:
    """Return sorted p-values in their original order, with values above 1 clipped to 1."""
    # inverse of the sorting permutation
    back = np.empty_like(adjusted)
    back[order] = np.minimum(1.0, adjusted)
    return back
