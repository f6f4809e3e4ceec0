"""Data types for the output of a reranker: ranked documents with scores, and a report on the ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rerank.errors import UsageError
from rerank.tasks.requests import Usage
from rerank.types import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A ranked document; its ``rank_score`` is 1/rank, which is not an estimate of relevance."""

    corpus_id: int  # position of the document in the input list, from 0
    rank: int  # rank of the document, from 1
    document: Document
    #: The judge's score, of the kind named by `Hits.score_kind`; None if the judge did not score the document.
    score: float | None = None
    #: Calibrated probability that the document is relevant, which never increases from one rank to the next; None
    #: without a calibration.
    relevance: float | None = None

    @property
    def rank_score(self) -> float:
        return 1.0 / self.rank

    @property
    def text(self) -> str:
        return self.document.text

    @property
    def source(self) -> Mapping[str, Any]:
        return self.document.source

    def to_json(self) -> dict[str, Any]:
        """Return the hit as a JSON object, including the other keys that came with the document."""
        shown = {"id": self.document.id, "title": self.document.title, "text": self.document.text}
        return {
            **self.source,
            **{key: value for key, value in shown.items() if value},
            "corpus_id": self.corpus_id,
            "rank": self.rank,
            "score": self.score,
            "relevance": self.relevance,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The amount of text that was cut off documents, so that prompts fit in the context and passages in their limit."""

    passages: int = 0  # number of documents, or passages of long documents, that were cut
    tokens: int = 0  # total number of tokens that were cut off


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingReport:
    """Information about a ranking, apart from its order."""

    #: Number of judged windows per status, such as ``ok`` or ``error``.
    windows: Mapping[str, int] = field(default_factory=dict)
    score_kind: str = ""  # kind of the scores, such as ``log-odds of relevance``; empty if the judge computes no scores
    has_absolute_scores: bool = False  # whether scores can be compared with those of other lists
    #: Number of calls, number of tokens, and model time in seconds; replies from a cache count only as calls.
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None  # cost in US dollars; None if the price is unknown
    cut: Cut = field(default_factory=Cut)  # amount of text that was cut off the documents
    #: Calibrated probability that at least one document is relevant; None without a calibration.
    answerable: float | None = None
    #: Name of the calibration's fit that was used, such as ``judge+first-stage``; empty without a calibration.
    fit: str = ""
    expired: bool = False  # whether the deadline passed before all windows were judged
    #: Messages for the user, such as about failed windows or a passed deadline; empty if there are none.
    notes: tuple[str, ...] = ()


class Hits(tuple[Hit, ...]):
    """The ranked documents, best first."""

    #: Information about the ranking; most attributes of the report are also attributes of the hits.
    report: RankingReport

    def __new__(cls, hits: Iterable[Hit] = (), *, report: RankingReport | None = None) -> Self:
        self = super().__new__(cls, hits)
        self.report = report or RankingReport()
        return self

    @property
    def windows(self) -> Mapping[str, int]:
        return self.report.windows

    @property
    def score_kind(self) -> str:
        return self.report.score_kind

    @property
    def usage(self) -> Usage:
        return self.report.usage

    @property
    def cost(self) -> float | None:
        return self.report.cost

    @property
    def cut(self) -> Cut:
        return self.report.cut

    @property
    def answerable(self) -> float | None:
        return self.report.answerable

    @property
    def expired(self) -> bool:
        return self.report.expired

    @property
    def notes(self) -> tuple[str, ...]:
        return self.report.notes

    def top_k(self, k: int) -> Hits:
        check_top_k(k)
        return Hits(self[:k], report=self.report)

    def at_least(self, threshold: float) -> Hits:
        """Return the hits whose calibrated relevance is at least ``threshold``; `UsageError` if a hit has none."""
        if any(hit.relevance is None for hit in self):
            raise UsageError(
                "A threshold is set, but the hits have no calibrated relevance",
                expected="a calibration, because raw scores have no common scale",
                remedy="Fit a calibration with `rerank calibrate` and pass calibration=FILE",
            )
        return Hits((hit for hit in self if (hit.relevance or 0.0) >= threshold), report=self.report)


def check_top_k(k: object) -> None:
    """Check that a value is a valid number of hits, or None."""
    if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 0):
        raise UsageError(f"top_k is {k!r}", expected="a whole number from 0, or None for all")


_MARGIN = 1e-6  #: Probabilities are clipped to [_MARGIN, 1 - _MARGIN].
#: Relative decrease per rank. Clients sort by score, so the order of hits with equal probabilities would be lost.
_STEP = 1e-9

#: Warning for responses whose scores are computed from ranks.
RANK_BASED = (
    "relevance_score is 1 / rank: it shows the order and is not an estimate of relevance. The method has no "
    "calibration (rerank calibrate)."
)


def compute_relevance_scores(hits: Sequence[Hit]) -> tuple[list[float], list[str]]:
    """Return the relevance scores of the hits, strictly decreasing and in (0, 1], and warnings about the scores.

    The score of a hit at rank r with the calibrated probability p, clipped to [1e-6, 1 - 1e-6], is p (1 - 1e-9 r).
    Without a calibration, it is 1 / r.
    """
    probabilities = [hit.relevance for hit in hits if hit.relevance is not None]
    if len(probabilities) < len(hits):
        return [hit.rank_score for hit in hits], [RANK_BASED]
    return [
        min(max(probability, _MARGIN), 1 - _MARGIN) * (1 - hit.rank * _STEP)
        for hit, probability in zip(hits, probabilities, strict=True)
    ], []


def compute_pair_scores(lists: Sequence[Hits]) -> tuple[list[list[float]], list[str]]:
    """Return scores of (query, document) pairs from several lists, and warnings about the scores.

    The scores are calibrated probabilities. Without a calibration, they are the judge's own scores if these do not
    depend on other documents and every hit has one; otherwise they are 1 / rank in the list of the query.
    """
    hits = [hit for found in lists for hit in found]
    if (
        any(hit.relevance is None for hit in hits)
        and all(found.report.has_absolute_scores for found in lists)
        and all(hit.score is not None for hit in hits)
    ):
        kinds = ", ".join(dict.fromkeys(found.score_kind for found in lists))
        warning = f"The scores are the method's own ({kinds}), not probabilities, because it has no calibration."
        return [[hit.score for hit in found if hit.score is not None] for found in lists], [warning]
    scored = [compute_relevance_scores(found) for found in lists]
    return [scores for scores, _ in scored], list(dict.fromkeys(note for _, notes in scored for note in notes))
