"""Krippendorff's alpha: agreement of any number of assessors, each of whom may have judged only some documents.

Source: Krippendorff, Computing Krippendorff's alpha-reliability, 2011; Hayes and Krippendorff, Answering the call for a
standard reliability measure for coding data, Communication Methods and Measures 2007.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from rerank.adjudication.pools import Floats, Ints

#: Levels of measurement, which define the distance between two grades.
AlphaLevel = Literal["nominal", "ordinal", "interval"]
ALPHA_LEVELS: tuple[AlphaLevel, ...] = get_args(AlphaLevel)


def count_grade_coincidences(counts: Ints) -> Floats:
    """Return the (grades, grades) coincidences o, which count pairs of judgments of a document by different assessors.

    o_ck = sum over documents of n_c (n_k - [c = k]) / (n - 1). For each document, n_c is the number of assessors who
    gave it grade c, and n is the number of all its judgments. Documents with fewer than two judgments do not count.

    Args:
        counts: (documents, grades) number of assessors who gave the document the grade.
    """
    judgments = counts.sum(axis=1)
    paired = counts[judgments > 1].astype(np.float64)
    shares = paired / (judgments[judgments > 1, None] - 1)
    # (grades, grades) ordered pairs of judgments, without those of a judgment with itself
    return np.asarray(shares.T @ paired - np.diag(shares.sum(axis=0)))


def krippendorff_alpha(coincidences: Floats, grades: tuple[int, ...], level: AlphaLevel) -> float:
    """Compute alpha = 1 - (n - 1) sum o d / sum n_c n_k d. Alpha is NaN without pairs, or if only one grade occurs.

    o are the coincidences, n_c is the sum of row c, n is the sum of all rows, and d is the squared distance of two
    grades: 1 (``nominal``), (c - k)^2 (``interval``), or the squared number of judgments with grades from one of the
    two to the other, where judgments with these two grades count half (``ordinal``).

    Args:
        coincidences: (grades, grades) o, from `count_grade_coincidences`.
        grades: The grades, ascending.
        level: Level of measurement.
    """
    totals = coincidences.sum(axis=1)
    distances = _squared_grade_distances(totals, grades, level)
    expected = float(totals @ distances @ totals)
    if not expected:
        return float("nan")
    return 1 - (float(totals.sum()) - 1) * float((coincidences * distances).sum()) / expected


def _squared_grade_distances(totals: Floats, grades: tuple[int, ...], level: AlphaLevel) -> Floats:
    """Return the (grades, grades) squared distances of a level of measurement."""
    values = np.array(grades, dtype=np.float64)
    if level == "nominal":
        return 1 - np.eye(len(values))
    if level == "ordinal":  # sum from c to k of n_g, minus (n_c + n_k) / 2, is the distance of these positions
        values = totals.cumsum() - totals / 2
    return np.asarray((values[:, None] - values[None]) ** 2)
