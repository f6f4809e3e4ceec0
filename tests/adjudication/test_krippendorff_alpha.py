"""Krippendorff's alpha, against the package `krippendorff` and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.adjudication.agreement import count_coincidences, krippendorff_alpha

#: Grades of 4 assessors for 12 documents; -1 is missing.
TABLE = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, -1, -1, -1],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, -1, 3],
        [-1, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, -1],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, -1],
    ]
)
#: krippendorff 0.9.0, ``krippendorff.alpha`` of the table.
EXPECTED = {"nominal": 0.743421052631579, "ordinal": 0.8153875037548814, "interval": 0.8491071428571428}


def counts_of(table: np.ndarray, grades: tuple[int, ...]) -> np.ndarray:
    return np.stack([(table == grade).sum(axis=0) for grade in grades], axis=1)


@pytest.mark.parametrize(("level", "expected"), EXPECTED.items())
def test_alpha_is_that_of_the_package_krippendorff(level: str, expected: float) -> None:
    grades = (1, 2, 3, 4, 5)
    found = krippendorff_alpha(count_coincidences(counts_of(TABLE, grades)), grades, level)  # type: ignore[arg-type]
    assert found == pytest.approx(expected, abs=1e-12)
