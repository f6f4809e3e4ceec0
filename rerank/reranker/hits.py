"""Data types for the output of a reranker: ranked documents with scores, and a report on the ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rerank.errors import UsageError
from rerank.tasks.usage import Usage
from rerank.types import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A ranked document.

    Attributes:
        corpus_id: Position of the document in the input list, from 0.
        rank: Rank of the document, from 1.
        score: The judge's score, of the kind named by `Hits.score_kind`; None if the judge did not score the document.
        rank_score: 1/rank, which is not an estimate of relevance.
        relevance: Calibrated probability that the document is relevant, which never increases from one rank to the
            next; None without a calibration.
        document: The document.
    """

    corpus_id: int
    rank: int
    document: Document
    score: float | None = None
    relevance: float | None = None

    @property
    def rank_score(self) -> float:
        """Reciprocal rank."""
        return 1.0 / self.rank

    @property
    def text(self) -> str:
        """The document's text."""
        return self.document.text

    @property
    def source(self) -> Mapping[str, Any]:
        """Further keys of the input document, such as its URL, which do not affect the ranking."""
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
    """The amount of text that was cut off documents, so that prompts fit in the context and passages in their limit.

    Attributes:
        passages: Number of documents, or passages of long documents, that were cut.
        tokens: Total number of tokens that were cut off.
    """

    passages: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankingReport:
    """Information about a ranking, apart from its order.

    Attributes:
        windows: Number of judged windows per status, such as ``ok`` or ``error``.
        score_kind: Kind of the scores, such as ``log-odds of relevance``; empty if the judge computes no scores.
        has_absolute_scores: Whether scores can be compared with those of other lists.
        usage: Number of calls, number of tokens, and model time in seconds; replies from a cache count only as calls.
        cost: Cost in US dollars; None if the price is unknown.
        cut: Amount of text that was cut off the documents.
        answerable: Calibrated probability that at least one document is relevant; None without a calibration.
        fit: Name of the calibration's fit that was used, such as ``judge+first-stage``; empty without a calibration.
        expired: Whether the deadline passed before all windows were judged.
        notes: Messages for the user, such as about failed windows or a passed deadline; empty if there are none.
    """

    windows: Mapping[str, int] = field(default_factory=dict)
    score_kind: str = ""
    has_absolute_scores: bool = False
    usage: Usage = field(default_factory=Usage)
    cost: float | None = None
    cut: Cut = field(default_factory=Cut)
    answerable: float | None = None
    fit: str = ""
    expired: bool = False
    notes: tuple[str, ...] = ()


class Hits(tuple[Hit, ...]):
    """The ranked documents, best first.

    Attributes:
        report: Information about the ranking; most attributes of the report are also attributes of the hits.
    """

    report: RankingReport

    def __new__(cls, hits: Iterable[Hit] = (), *, report: RankingReport | None = None) -> Self:
        """Build the tuple from hits and the report."""
        self = super().__new__(cls, hits)
        self.report = report or RankingReport()
        return self

    @property
    def windows(self) -> Mapping[str, int]:
        """Number of judged windows per status."""
        return self.report.windows

    @property
    def score_kind(self) -> str:
        """Kind of the scores, such as ``log-odds of relevance``; empty if the judge computes no scores."""
        return self.report.score_kind

    @property
    def usage(self) -> Usage:
        """Number of calls, number of tokens, and model time in seconds."""
        return self.report.usage

    @property
    def cost(self) -> float | None:
        """Cost in US dollars; None if the price is unknown."""
        return self.report.cost

    @property
    def cut(self) -> Cut:
        """Amount of text that was cut off the documents."""
        return self.report.cut

    @property
    def answerable(self) -> float | None:
        """Calibrated probability that at least one document is relevant; None without a calibration."""
        return self.report.answerable

    @property
    def expired(self) -> bool:
        """Whether the deadline passed before all windows were judged."""
        return self.report.expired

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages for the user about this ranking, such as about failed windows; empty if there are none."""
        return self.report.notes

    def top_k(self, k: int) -> Hits:
        """Return the first ``k`` hits.

        Raises:
            UsageError: ``k`` is below 0.
        """
        check_reranker_top_k(k)
        return Hits(self[:k], report=self.report)

    def at_least(self, threshold: float) -> Hits:
        """Return the hits whose calibrated relevance is at least ``threshold``.

        Raises:
            UsageError: A hit has no calibrated relevance.
        """
        if any(hit.relevance is None for hit in self):
            raise UsageError(
                "A threshold is set, but the hits have no calibrated relevance",
                expected="a calibration, because raw scores have no common scale",
                remedy="Fit a calibration with `rerank calibrate` and pass calibration=FILE",
            )
        return Hits((hit for hit in self if (hit.relevance or 0.0) >= threshold), report=self.report)


def check_reranker_top_k(k: object) -> None:
    """Check that a value is a valid number of hits, or None."""
    if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 0):
        raise UsageError(f"top_k is {k!r}", expected="a whole number from 0, or None for all")
