"""HTML page of the demonstration, with the best documents of each query before and after reranking."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise

from rerank.evaluation import Comparison
from rerank.io.page_style import read_page_style
from rerank.judges.attention.evidence import EvidenceSpan
from rerank.types import Document, Qrels, Query, Ranking, Run

#: Number of documents per list, and number of characters per document.
_SHOWN, _CHARACTERS = 5, 220
#: Number of shades of the words that drew attention.
_SHADES = 4

#: A function that returns the attention that each word of each document receives.
FindWords = Callable[[Query, Sequence[Document]], list[tuple[EvidenceSpan, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A document in one of the ranked lists of the page.

    Attributes:
        doc: The document.
        score: Score of the document, or its reciprocal rank if the ranking has no scores.
        moved: Number of ranks by which the document rose compared with the first list; negative if it fell.
        grade: Relevance grade of the document; None without a judgment.
        parts: Pieces of the document's text, each with the shade of its background, from 0 (none) to 4.
    """

    doc: Document
    score: float
    moved: int
    grade: int | None
    parts: list[tuple[str, int]]


def render_demo_page(
    comparison: Comparison, sentences: Sequence[str], runs: Sequence[Run], qrels: Qrels, find_words: FindWords | None
) -> str:
    """Render the demonstration's page.

    Args:
        comparison: The comparison of the runs; its first run is the first stage.
        sentences: Sentences that describe the results of the comparison.
        runs: The runs, in the order of the comparison; the first run contains the texts of the documents.
        qrels: The relevance judgments.
        find_words: Function that returns the attention of the last run's judge to each word of a document; None if this
            judge uses no attention.

    Returns:
        A self-contained HTML document.
    """
    from jinja2 import Environment

    values = comparison.decisions.matrix.values
    gains = values[:, 1] - values[:, 0]
    topics = comparison.decisions.matrix.topics
    best_first = sorted(range(len(topics)), key=lambda topic: (-gains[topic], topic))
    template = (files("rerank.experiment") / "demo_page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        css=read_page_style("rerank.experiment", "demo_page.css"),
        comparison=comparison,
        sentences=sentences,
        queries=[
            (runs[0][topics[n]].query.text, values[n], _lists_of_query(topics[n], runs, qrels, find_words))
            for n in best_first
        ],
        shades=range(1, _SHADES + 1) if find_words else (),
    )


def _lists_of_query(
    query_id: str, runs: Sequence[Run], qrels: Qrels, find_words: FindWords | None
) -> list[list[_Entry]]:
    first = runs[0][query_id]
    before = {doc.id: (rank, doc) for rank, doc in enumerate(first.docs)}
    lists = []
    for run in runs:
        ranking = run[query_id]
        docs = [before[doc.id][1] for doc in ranking.docs[:_SHOWN]]
        words = find_words(first.query, docs) if find_words and run is runs[-1] else [()] * len(docs)
        lists.append(
            [
                _Entry(
                    doc=doc,
                    score=_score_at(ranking, rank),
                    moved=before[doc.id][0] - rank,
                    grade=qrels.get(query_id, {}).get(doc.id),
                    parts=list(_shade_words(doc.text, spans)),
                )
                for rank, (doc, spans) in enumerate(zip(docs, words, strict=True))
            ]
        )
    return lists


def _score_at(ranking: Ranking, rank: int) -> float:
    return ranking.scores[rank] if ranking.scores else 1 / (rank + 1)


def _shade_words(text: str, spans: Sequence[EvidenceSpan]) -> Iterator[tuple[str, int]]:
    """Yield the pieces of the beginning of a text with their shades; the highest score has the darkest shade."""
    if len(text) > _CHARACTERS:
        text = text[:_CHARACTERS].rsplit(maxsplit=1)[0] + " …"
    largest = max((span.score for span in spans), default=0)
    shades = {span.start: min(_SHADES, int(span.score / largest * (_SHADES + 1))) for span in spans if largest}
    borders = {0, len(text), *(border for span in spans for border in (span.start, span.end))}
    for start, end in pairwise(sorted(border for border in borders if border <= len(text))):
        yield text[start:end], shades.get(start, 0)
