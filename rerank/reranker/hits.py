"""Data types for the output of a reranker: ranked documents with scores, and a report on the ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, inf
from typing import Any, Literal, Self

from rerank.errors import UsageError, ensure
from rerank.judges.attention.evidence import EvidenceSpan
from rerank.judges.base import FAILURES, SELECTION
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


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedHit:
    """A hit that a method of `Hits` left out, and why."""

    hit: Hit
    step: str  # name of the method, such as ``unique``
    reason: str


def _of_report(name: str) -> Any:
    return property(lambda hits: getattr(hits.report, name), doc=f"``{name}`` of the report.")


class Hits(tuple[Hit, ...]):
    """The ranked documents, best first.

    `selected`, `unique`, `diverse`, `fit`, `top_k` and `at_least` return some of the hits, with unchanged ranks; the
    others are in ``dropped``. They can be combined, as in ``hits.unique().diverse(8).fit(1500)``.
    """

    #: Information about the ranking; most attributes of the report are also attributes of the hits.
    report: RankingReport
    windows: Mapping[str, int] = _of_report("windows")
    score_kind: str = _of_report("score_kind")
    unit_kind: UnitKind = _of_report("unit_kind")
    usage: Usage = _of_report("usage")
    cost: float | None = _of_report("cost")
    cut: Cut = _of_report("cut")
    answerable: float | None = _of_report("answerable")
    expired: bool = _of_report("expired")
    notes: tuple[str, ...] = _of_report("notes")
    dropped: tuple[DroppedHit, ...]  # the hits of the ranking that were left out, in this order
    #: The reranker's own token counter, which estimates the tokens of models behind an API; None after pickling.
    count_tokens: Callable[[list[str]], list[int]] | None = None

    def __new__(
        cls, hits: Iterable[Hit] = (), *, report: RankingReport | None = None, dropped: Iterable[DroppedHit] = ()
    ) -> Self:
        self = super().__new__(cls, hits)
        self.report, self.dropped = report or RankingReport(), tuple(dropped)
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "count_tokens": None}  # it belongs to an open model

    def top_k(self, k: int) -> Hits:
        check_top_k(k, "k")
        return self._keep("top_k", self[:k], f"not among the first {k}")

    def at_least(self, threshold: float) -> Hits:
        """Return the hits whose probability of relevance or, without a calibration, uncalibrated score reaches it.

        A note says that a threshold was applied to uncalibrated scores. If hits have only 1/rank, it is a `UsageError`.
        """
        if self and self.unit_kind == "rank":
            raise threshold_error(threshold)
        if not self or self.unit_kind == "probability":
            kept, note = [hit for hit in self if (hit.relevance or 0.0) >= threshold], ""
        else:
            kept = [hit for hit in self if hit.unit_score >= _separated(threshold, hit.rank)]
            note = f"The threshold {threshold:g} was applied to uncalibrated scores, which are not probabilities"
        return self._keep("at_least", kept, f"score below {threshold:g}", note)

    def selected(self) -> Hits:
        """Return the hits that the model selected, with a method that selects a set, such as ``setr``.

        If the selection is not known, because a reply failed or only one document was given, hits without one are kept.
        """
        if self and self.score_kind != SELECTION.name:
            raise UsageError("The hits come from a method that selects no set of documents", expected="method='setr'")
        is_known = any(hit.score is not None for hit in self) and not self.expired
        is_known = is_known and not any(self.windows.get(status) for status in FAILURES)
        kept = [hit for hit in self if hit.score or (hit.score is None and not is_known)]
        unknown = sum(hit.score is None for hit in kept)
        note = f"selected: {unknown} hits were kept, as it is not known whether they are selected" * bool(unknown)
        return self._keep("selected", kept, "not selected by the model", note)

    def unique(self, threshold: float = 0.8) -> Hits:
        """Return the hits without near-duplicates, of which the first is kept.

        A hit is a near-duplicate if the Jaccard index of its shingles (three words of title and text) and those of a
        hit that is kept is at least ``threshold``. Hits without words, such as pictures, are kept.
        """
        from rerank.reranker.choosing import find_near_duplicates  # imports numpy

        _check_number("threshold", threshold, 1e-9, 1, "a Jaccard index above 0, up to 1")
        found = find_near_duplicates([hit.document.full_text for hit in self], threshold)
        kept = [hit for position, hit in enumerate(self) if position not in found]
        reasons = {
            position: f"Jaccard index {index:.2f} with rank {self[original].rank}, {self[original].document.id!r}"
            for position, (original, index) in found.items()
        }
        note = f"unique: {len(found)} of {len(self)} hits were near-duplicates" if found else ""
        return self._keep("unique", kept, reasons, note)

    def diverse(self, k: int | None = None, weight: float = 0.5, *, vectors: Sequence[Any] | None = None) -> Hits:
        """Return ``k`` hits (None for all) by maximal marginal relevance, in the order in which they are selected.

        Each step selects the largest ``weight`` * relevance - (1 - ``weight``) * similarity to the most similar hit
        selected before. The relevance is the calibrated one; without a calibration, the judge's score if all hits have
        one that does not increase from hit to hit; otherwise the negative rank. It is scaled to 0..1 within the list.
        The similarity is the cosine of ``vectors``, one per document that was ranked; if omitted, of the
        documents' keys ``embedding``; if a hit has none, of BM25's term weights (`rerank.reranker.choosing`).
        """
        from rerank.reranker.choosing import normalize_vectors, select_diverse, weigh_terms  # imports numpy

        check_top_k(k, "k")
        _check_number("weight", weight, 0, 1, "a number from 0 (only diversity) to 1 (only relevance)")
        embeddings = [hit.source.get("embedding") for hit in self]
        if vectors is not None:
            most = max((hit.corpus_id for hit in self), default=-1)
            expected = f"one per document that was ranked, at least {most + 1}"
            ensure(len(vectors) > most, f"There are {len(vectors)} vectors", expected=expected)
            rows, name = normalize_vectors([vectors[hit.corpus_id] for hit in self]), "the given vectors"
        elif all(embedding is not None for embedding in embeddings):
            rows, name = normalize_vectors(embeddings), "the documents' embeddings"
        else:
            rows, name = weigh_terms([hit.document.full_text for hit in self]), "BM25's term weights"
        count = len(self) if k is None else k
        kept = [self[position] for position in select_diverse(_relevance_values(self), rows, count, weight)]
        note = f"diverse: {len(kept)} of {len(self)} hits, by the cosine of {name}"
        return self._keep("diverse", kept, f"not among the {count} selected", note)

    def fit(
        self,
        tokens: int,
        *,
        count: Callable[[str], int] | None = None,
        evidence: Sequence[Sequence[EvidenceSpan]] | None = None,
    ) -> Hits:
        """Return the hits that fit in a number of tokens, in their order.

        A hit whose title and text have more tokens than are left is dropped, and later hits may still fit. Texts are
        never truncated, and pictures do not count.

        Args:
            tokens: Maximum number of tokens of all hits together.
            count: Function that returns the number of tokens of a text; by default, the reranker's own tokenizer.
            evidence: One list of spans per hit, from `Reranker.evidence` for the documents of the hits. They replace
                the text of the hit: as many of those with the highest scores as fit, in the order of the text.
        """
        _check_number("tokens", tokens, 0, inf, "a number of tokens from 0")
        if evidence is not None and len(evidence) != len(self):
            raise UsageError(f"There are spans for {len(evidence)} hits", expected=f"those of {len(self)} hits")
        if self and count is None and self.count_tokens is None:
            raise UsageError("These hits have no tokenizer after pickling", expected="count=, a function of a text")
        kept: list[Hit] = []
        reasons: dict[int, str] = {}
        left = tokens
        for position, hit in enumerate(self):
            choices = [hit] if evidence is None else _shorten(hit, evidence[position])
            texts = [choice.document.full_text for choice in choices]
            sizes = [*map(count, texts)] if count else self.count_tokens(texts) if self.count_tokens else []
            fitting = [index for index, size in enumerate(sizes) if size <= left]
            if fitting:
                kept.append(choices[fitting[-1]])
                left -= sizes[fitting[-1]]
            else:
                reasons[position] = f"{min(sizes)} tokens, but {left} were left" if sizes else "no evidence"
        by = "the given function" if count else "the reranker's tokenizer"
        note = f"fit: {len(kept)} of {len(self)} hits, {tokens - left} of {tokens} tokens by {by}"
        return self._keep("fit", kept, reasons, note)

    def _keep(self, step: str, kept: Sequence[Hit], reasons: str | Mapping[int, str], note: str = "") -> Hits:
        """Return the kept hits; the reasons to drop the others are by position in this list, or the same for all."""
        ranks = {hit.rank for hit in kept}
        dropped = [
            DroppedHit(hit=hit, step=step, reason=reasons if isinstance(reasons, str) else reasons[position])
            for position, hit in enumerate(self)
            if hit.rank not in ranks
        ]
        report = replace(self.report, notes=(*self.notes, note)) if note else self.report
        hits = Hits(kept, report=report, dropped=(*self.dropped, *dropped))
        hits.count_tokens = self.count_tokens
        return hits


def _relevance_values(hits: Sequence[Hit]) -> list[float]:
    for values in ([hit.relevance for hit in hits], [hit.score for hit in hits]):
        known = [value for value in values if value is not None]
        if len(known) == len(hits) and known == sorted(known, reverse=True):
            return known
    return [-float(hit.rank) for hit in hits]


def _shorten(hit: Hit, spans: Sequence[EvidenceSpan]) -> list[Hit]:
    """Return the hit with the best span as its text, then with the best two, and so on, in the order of the text."""
    best = sorted(spans, key=lambda span: -span.score)
    parts = (sorted(best[:count], key=lambda span: span.start) for count in range(1, len(best) + 1))
    texts = (" ".join(hit.text[span.start : span.end] for span in part) for part in parts)
    return [replace(hit, document=replace(hit.document, text=text)) for text in texts]


def _check_number(name: str, value: object, least: float, most: float, expected: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    ensure(is_number, f"{name} is {value!r}", expected=expected)


def threshold_error(threshold: object) -> UsageError:
    """Return the error for a threshold where hits have only 1/rank."""
    return UsageError(
        f"threshold is {threshold!r}, but the reranker has no calibration, and no absolute score alone orders the hits",
        expected="probabilities, or scores of a cross-encoder or a pointwise method without first-stage scores",
        remedy="Fit a calibration with `rerank calibrate` and pass calibration=FILE",
    )


def check_top_k(k: object, name: str = "top_k") -> None:
    """Check that a value is a valid number of hits, or None."""
    if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 0):
        raise UsageError(f"{name} is {k!r}", expected="a whole number from 0, or None for all")


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
