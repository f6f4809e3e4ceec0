"""The pool-adjacent-violators algorithm, which makes values non-increasing along a ranking."""

from __future__ import annotations

from collections.abc import Sequence


def make_non_increasing(values: Sequence[float]) -> list[float]:
    """Return the non-increasing sequence that is nearest to ``values`` in least squares.

    Neighbours in the wrong order are replaced by their mean, so the sum does not change. The run time is linear.

    Source: Barlow et al. 1972, Statistical inference under order restrictions.

    >>> make_non_increasing([0.5, 0.2, 0.4, 0.1])
    [0.5, 0.30000000000000004, 0.30000000000000004, 0.1]
    """
    totals: list[float] = []
    counts: list[int] = []
    for value in values:
        total, count = value, 1
        while totals and totals[-1] * count < total * counts[-1]:  # the previous block has a lower mean
            total += totals.pop()
            count += counts.pop()
        totals.append(total)
        counts.append(count)
    result: list[float] = []
    for total, count in zip(totals, counts, strict=True):
        mean = total / count
        result += [min(mean, result[-1]) if result else mean] * count  # rounding may increase the last bit
    return result
