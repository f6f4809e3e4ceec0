"""The runs of `rerank demo`, which rerank BM25's candidates from Python's library documentation, and compare them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

from rerank.collections.pydoc import DEMO_SAMPLE
from rerank.evaluation import Comparison, compare_runs
from rerank.experiment.prepare import PreparedRun
from rerank.experiment.spec import RunSpec
from rerank.io.reports import read_page_style
from rerank.io.text_files import replace_text_file
from rerank.judges.attention import Attention
from rerank.judges.attention.evidence import EvidenceSpan
from rerank.pipeline.evidence import find_evidence
from rerank.store import CallLog, RunFolder, log_calls
from rerank.types import Document, Qrels, Query, Run

#: Number of candidates. It exceeds one window of twenty, so that full and sliding-window reranking differ.
DEPTH = 30
METHODS = ("fullrank", "sliding")
#: The shipped adapter and its base model.
ADAPTER, BASE = "smollm2-135m-attention", "smollm2-135m"
#: Maximum number of tokens per passage. The first lines of a documentation entry say what it is about, and a small
#: model ranks short passages better.
PASSAGE_TOKENS = 48
MEASURE = "nDCG@10"


def specify_runs(*, model: str, everything: bool = False) -> list[RunSpec]:
    """Return the specifications of the demonstration's runs."""
    queries = () if everything else DEMO_SAMPLE
    shared: dict[str, Any] = {"collection": "pydoc", "depth": DEPTH, "queries": queries, "measures": (MEASURE,)}
    full, sliding = (
        RunSpec(method=method, model=model, max_passage_tokens=PASSAGE_TOKENS, **shared) for method in METHODS
    )
    if model != BASE:
        return [full, sliding]
    return [RunSpec(model=model, **shared), full, RunSpec(adapter=ADAPTER, **shared)]


def describe_differences(comparison: Comparison) -> list[str]:
    """Return one sentence per pair of runs: which run is better, or that the difference is not significant."""
    sentences = []
    for pair in comparison.pairs:
        a, b, difference, low, high = pair.a, pair.b, pair.difference, pair.low, pair.high
        if difference < 0:
            a, b, difference, low, high = b, a, -difference, -high, -low
        how = "is significantly above" if pair.significant else "is not significantly different from"
        p = "no p-value" if pair.p_adjusted is None else f"p = {pair.p_adjusted:.2g}"
        sentences.append(f"{a} {how} {b}: {difference:+.3f} [{low:+.3f}, {high:+.3f}], {p}")
    return sentences


def compare_with_bm25(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare the runs with BM25: return ``comparison``, and in ``costs`` calls, tokens and seconds of each run."""
    folders = [RunFolder.existing(summary["folder"]) for summary in summaries]
    runs = _read_runs(folders)
    costs = [{"run": run.name, **summary} for run, summary in zip(runs[1:], summaries, strict=True)]
    comparison = compare_runs(folders[0].read_qrels(), runs, MEASURE)
    counts = ("queries", "windows", "calls", "reused_calls", "tokens_in", "tokens_out", "seconds")
    columns = ("run", "method", *counts, "folder")
    return {"comparison": comparison, "costs": [{key: row[key] for key in columns} for row in costs]}


def _read_runs(folders: Sequence[RunFolder]) -> list[Run]:
    """Return the candidates of the first folder, as a run named ``bm25``, and the reranked run of each folder."""
    return [
        Run(folders[0].read_candidates().values(), name="bm25"),
        *(folder.read_run("run.trec") for folder in folders),
    ]


def write_page(path: Path, report: dict[str, Any], sentences: Sequence[str], prepared: Sequence[PreparedRun]) -> None:
    """Write an HTML page with the best documents of each query, before and after reranking.

    If the judge of the last run uses attention, words are shaded by their attention. The model calls for this are
    logged in a file next to the page, so that they are not repeated.
    """
    reranked = _read_runs([RunFolder.existing(row["folder"]) for row in report["costs"]])[1:]
    runs, qrels, last = [prepared[0].first_stage, *reranked], prepared[0].qrels, prepared[-1]
    render = partial(render_page, report["comparison"], sentences, runs, qrels)
    if isinstance(last.judge, Attention):
        with CallLog(path.with_suffix(".calls.sqlite")) as log:
            backend = log_calls(last.backend, log)
            page = render(partial(find_evidence, last.judge, backend, unit="word", threshold=None))
    else:
        page = render(None)
    with replace_text_file(path) as file:
        file.write(page)


#: Number of documents per list, and number of characters per document.
_SHOWN, _CHARACTERS = 5, 220
#: Number of shades of the words that drew attention.
_SHADES = 4

#: A function that returns the attention that each word of each document receives.
FindWords = Callable[[Query, Sequence[Document]], list[tuple[EvidenceSpan, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A document in one of the ranked lists of the page."""

    doc: Document
    score: float  # score of the document, or its reciprocal rank if the ranking has no scores
    moved: int  # number of ranks by which the document rose compared with the first list; negative if it fell
    grade: int | None  # relevance grade of the document; None without a judgment
    #: Pieces of the document's text, each with the shade of its background, from 0 (none) to 4.
    parts: list[tuple[str, int]]


def render_page(
    comparison: Comparison, sentences: Sequence[str], runs: Sequence[Run], qrels: Qrels, find_words: FindWords | None
) -> str:
    """Render the demonstration's page as a self-contained HTML document; ``find_words`` finds the words to shade."""
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
                    score=ranking.scores[rank] if ranking.scores else 1 / (rank + 1),
                    moved=before[doc.id][0] - rank,
                    grade=qrels.get(query_id, {}).get(doc.id),
                    parts=list(_shade_words(doc.text, spans)),
                )
                for rank, (doc, spans) in enumerate(zip(docs, words, strict=True))
            ]
        )
    return lists


def _shade_words(text: str, spans: Sequence[EvidenceSpan]) -> Iterator[tuple[str, int]]:
    """Yield the pieces of the beginning of a text with their shades; the highest score has the darkest shade."""
    if len(text) > _CHARACTERS:
        text = text[:_CHARACTERS].rsplit(maxsplit=1)[0] + " …"
    largest = max((span.score for span in spans), default=0)
    shades = {span.start: min(_SHADES, int(span.score / largest * (_SHADES + 1))) for span in spans if largest}
    borders = {0, len(text), *(border for span in spans for border in (span.start, span.end))}
    for start, end in pairwise(sorted(border for border in borders if border <= len(text))):
        yield text[start:end], shades.get(start, 0)
