"""Several ranked lists of one query -> one score a document. Pure functions; knows no stage and no text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rerank.types import Ranking


@dataclass(frozen=True, slots=True)
class Votes:
    """What one list says of each document.

    Attributes:
        values: Document id -> value, for the documents of the list.
        missing: The value of every other document.
    """

    values: Mapping[str, float]
    missing: float = 0.0

    def __getitem__(self, doc_id: str) -> float:
        """The value of any document."""
        return self.values.get(doc_id, self.missing)


def reciprocal_ranks(ranking: Ranking, k: int = 60) -> Votes:
    """``1 / (k + r(d))`` with ranks ``r`` from 1; 0 for documents that the list lacks.

    Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning
    Methods", SIGIR 2009, where ``RRFscore(d)`` is the sum of this over the lists and k is 60.
    """
    return Votes({doc_id: 1.0 / (k + rank) for rank, doc_id in enumerate(ranking.doc_ids, 1)})


def min_max(ranking: Ranking) -> Votes:
    """``(s(d) - min) / (max - min)`` over the list; 0, the value of its last one, for documents that it lacks.

    Where all scores are equal, each document of the list gets 1.
    Source: Lee, "Analyses of Multiple Evidence Combination", SIGIR 1997.
    """
    if not _differ(ranking):
        return _found_or_not(ranking)
    scores = _scaled(ranking.scores)
    low, span = scores[-1], scores[0] - scores[-1]
    return Votes({doc_id: (s - low) / span for doc_id, s in zip(ranking.doc_ids, scores, strict=True)})


def z_score(ranking: Ranking) -> Votes:
    """``(s(d) - mean) / deviation`` over the list (the population's deviation); documents that it lacks get its lowest.

    They do not get 0, as a sum over the lists that have a document would give them: 0 is the mean, above half the list.
    Where all scores are equal, each document of the list gets 1 and every other one 0.
    Source: Montague and Aslam, "Relevance Score Normalization for Metasearch", CIKM 2001 (zero mean, unit variance).
    """
    if not _differ(ranking):
        return _found_or_not(ranking)
    scores = _scaled(ranking.scores)
    mean = math.fsum(scores) / len(scores)
    deviation = math.sqrt(math.fsum((s - mean) ** 2 for s in scores) / len(scores))
    values = [(s - mean) / deviation for s in scores]
    return Votes(dict(zip(ranking.doc_ids, values, strict=True)), missing=values[-1])


def _differ(ranking: Ranking) -> bool:
    return len(ranking) > 0 and ranking.scores[0] > ranking.scores[-1]


def _scaled(scores: Sequence[float]) -> list[float]:
    """Scores, the first above the last, in a unit in which no difference or square of them overflows or vanishes."""
    unit = max(abs(scores[0]), abs(scores[-1]))
    return [score / unit for score in scores]


def _found_or_not(ranking: Ranking) -> Votes:
    return Votes(dict.fromkeys(ranking.doc_ids, 1.0))


def weighted_sum(lists: Sequence[Votes], weights: Sequence[float]) -> dict[str, float]:
    """``sum over lists i of w_i * v_i(d)`` for every document that any list has.

    With weights of 1 this is CombSUM (Fox and Shaw, "Combination of Multiple Searches", TREC-2, 1994) of the values.
    The sum is rounded once (`math.fsum`), so it does not depend on the order of the lists.
    """
    doc_ids = dict.fromkeys(doc_id for votes in lists for doc_id in votes.values)
    return {d: math.fsum(w * votes[d] for w, votes in zip(weights, lists, strict=True)) for d in doc_ids}
