"""Agreement of assessors: tables and Cohen's kappa of two, and Krippendorff's alpha of any number, with intervals.

Intervals come from the jackknife over topics, with Student's t: a topic is left out with all its judgments, since
documents of one topic are not independent. The assessors are fixed: an interval shows how a value could vary with other
topics, not with other assessors. Of two simulated assessors, 95 % intervals of kappa contain the true value in .932,
.947, .953 and .956 of 1,000 samples of 5, 10, 20 and 43 topics (percentile bootstrap: .830, .910, .932 and .951).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from rerank.adjudication.pools import Floats, Ints
from rerank.errors import DataError, ensure
from rerank.types import NOT_JUDGED, Qrels

#: Grades by topic and document.
Grades = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Agreement:
    """Contingency table of two assessors' grades for the same documents."""

    grades: tuple[int, ...]  # all grades that either assessor assigned, in ascending order
    #: (grades, grades) number of documents; rows are grades of the first assessor, columns of the second.
    table: Ints

    @property
    def documents(self) -> int:
        return int(self.table.sum())

    @property
    def overlap(self) -> float | None:
        return float(np.trace(self.table)) / self.documents if self.documents else None

    def kappa(self, weights: str = "none") -> float | None:
        return _number_or_none(float(cohen_kappa(self.table, self.grades, weights)))

    def binary(self, relevant: int) -> Agreement:
        """Return the agreement on binary relevance: grades of at least ``relevant`` become 1, lower grades 0."""
        high = np.array(self.grades) >= relevant
        # merge the table into 2 x 2 cells
        table = np.array(
            [[self.table[np.ix_(a, b)].sum() for b in (~high, high)] for a in (~high, high)], dtype=np.int64
        )
        return Agreement(grades=(0, 1), table=table)

    def to_dict(self, relevant: int) -> dict[str, Any]:
        """Return a JSON object, in which keys with ``binary`` refer to binary relevance."""
        binary = self.binary(relevant)
        return {
            "documents": self.documents,
            "grades": list(self.grades),
            "table": self.table.tolist(),
            "overlap": self.overlap,
            **{name: self.kappa(weights) for name, weights in KAPPAS.items()},
            "binary_overlap": binary.overlap,
            "binary_kappa": binary.kappa(),
        }


#: Disagreement weights of each kappa, by its name in results.
KAPPAS: Mapping[str, str] = {"kappa": "none", "kappa_linear": "linear", "kappa_quadratic": "quadratic"}


