"""Data types for the output of a reranker: ranked documents with scores, and a report on the ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp
from typing import Any, Literal, Self

from rerank.errors import UsageError
from rerank.tasks.requests import Usage
from rerank.types import Document

#: What `Hit.unit_score` is: a calibrated probability; a number that is computed from the judge's score alone and is not
#: a probability; or 1/rank.
UnitKind = Literal["probability", "uncalibrated", "rank"]


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
    #: What the server sends as ``relevance_score``, strictly decreasing; `RankingReport.unit_kind` tells what it is.
    unit_score: float

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
    unit_kind: UnitKind = "rank"  # what the ``unit_score`` of the hits is
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
    def unit_kind(self) -> UnitKind:
        return self.report.unit_kind

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
        """Return the hits whose probability of relevance or, without a calibration, uncalibrated score reaches it.

        A note says that a threshold was applied to uncalibrated scores. If hits have only 1/rank, it is a `UsageError`.
        """
        if not self or self.unit_kind == "probability":
            return Hits((hit for hit in self if (hit.relevance or 0.0) >= threshold), report=self.report)
        if self.unit_kind == "rank":
            raise threshold_error(threshold)
        note = f"The threshold {threshold:g} was applied to uncalibrated scores, which are not probabilities"
        report = replace(self.report, notes=(*self.notes, note))
        return Hits((hit for hit in self if hit.unit_score >= _separated(threshold, hit.rank)), report=report)


def threshold_error(threshold: object) -> UsageError:
    """Return the error for a threshold where hits have only 1/rank."""
    return UsageError(
        f"threshold is {threshold!r}, but the reranker has no calibration, and no absolute score alone orders the hits",
        expected="probabilities, or scores of a cross-encoder or a pointwise method without first-stage scores",
        remedy="Fit a calibration with `rerank calibrate` and pass calibration=FILE",
    )


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


def _separated(value: float, rank: int) -> float:
    """Return a value that strictly decreases with the rank if values do not increase; for values from 1e-6, by 1e-9."""
    return value - rank * _STEP * max(abs(value), _MARGIN)


def compute_unit_scores(
    scores: Sequence[float | None], relevance: Sequence[float | None], unit: str, divisor: float = 1.0
) -> tuple[list[float], UnitKind]:
    """Return the ``unit_score`` of each hit, best first, and what these scores are.

    They are ``relevance``, clipped to [1e-6, 1 - 1e-6]; without a calibration, what ``unit`` (`ScoreKind.unit`) makes
    of the scores if every hit has one and they order the hits: 1 / (1 + exp(-score / divisor)), at least 1e-6, or
    the score itself; otherwise 1 / rank. Equal scores are separated: at rank r, x becomes x (1 - 1e-9 r).
    """
    found: list[float] = [min(max(p, _MARGIN), 1 - _MARGIN) for p in relevance if p is not None]
    kind: UnitKind = "probability"
    if not found or len(found) < len(relevance):
        found, kind = [score for score in scores if score is not None], "uncalibrated"
        if not unit or len(found) < len(scores) or found != sorted(found, reverse=True):
            return [1.0 / rank for rank in range(1, len(scores) + 1)], "rank"
        if unit == "sigmoid":
            found = [max(_sigmoid(score / divisor), _MARGIN) for score in found]
    return [_separated(value, rank) for rank, value in enumerate(found, 1)], kind


def _sigmoid(logit: float) -> float:
    return 1 / (1 + exp(-logit)) if logit > -700 else 0.0  # exp(710) overflows


def describe_unit_scores(hits: Hits) -> list[str]:
    """Return the warnings about the ``unit_score`` of hits, for the responses of servers."""
    if not hits or hits.unit_kind == "probability":
        return []
    if hits.unit_kind == "rank":
        return [RANK_BASED]
    return [
        f"relevance_score is uncalibrated: it is computed from the method's score alone ({hits.score_kind}), and is "
        "not a probability (rerank calibrate)."
    ]


def compute_pair_scores(lists: Sequence[Hits]) -> tuple[list[list[float]], list[str]]:
    """Return scores of (query, document) pairs from several lists, and warnings about the scores.

    They are the unit scores. Where these would be 1 / rank in the list of the query, they are the judge's own scores if
    these do not depend on other documents and every hit has one.
    """
    if all(found.unit_kind != "rank" for found in lists if found):
        notes = dict.fromkeys(note for found in lists for note in describe_unit_scores(found))
        return [[hit.unit_score for hit in found] for found in lists], list(notes)
    own = [[hit.score for hit in found if hit.score is not None] for found in lists]
    if all(found.report.has_absolute_scores for found in lists) and list(map(len, own)) == list(map(len, lists)):
        kinds = ", ".join(dict.fromkeys(found.score_kind for found in lists))
        return own, [f"The scores are the method's own ({kinds}), not probabilities, because it has no calibration."]
    return [[hit.rank_score for hit in found] for found in lists], [RANK_BASED]
