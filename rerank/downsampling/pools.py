"""Smaller corpora: the union of some runs' first documents and the relevant ones, as hard negatives.

The corpus is one for all queries, the union of their pools. A system is scored on it by its list without the documents
that are not in it. That is what the system would retrieve where a document's score does not depend on the others (dense
and cross-encoder models), and close to it for BM25, whose word weights would be another corpus's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rerank.adjudication.measuring import by_measure
from rerank.adjudication.pools import pool
from rerank.downsampling.goals import Goal, Paired, compared, counted, judged, pairs_by_fate
from rerank.downsampling.results import Choice, Step, smallest
from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation import parse_measures
from rerank.types import Qrels, Ranking, Run

#: Depths that are tried if none are named.
DEPTHS = (1, 2, 3, 5, 10, 20, 30, 50, 75, 100, 150, 250)
#: Query -> the documents of its pool.
Docs = Mapping[str, frozenset[str]]


def choose_pool(
    runs: Sequence[Run],
    qrels: Qrels,
    goal: Goal,
    *,
    makers: Sequence[str] = (),
    measure: str = "nDCG@10",
    depths: Sequence[int] = DEPTHS,
    paired: Paired | None = None,
) -> Choice:
    """Find the least depth k whose pools say what the whole lists say.

    Args:
        runs: The systems, as deep as they are known: that is the whole.
        qrels: The judgments. Their relevant documents are in every corpus.
        goal: What must be kept.
        makers: Names of the runs whose first k documents make the pools; all of them if empty.
        measure: What systems are compared by; a binary one names its grade, as ``AP(rel=2)@100``.
        depths: Values of k to try.
        paired: How differences are tested; by paired t tests, corrected after Benjamini and Hochberg, if left out.

    Raises:
        RerankError: A maker that is no run, no such measure, or a depth below 1.
    """
    chosen_runs = _makers(runs, makers)
    if not depths or min(depths) < 1:
        raise UsageError(f"depths {list(depths)}", expected="at least one, each from 1")
    tested = paired or Paired()
    (name,) = map(str, parse_measures([measure]))
    whole = by_measure(qrels, runs, [name])[name]
    gold = judged(whole.values, whole.systems, tested)
    everything = {doc for run in runs for one in run.values() for doc in one.doc_ids}.union(*_relevant(qrels))
    longest = max(len(ranking) for run in runs for ranking in run.values())
    steps, found = [], {}
    for depth in sorted({min(depth, longest) for depth in depths}, reverse=True):
        corpus = corpus_of(pooled(chosen_runs, qrels, depth))
        values = by_measure(qrels, [restricted(run, corpus) for run in runs], [name])[name].values
        found[depth] = judged(values, whole.systems, tested)
        more = {"documents": len(corpus), "share": len(corpus) / len(everything)}
        steps.append(_step(depth, compared(gold, found[depth]), goal, more))
    chosen = smallest(tuple(steps))
    return Choice(
        kind="pool",
        whole={**counted(gold), "makers": [r.name for r in chosen_runs], "measure": name, "documents": len(everything)},
        steps=tuple(steps),
        chosen=chosen,
        pairs=pairs_by_fate(gold, found[chosen.size]) if chosen else {},
        notes=_notes(chosen_runs, runs, name),
    )


def _step(depth: int, figures: dict[str, Any], goal: Goal, more: dict[str, Any]) -> Step:
    return Step(size=depth, label=f"k={depth}", figures=figures, met=goal.met(figures), more=more)


def _makers(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """The runs that make the pools."""
    known = [run.name for run in runs]
    for name in names:
        if name not in known:
            raise UnknownNameError("run", name, known)
    return [run for run in runs if not names or run.name in names]


def pooled(makers: Sequence[Run], qrels: Qrels, depth: int) -> dict[str, frozenset[str]]:
    """Query -> the makers' first ``depth`` documents and the relevant ones (grade 1 and above)."""
    found = {topic.id: topic.docs for topic in pool(makers, depth=depth, qrels=qrels, unjudged=True).topics}
    return {q: frozenset(found.get(q, ())) | own for q, own in zip(qrels, _relevant(qrels), strict=True)}


def _relevant(qrels: Qrels) -> list[frozenset[str]]:
    return [frozenset(doc for doc, grade in judged.items() if grade >= 1) for judged in qrels.values()]


def restricted(run: Run, corpus: frozenset[str]) -> Run:
    """The run over a smaller corpus: without the documents that are not in it."""
    return Run((_within(ranking, corpus) for ranking in run.values()), name=run.name)


def corpus_of(docs: Docs) -> frozenset[str]:
    """The one corpus of all queries, which systems are scored on: the union of their pools."""
    return frozenset().union(*docs.values())


def _within(ranking: Ranking, docs: frozenset[str]) -> Ranking:
    kept = [(doc, score) for doc, score in zip(ranking.docs, ranking.scores, strict=True) if doc.id in docs]
    return Ranking(ranking.query, tuple(doc for doc, _ in kept), tuple(score for _, score in kept))


def _notes(makers: Sequence[Run], runs: Sequence[Run], measure: str) -> tuple[str, ...]:
    notes = [
        "Documents below the ends of the runs are unknown: the whole is what the runs hold.",
        "Lists of other systems only get better when documents leave: compare orders and differences, not values.",
    ]
    if len(makers) == len(runs):
        notes.append(
            f"Every system makes the pools, so that from the depth of {measure} on nothing can change: name some "
            "makers to see what pools do to others."
        )
    elif any(maker.name == run.name for maker in makers for run in runs):
        notes.append("The makers are among the systems: their own first documents are all there, others' are not.")
    return tuple(notes)