def cohen_kappa(tables: Ints, grades: tuple[int, ...], weights: str) -> Floats:
    """Compute Cohen's kappa, 1 - sum w o / sum w e, for many tables of shape (..., grades, grades) at once.

    For each cell of the table, o is the observed fraction of documents, and e is the fraction expected by chance from
    the two assessors' marginal distributions. The disagreement weight w of a cell is 0 on the diagonal. Off the
    diagonal, it is 1 (``none``), the distance between the two grades (``linear``) or the squared distance
    (``quadratic``). Kappa is NaN if there are no documents, or if the agreement expected by chance is complete. Source:
    Cohen 1960; for the weighted form, Cohen, Psychological Bulletin 1968.
    """
    values = np.array(grades, dtype=np.float64)
    # (grades, grades) |a - b| between grade values, not between their positions: grades may have gaps, such as 0, 1, 3
    distance = np.abs(values[:, None] - values[None])
    cost = {"none": (distance > 0).astype(np.float64), "linear": distance, "quadratic": distance**2}[weights]
    documents = tables.sum(axis=(-2, -1))
    # (...) sum w o and sum w e, both multiplied by the number of documents
    observed = (cost * tables).sum(axis=(-2, -1))
    rows, columns = tables.sum(axis=-1), tables.sum(axis=-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.einsum("...a,ab,...b->...", rows, cost, columns) / documents
        return np.asarray(np.where(expected > 0, 1 - observed / expected, np.nan))


def compare_assessors(first: Grades, second: Grades) -> Agreement:
    """Build the contingency table of the documents that both assessors have judged."""
    pairs = [
        (grade, second[topic][doc])
        for topic, judged in first.items()
        for doc, grade in judged.items()
        if doc in second.get(topic, {}) and NOT_JUDGED.isdisjoint((grade, second[topic][doc]))
    ]
    grades = sorted({grade for pair in pairs for grade in pair})
    index = {grade: position for position, grade in enumerate(grades)}
    table = np.zeros((len(grades), len(grades)), dtype=np.int64)
    for a, b in pairs:
        table[index[a], index[b]] += 1
    return Agreement(grades=tuple(grades), table=table)


def topics_judged_by_both(first: Qrels, second: Qrels) -> tuple[str, ...]:
    """Return the topics with judged documents in both sets of judgments, in the order of the first set."""
    others = set(judged_topics(second))
    return tuple(topic for topic in judged_topics(first) if topic in others)


def judged_topics(qrels: Qrels) -> tuple[str, ...]:
    """Return the topics with a judged document. Documents with a grade of `NOT_JUDGED`, such as -1, do not count."""
    return tuple(topic for topic, judged in qrels.items() if set(judged.values()) - NOT_JUDGED)


#: Levels of measurement, which define the distance between two grades.
AlphaLevel = Literal["nominal", "ordinal", "interval"]
ALPHA_LEVELS: tuple[AlphaLevel, ...] = get_args(AlphaLevel)


def count_coincidences(counts: Ints) -> Floats:
    """Return the (grades, grades) coincidences o, which count pairs of judgments of a document by different assessors.

    o_ck = sum over documents of n_c (n_k - [c = k]) / (n - 1). For each document, n_c is the number of assessors who
    gave it grade c, and n is the number of all its judgments. Documents with fewer than two judgments do not count.
    """
    judgments = counts.sum(axis=1)
    paired = counts[judgments > 1].astype(np.float64)
    shares = paired / (judgments[judgments > 1, None] - 1)
    # (grades, grades) ordered pairs of judgments, without those of a judgment with itself
    return np.asarray(shares.T @ paired - np.diag(shares.sum(axis=0)))


def krippendorff_alpha(coincidences: Floats, grades: tuple[int, ...], level: AlphaLevel) -> float:
    """Compute alpha = 1 - (n - 1) sum o d / sum n_c n_k d. Alpha is NaN without pairs, or if only one grade occurs.

    o are the (grades, grades) coincidences of the ascending grades, n_c is the sum of row c, n is the sum of all rows,
    and d is the squared distance of two grades: 1 (``nominal``), (c - k)^2 (``interval``), or (``ordinal``) the squared
    number of judgments with grades from one to the other, of which those with these two grades count half.
    """
    totals = coincidences.sum(axis=1)
    values = np.array(grades, dtype=np.float64)
    if level == "ordinal":  # sum from c to k of n_g, minus (n_c + n_k) / 2, is the distance of these positions
        values = totals.cumsum() - totals / 2
    distances = np.asarray((values[:, None] - values[None]) ** 2) if level != "nominal" else 1 - np.eye(len(values))
    expected = float(totals @ distances @ totals)
    if not expected:
        return float("nan")
    return 1 - (float(totals.sum()) - 1) * float((coincidences * distances).sum()) / expected


#: Smallest number of topics for which intervals are computed.
LEAST_TOPICS = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class AssessorPanel:
    """Judgments of several assessors, counted by topic."""

    assessors: tuple[str, ...]
    topics: tuple[str, ...]  # topics with a document that at least two assessors have judged
    grades: tuple[int, ...]  # all grades that an assessor assigned, in ascending order
    #: (topics, assessors, assessors, grades, grades) number of documents with each pair of grades of two assessors.
    tables: Ints
    coincidences: Floats  # (topics, grades, grades) coincidences, computed by `count_coincidences`
    documents: Ints  # (topics,) number of documents that at least two assessors have judged
    #: Lowest relevant grade of each assessor if grades were replaced by 0 and 1, otherwise None.
    relevant: tuple[int, ...] | None = None

    @classmethod
    def from_qrels(
        cls, assessors: Mapping[str, Mapping[str, Mapping[str, int]]], relevant: Sequence[int] | None = None
    ) -> AssessorPanel:
        """Create a panel from the grades of at least two assessors by name, topic and document.

        ``relevant`` is the lowest grade of every assessor that becomes 1; lower grades become 0. None keeps the grades,
        which then must have the same meaning for all assessors.

        Raises:
            UsageError: There are fewer than two assessors, or ``relevant`` does not contain one grade per assessor.
            DataError: No document was judged by two assessors.
        """
        count = len(assessors)
        ensure(count >= 2, f"The number of sets of judgments is {count}", expected="at least two, one per assessor")
        if relevant is not None:
            found = f"The number of lowest relevant grades is {len(relevant)}"
            ensure(len(relevant) == count, found, expected=f"{count}, one per assessor")
        lowest: Sequence[int | None] = relevant or [None] * count
        # grades of the judged documents; 0 or 1 if a lowest relevant grade is given
        judgments = [
            {
                topic: {
                    doc: grade if least is None else int(grade >= least)
                    for doc, grade in judged.items()
                    if grade not in NOT_JUDGED
                }
                for topic, judged in qrels.items()
            }
            for qrels, least in zip(assessors.values(), lowest, strict=True)
        ]
        grades = tuple(sorted({g for qrels in judgments for judged in qrels.values() for g in judged.values()}))
        marks = {
            topic: _mark_grades([qrels.get(topic, {}) for qrels in judgments], grades)
            for topic in dict.fromkeys(topic for qrels in judgments for topic in qrels)
        }
        documents = {topic: int((marked.sum(axis=(0, 2)) > 1).sum()) for topic, marked in marks.items()}
        topics = tuple(topic for topic, count in documents.items() if count)
        if not topics:
            raise DataError("No document is judged by two assessors", expected="judgments of the same documents")
        return cls(
            assessors=tuple(assessors),
            topics=topics,
            grades=grades,
            tables=np.stack([np.einsum("adg,bdh->abgh", marks[t], marks[t], optimize=True) for t in topics]),
            coincidences=np.stack([count_coincidences(marks[topic].sum(axis=0)) for topic in topics]),
            documents=np.array([documents[topic] for topic in topics]),
            relevant=None if relevant is None else tuple(relevant),
        )

    def kappas(self, weights: str = "none", topics: Ints | None = None) -> Floats:
        """Return (assessors, assessors) `cohen_kappa`, NaN where undefined; topics count once, or (topics,) times."""
        return cohen_kappa(_sum_over_topics(self.tables, topics), self.grades, weights)

    def alphas(self, topics: Ints | None = None) -> Floats:
        """Return (levels,) Krippendorff's alpha, NaN where it is undefined; topics count as in `kappas`."""
        coincidences = _sum_over_topics(self.coincidences, topics)
        return np.array([krippendorff_alpha(coincidences, self.grades, level) for level in ALPHA_LEVELS])

    def to_dict(self, *, alpha: float = 0.05) -> dict[str, Any]:
        """Return the JSON object of ``rerank qrels agreement``, with 1 - alpha intervals from enough topics."""
        count = len(self.topics)
        left = 1 - np.eye(count, dtype=np.int64)  # (topics, topics) how often each topic counts if one is left out
        kappas = {name: self.kappas(weights) for name, weights in KAPPAS.items()}
        # (topics, assessors, assessors) for every kappa, and (topics, levels)
        kappas_left = {name: np.array([self.kappas(w, topics) for topics in left]) for name, w in KAPPAS.items()}
        alphas_left = np.array([self.alphas(topics) for topics in left])
        pairs = []
        for a, b in combinations(range(len(self.assessors)), 2):
            common = self.tables[:, a, b]
            shared = common.sum(axis=(-2, -1)) > 0  # (topics,)
            documents = int(common.sum())
            row: dict[str, Any] = {
                "a": self.assessors[a],
                "b": self.assessors[b],
                "topics": int(shared.sum()),
                "documents": documents,
                "overlap": int(np.trace(common.sum(axis=0))) / documents if documents else None,
            }
            for name, values in kappas.items():
                row[name] = _number_or_none(values[a, b])
                row[f"{name}_interval"] = _jackknife_bounds(values[a, b], kappas_left[name][shared, a, b], alpha)
            pairs.append(row)
        alphas = {}
        for index, (level, value) in enumerate(zip(ALPHA_LEVELS, self.alphas(), strict=True)):
            bounds = _jackknife_bounds(value, alphas_left[:, index], alpha)
            alphas[level] = {"value": _number_or_none(value), "interval": bounds}
        return {
            "assessors": list(self.assessors),
            "relevant": None if self.relevant is None else list(self.relevant),
            "grades": list(self.grades),
            "topics": count,
            "documents": int(self.documents.sum()),
            "alpha": alphas,
            "pairs": pairs,
            "by_topic": [
                {
                    "topic": topic,
                    "documents": int(documents),
                    **{level: _number_or_none(v) for level, v in zip(ALPHA_LEVELS, self.alphas(only), strict=True)},
                }
                for topic, documents, only in zip(
                    self.topics, self.documents, np.eye(count, dtype=np.int64), strict=True
                )
            ],
            "confidence": 1 - alpha,
        }


def _sum_over_topics(counts: npt.NDArray[Any], topics: Ints | None) -> npt.NDArray[Any]:
    """Return the sum of (topics, ...) counts over topics, each counted once, or (topics,) times."""
    return np.asarray(counts.sum(axis=0) if topics is None else np.tensordot(topics, counts, axes=1))


def _mark_grades(judgments: Sequence[Mapping[str, int]], grades: Sequence[int]) -> Ints:
    """Return (assessors, documents, grades) whether the assessor gave the document this grade, as 0 or 1."""
    docs = {doc: index for index, doc in enumerate(dict.fromkeys(doc for judged in judgments for doc in judged))}
    column = {grade: index for index, grade in enumerate(grades)}
    marks = np.zeros((len(judgments), len(docs), len(grades)), dtype=np.int64)
    for assessor, judged in enumerate(judgments):
        for doc, grade in judged.items():
            marks[assessor, docs[doc], column[grade]] = 1
    return marks


def _jackknife_bounds(value: float, left: Floats, alpha: float) -> list[float] | None:
    """Return the bounds of an interval from (topics,) values without each topic; None if one of them is undefined.

    The standard error is that of the delete-one jackknife over n topics, sqrt((n - 1) / n * sum (v_i - mean v)^2), with
    n - 1 degrees of freedom. A value never exceeds 1. If no topic changes the value, as in perfect agreement, there is
    no interval, since [1, 1] would read as certainty. Source: Efron and Tibshirani, An introduction to the bootstrap,
    1993, chapter 11.
    """
    from scipy.stats import t

    topics = len(left)
    if topics < LEAST_TOPICS or np.isnan([value, *left]).any() or np.ptp(left) == 0:
        return None
    half = float(t.isf(alpha / 2, topics - 1) * np.sqrt((topics - 1) / topics * ((left - left.mean()) ** 2).sum()))
    return [float(value) - half, min(1.0, float(value) + half)]


def _number_or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
