"""Data types for the results of the driver: reranked lists with their scores, judged windows and costs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rerank.judges.base import FAILURES, STATUSES, ScoreKind, Verdict
from rerank.tasks.requests import Usage
from rerank.types import Ranking, Window

#: Error of the substitute for a missing reply, if only some requests of a window were answered by the deadline.
LATE = "the deadline passed before the reply"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedList:
    """The result of reranking one list."""

    ranking: Ranking  # the documents, best first; the score at rank r is 1/r
    #: The judge's score of each document, in the order of the ranking; None for a document without a score.
    scores: tuple[float | None, ...] = ()
    score_kind: ScoreKind | None = None  # kind of these scores; None if the judge returns no scores
    #: The windows that were judged, with first-stage scores, and their verdicts, in the order of judging.
    judged: tuple[tuple[Window, Verdict], ...] = ()
    #: The windows that were too long for the context, and were therefore ranked in parts and merged, each with the
    #: number of documents, from its start, that fit in the context.
    split: tuple[tuple[Window, int], ...] = ()
    usage: Usage = field(default_factory=Usage)
    #: Mapping from document id to the number of tokens truncated from the document to make a prompt fit; the largest
    #: number if the document was in several prompts. If passages were judged, passage ids are used.
    dropped: Mapping[str, int] = field(default_factory=dict)
    #: Whether the deadline passed before all windows were judged; windows that were not judged kept their order.
    expired: bool = False


@dataclass(frozen=True, slots=True)
class RerankOutcome:
    """The results of reranking several lists."""

    lists: tuple[RankedList, ...]  # the reranked lists, one per input list and in the same order

    @property
    def rankings(self) -> tuple[Ranking, ...]:
        return tuple(ranked.ranking for ranked in self.lists)

    @property
    def judged(self) -> tuple[tuple[Window, Verdict], ...]:
        return tuple(pair for ranked in self.lists for pair in ranked.judged)

    @property
    def split(self) -> tuple[tuple[Window, int], ...]:
        return tuple(pair for ranked in self.lists for pair in ranked.split)

    def failure_rate(self) -> float:
        failures = sum(verdict.status in FAILURES for _, verdict in self.judged)
        return failures / len(self.judged) if self.judged else 0.0


def count_statuses(judged: Iterable[tuple[Window, Verdict]]) -> dict[str, int]:
    """Return the number of judged windows per status, such as ``ok``, including statuses without windows."""
    counts = dict.fromkeys(map(str, STATUSES), 0)
    for _, verdict in judged:
        counts[verdict.status] += 1
    return counts


def final_scores(shown: Ranking, judged: Sequence[tuple[Window, Verdict]], kind: ScoreKind | None) -> dict[str, float]:
    """Return a mapping from document id to final score, for the documents that have a score.

    The latest score of a document is used. If scores are comparable only within a window, they are used only if exactly
    one window contained all documents and no other window followed it. A document whose latest window failed has no
    score.

    The result is empty if ``kind`` is None. ``judged`` is in the order of judging.
    """
    if kind is None or not judged:
        return {}
    if kind.scope == "within":
        whole = [index for index, (window, _) in enumerate(judged) if len(window) == len(shown)]
        judged = judged[-1:] if whole == [len(judged) - 1] else []
    latest: dict[str, float | None] = {}
    for window, verdict in judged:
        scores = verdict.scores or (None,) * len(window)
        latest |= zip((doc.id for doc in window.docs), scores, strict=True)
    return {doc_id: score for doc_id, score in latest.items() if score is not None and math.isfinite(score)}
