"""How far two judges agree about the documents that both have judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rerank.adjudication.pools import Floats, Ints
from rerank.types import Qrels


@dataclass(frozen=True, eq=False, kw_only=True)
class Agreement:
    """Two judges on the same documents.

    Attributes:
        grades: All grades that either gave, ascending.
        table: (grades, grades) how many documents got a grade from the first judge and a grade from the second.
    """

    grades: tuple[int, ...]
    table: Ints

    @property
    def documents(self) -> int:
        """How many both have judged."""
        return int(self.table.sum())

    @property
    def overlap(self) -> float | None:
        """The share that got the same grade from both."""
        return float(np.trace(self.table)) / self.documents if self.documents else None

    def kappa(self, weights: str = "none") -> float | None:
        """Cohen's kappa, 1 - sum w o / sum w e; None where chance alone would agree entirely.

        o is the share of documents in each place of the table, e what the two judges' own shares of grades would make
        by chance. The weight of a place is 1 off the diagonal (``none``), the distance of the two grades (``linear``)
        or its square (``quadratic``). Source: Cohen, 1960 and, weighted, Psychological Bulletin 1968.
        """
        if not self.documents:
            return None
        observed = self.table / self.documents
        chance = np.outer(observed.sum(axis=1), observed.sum(axis=0))
        cost = _costs(self.grades, weights)
        expected = float((cost * chance).sum())
        return 1 - float((cost * observed).sum()) / expected if expected else None

    def binary(self, relevant: int) -> Agreement:
        """The same with two grades: 1 from ``relevant`` on, 0 below."""
        high = np.array(self.grades) >= relevant
        table = np.array(
            [[self.table[np.ix_(a, b)].sum() for b in (~high, high)] for a in (~high, high)], dtype=np.int64
        )
        return Agreement(grades=(0, 1), table=table)

    def to_dict(self, relevant: int) -> dict[str, Any]:
        """All numbers; ``binary`` ones are of relevant against not relevant."""
        two = self.binary(relevant)
        return {
            "documents": self.documents,
            "grades": list(self.grades),
            "table": self.table.tolist(),
            "overlap": self.overlap,
            "kappa": self.kappa(),
            "kappa_linear": self.kappa("linear"),
            "kappa_quadratic": self.kappa("quadratic"),
            "binary_overlap": two.overlap,
            "binary_kappa": two.kappa(),
        }


def agreement(first: Mapping[str, Mapping[str, int]], second: Mapping[str, Mapping[str, int]]) -> Agreement:
    """Count the documents that both judge, by their two grades."""
    both = list(_both(first, second))
    grades = sorted({grade for pair in both for grade in pair})
    place = {grade: at for at, grade in enumerate(grades)}
    table = np.zeros((len(grades), len(grades)), dtype=np.int64)
    for a, b in both:
        table[place[a], place[b]] += 1
    return Agreement(grades=tuple(grades), table=table)


def shared(first: Qrels, second: Qrels) -> tuple[str, ...]:
    """The topics that both judge, in the first's order."""
    return tuple(topic for topic in first if topic in second)


def _both(first: Mapping[str, Mapping[str, int]], second: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[int, int]]:
    for topic, judged in first.items():
        other = second.get(topic, {})
        for doc, grade in judged.items():
            if doc in other:
                yield grade, other[doc]


def _costs(grades: tuple[int, ...], weights: str) -> Floats:
    values = np.array(grades, dtype=np.float64)
    distance = np.abs(values[:, None] - values[None])
    return {"none": (distance > 0).astype(np.float64), "linear": distance, "quadratic": distance**2}[weights]
