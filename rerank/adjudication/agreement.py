"""Agreement between two assessors on the documents that both have judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rerank.adjudication.pools import Floats, Ints
from rerank.types import NOT_JUDGED, Qrels


@dataclass(frozen=True, eq=False, kw_only=True)
class Agreement:
    """Contingency table of two assessors' grades for the same documents.

    Attributes:
        grades: All grades that either assessor assigned, in ascending order.
        table: (grades, grades) number of documents with each pair of grades; rows are grades of the first assessor,
            columns are grades of the second.
    """

    grades: tuple[int, ...]
    table: Ints

    @property
    def documents(self) -> int:
        """Number of documents that both assessors have judged."""
        return int(self.table.sum())

    @property
    def overlap(self) -> float | None:
        """Fraction of documents with equal grades; None if there are no documents."""
        return float(np.trace(self.table)) / self.documents if self.documents else None

    def kappa(self, weights: str = "none") -> float | None:
        """Compute Cohen's kappa, 1 - sum w o / sum w e. The result is None if kappa is undefined.

        For each cell of the table, o is the observed fraction of documents, and e is the fraction expected by chance
        from the two assessors' marginal distributions. The disagreement weight w of a cell is 0 on the diagonal. Off
        the diagonal, it is 1 (``none``), the distance between the two grades (``linear``) or the squared distance
        (``quadratic``). Kappa is undefined if there are no documents, or if the agreement expected by chance is
        complete.
        Source: Cohen 1960; for the weighted form, Cohen, Psychological Bulletin 1968.
        """
        kappa = float(cohen_kappa(self.table, self.grades, weights))
        return None if np.isnan(kappa) else kappa

    def binary(self, relevant: int) -> Agreement:
        """Return the agreement on binary relevance. Grades of at least ``relevant`` become 1, lower grades become 0."""
        high = np.array(self.grades) >= relevant
        # merge the table into 2 x 2 cells
        table = np.array(
            [[self.table[np.ix_(a, b)].sum() for b in (~high, high)] for a in (~high, high)], dtype=np.int64
        )
        return Agreement(grades=(0, 1), table=table)

    def to_dict(self, relevant: int) -> dict[str, Any]:
        """Return table, overlap and kappas as a JSON object. Keys with ``binary`` refer to binary relevance."""
        binary = self.binary(relevant)
        return {
            "documents": self.documents,
            "grades": list(self.grades),
            "table": self.table.tolist(),
            "overlap": self.overlap,
            "kappa": self.kappa(),
            "kappa_linear": self.kappa("linear"),
            "kappa_quadratic": self.kappa("quadratic"),
            "binary_overlap": binary.overlap,
            "binary_kappa": binary.kappa(),
        }


def cohen_kappa(tables: Ints, grades: tuple[int, ...], weights: str) -> Floats:
    """Compute Cohen's kappa for many tables at once, shape (..., grades, grades); NaN where undefined."""
    cost = _kappa_disagreement_weights(grades, weights)
    documents = tables.sum(axis=(-2, -1))
    # (...) sum w o and sum w e, both multiplied by the number of documents
    observed = (cost * tables).sum(axis=(-2, -1))
    rows, columns = tables.sum(axis=-1), tables.sum(axis=-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.einsum("...a,ab,...b->...", rows, cost, columns) / documents
        return np.asarray(np.where(expected > 0, 1 - observed / expected, np.nan))


def compute_assessor_agreement(
    first: Mapping[str, Mapping[str, int]], second: Mapping[str, Mapping[str, int]]
) -> Agreement:
    """Build the contingency table of the documents that both assessors have judged."""
    grade_pairs = list(_grade_pairs(first, second))
    grades = sorted({grade for pair in grade_pairs for grade in pair})
    index = {grade: position for position, grade in enumerate(grades)}
    table = np.zeros((len(grades), len(grades)), dtype=np.int64)
    for a, b in grade_pairs:
        table[index[a], index[b]] += 1
    return Agreement(grades=tuple(grades), table=table)


def topics_judged_by_both(first: Qrels, second: Qrels) -> tuple[str, ...]:
    """Return the topics with judged documents in both sets of judgments, in the order of the first set."""
    others = set(judged_topics(second))
    return tuple(topic for topic in judged_topics(first) if topic in others)


def judged_topics(qrels: Qrels) -> tuple[str, ...]:
    """Return the topics with a judged document. Documents with a grade of `NOT_JUDGED`, such as -1, do not count."""
    return tuple(topic for topic, judged in qrels.items() if set(judged.values()) - NOT_JUDGED)


def _grade_pairs(
    first: Mapping[str, Mapping[str, int]], second: Mapping[str, Mapping[str, int]]
) -> Iterator[tuple[int, int]]:
    """Yield the two grades of every document that both assessors have judged."""
    for topic, judged in first.items():
        other = second.get(topic, {})
        for doc, grade in judged.items():
            if doc in other and NOT_JUDGED.isdisjoint((grade, other[doc])):
                yield grade, other[doc]


def _kappa_disagreement_weights(grades: tuple[int, ...], weights: str) -> Floats:
    """Return the (grades, grades) disagreement weights of Cohen's kappa: 0 if grades are equal, otherwise positive."""
    values = np.array(grades, dtype=np.float64)
    # (grades, grades) |a - b| between grade values, not between their positions: grades may have gaps, such as 0, 1, 3
    distance = np.abs(values[:, None] - values[None])
    return {"none": (distance > 0).astype(np.float64), "linear": distance, "quadratic": distance**2}[weights]
