"""Selection of evidence for a query: the spans of each document with the most attention in an attention judge."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict, Unpack

from rerank.errors import UsageError
from rerank.judges import PromptJudge
from rerank.judges.attention import Attention
from rerank.judges.attention.evidence import THRESHOLD, EvidenceSpan, EvidenceUnit, select_evidence
from rerank.tasks import Backend
from rerank.tasks.requests import Usage
from rerank.tasks.tracing import generate_traced
from rerank.types import Document, Query, Window


class EvidenceOptions(TypedDict, total=False):
    """Options of `find_evidence`."""

    unit: EvidenceUnit  # unit of spans: sentences (the default) or words
    #: Minimum fraction of a document's attention that each unit of a span receives, by default 0.1. If None, every unit
    #: is a separate span, as needed for a heat map of the text.
    threshold: float | None
    max_spans: int | None  # maximum number of spans per document; None (the default) for all
    usage: Usage | None  # totals to which the cost of the requests is added; None (the default) for no totals


def find_evidence(
    judge: PromptJudge,
    backend: Backend,
    query: Query,
    documents: Sequence[Document],
    **options: Unpack[EvidenceOptions],
) -> list[tuple[EvidenceSpan, ...]]:
    """Return the spans of each document that receive the most attention from the query.

    The result has one tuple per document, with its spans in text order. Offsets are code points of `Document.text`,
    without the title. Documents are not truncated to the judge's limit on passages: if they do not fit in one prompt,
    several are sent. Only the end of a single document that does not fit in the context is truncated, without spans.
    """
    if not isinstance(judge, Attention):
        raise UsageError(
            f"The judge {type(judge).__name__.lower()!r} cannot return evidence",
            expected="the attention judge",
            remedy="Use --method icr, or an adapter for this method",
        )
    unit: EvidenceUnit = options.get("unit", "sentence")
    threshold, max_spans = options.get("threshold", THRESHOLD), options.get("max_spans")
    select_evidence((), threshold=threshold, max_spans=max_spans)  # checks the settings
    # The documents get their positions as ids, since their own ids may be repeated.
    numbered = tuple(replace(document, id=str(index)) for index, document in enumerate(documents))
    windows = judge.evidence_windows(Window(query, numbered)) if documents else []
    calls = [(judge.evidence_request(window), None) for window in windows]
    replies = generate_traced(backend, calls) if calls else []
    usage = options.get("usage") or Usage()
    for reply in replies:
        usage.add_answer(reply)
    return [
        select_evidence(units, threshold=threshold, max_spans=max_spans)
        for window, reply in zip(windows, replies, strict=True)
        for units in judge.evidence(window, reply, unit)
    ]
