"""Reduction of corpora to the relevant documents and hard negatives, which are the first documents of some runs.

The pool of a query consists of its relevant documents and the first documents of the runs. The reduced corpus is the
union of the pools of all queries. To evaluate a system on the reduced corpus, documents outside it are removed from the
system's rankings. This gives the exact ranking that the system would return if its document scores are independent of
other documents (dense and cross-encoder models). It is an approximation for BM25, whose term weights would change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rerank.adjudication.pool_measures import score_matrices
from rerank.adjudication.pools import pool_runs
from rerank.downsampling.goal_metrics import (
    Goal,
    SignificanceCriterion,
    benchmark_pairs_by_outcome,
    benchmark_verdicts,
    compare_benchmarks,
    count_benchmark_pairs,
)
from rerank.downsampling.reduced_benchmark import ReducedBenchmark, ReductionStep, find_smallest_benchmark
from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation import parse_measures
from rerank.types import Qrels, Ranking, Run

#: Depths that are tried by default.
DEPTHS = (1, 2, 3, 5, 10, 20, 30, 50, 75, 100, 150, 250)
#: Ids of the documents in the pool of each query id.
Docs = Mapping[str, frozenset[str]]


def choose_smallest_pool(
    runs: Sequence[Run],
    qrels: Qrels,
    goal: Goal,
    *,
    makers: Sequence[str] = (),
    measure: str = "nDCG@10",
    depths: Sequence[int] = DEPTHS,
    criterion: SignificanceCriterion | None = None,
) -> ReducedBenchmark:
    """Find the smallest pool depth k at which the conclusions from the reduced corpus meet the goal.

    Args:
        runs: The systems. Their full rankings are the reference.
        qrels: The judgments. Their relevant documents are in every reduced corpus.
        goal: The goal.
        makers: Names of the runs whose first k documents form the pools; all runs if empty.
        measure: Measure for scoring systems. A binary measure should set its lowest relevant grade: ``AP(rel=2)@100``.
        depths: Values of k to try.
        criterion: The significance test; by default paired t-tests with Benjamini-Hochberg correction.

    Raises:
        RerankError: A maker is not a run, the measure does not exist, there are no depths, or a depth is below 1.
    """
    chosen_runs = _runs_of_downsampled_pools(runs, makers)
    if not depths or min(depths) < 1:
        raise UsageError(f"The depths are {list(depths)}", expected="at least one depth, each 1 or more")
    significance = criterion or SignificanceCriterion()
    (name,) = map(str, parse_measures([measure]))
    whole = score_matrices(qrels, runs, [name])[name]
    gold = benchmark_verdicts(whole.values, whole.systems, significance)
    documents = len(_documents_of_full_benchmark(runs, qrels))
    longest = max(len(ranking) for run in runs for ranking in run.values())  # larger depths change nothing
    steps, verdicts = [], {}
    for depth in sorted({min(depth, longest) for depth in depths}, reverse=True):
        corpus = union_of_reduced_pools(documents_of_reduced_pools(chosen_runs, qrels, depth))
        values = score_matrices(qrels, [reduce_run(run, corpus) for run in runs], [name])[name].values
        verdicts[depth] = benchmark_verdicts(values, whole.systems, significance)
        agreement = compare_benchmarks(gold, verdicts[depth])
        steps.append(_pool_reduction_step(depth, agreement, goal, (len(corpus), documents)))
    chosen = find_smallest_benchmark(tuple(steps))
    return ReducedBenchmark(
        kind="pool",
        whole=count_benchmark_pairs(gold)
        | {"makers": [r.name for r in chosen_runs], "measure": name, "documents": documents},
        steps=tuple(steps),
        chosen=chosen,
        pairs=benchmark_pairs_by_outcome(gold, verdicts[chosen.size]) if chosen else {},
        notes=_pool_reduction_notes(chosen_runs, runs, name),
    )


def _documents_of_full_benchmark(runs: Sequence[Run], qrels: Qrels) -> set[str]:
    """Return the ids of all retrieved and all relevant documents."""
    retrieved = {doc for run in runs for ranking in run.values() for doc in ranking.doc_ids}
    return retrieved.union(*_relevant_of_benchmark(qrels))


def _pool_reduction_step(depth: int, figures: dict[str, Any], goal: Goal, sizes: tuple[int, int]) -> ReductionStep:
    """Record the result for one pool depth. ``sizes``: numbers of documents in the reduced and in the full corpus."""
    more = {"documents": sizes[0], "share": sizes[0] / sizes[1]}
    return ReductionStep(size=depth, label=f"k={depth}", figures=figures, met=goal.is_met(figures), more=more)


def _runs_of_downsampled_pools(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """Return the runs whose documents form the pools: the named runs, or all runs if ``names`` is empty."""
    known = [run.name for run in runs]
    for name in names:
        if name not in known:
            raise UnknownNameError("run", name, known)
    return [run for run in runs if not names or run.name in names]


def documents_of_reduced_pools(makers: Sequence[Run], qrels: Qrels, depth: int) -> dict[str, frozenset[str]]:
    """Return the pool of each query: the first ``depth`` documents of the runs ``makers``, and all relevant ones."""
    pooled = {topic.id: topic.docs for topic in pool_runs(makers, depth=depth, qrels=qrels, unjudged=True).topics}
    return {q: frozenset(pooled.get(q, ())) | own for q, own in zip(qrels, _relevant_of_benchmark(qrels), strict=True)}


def _relevant_of_benchmark(qrels: Qrels) -> list[frozenset[str]]:
    """Return the ids of the relevant documents (grade 1 or more) of each query."""
    return [frozenset(doc for doc, grade in judged.items() if grade >= 1) for judged in qrels.values()]


def reduce_run(run: Run, corpus: frozenset[str]) -> Run:
    """Return the run without the documents outside the reduced corpus."""
    return Run((_ranking_within_reduced_corpus(ranking, corpus) for ranking in run.values()), name=run.name)


def union_of_reduced_pools(docs: Docs) -> frozenset[str]:
    """Return the reduced corpus, which is shared by all queries: the union of their pools."""
    return frozenset().union(*docs.values())


def _ranking_within_reduced_corpus(ranking: Ranking, docs: frozenset[str]) -> Ranking:
    remaining = [(doc, score) for doc, score in zip(ranking.docs, ranking.scores, strict=True) if doc.id in docs]
    return Ranking(ranking.query, tuple(doc for doc, _ in remaining), tuple(score for _, score in remaining))


def _pool_reduction_notes(makers: Sequence[Run], runs: Sequence[Run], measure: str) -> tuple[str, ...]:
    notes = [
        "Documents that a run did not retrieve are unknown: the reference is the rankings that the runs contain.",
        "Scores of other systems can only increase when documents are removed: compare rankings and differences, not "
        "values.",
    ]
    if len(makers) == len(runs):
        notes.append(
            f"All systems form the pools, so depths beyond the cutoff of {measure} change nothing. Choose some of the "
            "systems as makers to see the effect on the others."
        )
    elif any(maker.name == run.name for maker in makers for run in runs):
        notes.append("Some systems are makers: the pools contain the first documents of these systems, not of others.")
    return tuple(notes)
