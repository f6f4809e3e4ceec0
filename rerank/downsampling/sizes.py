"""Reduction of the number of queries, or of the corpus, to the smallest size that leads to the same conclusions.

A corpus is reduced to the relevant documents and hard negatives, which are the first documents of some runs. The pool
of a query consists of its relevant documents and the first documents of the runs. The reduced corpus is the union of
the pools of all queries. To evaluate a system on the reduced corpus, documents outside it are removed from the system's
rankings. This gives the exact ranking that the system would return if its document scores are independent of other
documents (dense and cross-encoder models). It is an approximation for BM25, whose term weights would change.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rerank.adjudication.pool_measures import score_matrices
from rerank.adjudication.pools import pool_runs
from rerank.downsampling.conclusions import (
    Goal,
    ReducedBenchmark,
    ReductionStep,
    SignificanceCriterion,
    compare,
    count_pairs,
    find_smallest,
    pairs_by_outcome,
    verdicts_of,
)
from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation import ScoreMatrix, parse_measures
from rerank.evaluation.pairwise_decisions import list_caveats
from rerank.types import Qrels, Ranking, Run

#: Fraction of the random draws that must meet the goal.
OFTEN = 0.9
#: Number of sizes that are tried by default.
_SIZES = 12


def choose_fewest_queries(
    matrix: ScoreMatrix,
    goal: Goal,
    *,
    criterion: SignificanceCriterion | None = None,
    sizes: Sequence[int] = (),
    seeds: int = 20,
    seed: int = 0,
) -> ReducedBenchmark:
    """Find the smallest number of queries for which nine in ten random draws meet the goal.

    A draw is a random order of the queries. Every sample takes the first queries of a draw, so samples are nested. The
    draws use consecutive seeds from ``seed``. By default, ``sizes`` are twelve numbers from two to all queries, in a
    geometric series, and ``criterion`` is paired t-tests with Benjamini-Hochberg correction. A `UsageError` means that
    a size is out of range, or that there are no draws.
    """
    total = len(matrix.topics)
    series = [round(size) for size in np.geomspace(2, total, _SIZES).tolist()]
    tried = sorted({*(sizes or series), total}, reverse=True)
    if seeds < 1 or tried[-1] < 2 or tried[0] > total:
        raise UsageError(
            f"seeds is {seeds}, and the sizes are {tried}", expected=f"seeds of 1 or more, and sizes from 2 to {total}"
        )
    significance = criterion or SignificanceCriterion()
    gold = verdicts_of(matrix.values, matrix.systems, significance)
    # samples are nested: every size takes the first queries of the same random orders
    orders = [np.random.default_rng(seed + index).permutation(total) for index in range(seeds)]
    steps, first_success = [], {}
    for size in tried:
        samples = [verdicts_of(matrix.values[order[:size]], matrix.systems, significance) for order in orders]
        draws = [compare(gold, sample) for sample in samples]
        met_by_draw = [goal.is_met(figures) for figures in draws]
        first_success[size] = next((order[:size] for order, met in zip(orders, met_by_draw, strict=True) if met), None)
        # Figures are means over the draws in which they are defined.
        defined = {name: [draw[name] for draw in draws if draw[name] is not None] for name in draws[0]}
        figures = {name: sum(values) / len(values) if values else None for name, values in defined.items()}
        share = sum(met_by_draw) / seeds
        worst = {f"worst_{name}": min(defined[name], default=None) for name in ("tau", "recall")}
        more = {"draws_that_meet": share, **worst}
        steps.append(ReductionStep(size=size, label=str(size), figures=figures, met=share >= OFTEN, more=more))
    chosen = find_smallest(tuple(steps))
    selected = first_success[chosen.size] if chosen else None
    indices = [] if selected is None else sorted(selected.tolist())
    verdicts = verdicts_of(matrix.values[indices], matrix.systems, significance) if indices else gold
    test, correction = significance.procedure.significance_test, significance.procedure.correction
    return ReducedBenchmark(
        kind="queries",
        whole=count_pairs(gold),
        steps=tuple(steps),
        chosen=chosen,
        kept=tuple(matrix.topics[index] for index in indices),
        pairs=pairs_by_outcome(gold, verdicts),
        notes=(
            *list_caveats(matrix, test, correction, significance.alpha, noun="queries"),
            "The listed queries are those of the first draw that meets the goal; values are means over all draws.",
        ),
    )


#: Depths that are tried by default.
DEPTHS = (1, 2, 3, 5, 10, 20, 30, 50, 75, 100, 150, 250)


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

    The first k documents of the runs ``makers``, by default all, form the pools. A binary measure should set its lowest
    relevant grade: ``AP(rel=2)@100``. ``criterion`` is by default paired t-tests with Benjamini-Hochberg correction. A
    `RerankError` means a maker that is no run, an unknown measure, no depths, or a depth below 1.
    """
    names = [run.name for run in runs]
    if unknown := [maker for maker in makers if maker not in names]:
        raise UnknownNameError("run", unknown[0], names)
    chosen_runs = [run for run in runs if not makers or run.name in makers]
    if not depths or min(depths) < 1:
        raise UsageError(f"The depths are {list(depths)}", expected="at least one depth, each 1 or more")
    significance = criterion or SignificanceCriterion()
    (name,) = map(str, parse_measures([measure]))
    whole = score_matrices(qrels, runs, [name])[name]
    gold = verdicts_of(whole.values, whole.systems, significance)
    retrieved = {doc for run in runs for ranking in run.values() for doc in ranking.doc_ids}
    documents = len(retrieved.union(*_relevant(qrels)))
    longest = max(len(ranking) for run in runs for ranking in run.values())  # larger depths change nothing
    steps, verdicts = [], {}
    for depth in sorted({min(depth, longest) for depth in depths}, reverse=True):
        corpus = frozenset().union(*documents_per_query(chosen_runs, qrels, depth).values())  # shared by all queries
        values = score_matrices(qrels, [reduce_run(run, corpus) for run in runs], [name])[name].values
        verdicts[depth] = verdicts_of(values, whole.systems, significance)
        figures = compare(gold, verdicts[depth])
        more = {"documents": len(corpus), "share": len(corpus) / documents}
        met = goal.is_met(figures)
        steps.append(ReductionStep(size=depth, label=f"k={depth}", figures=figures, met=met, more=more))
    chosen = find_smallest(tuple(steps))
    notes = [
        "Documents that a run did not retrieve are unknown: the reference is the rankings that the runs contain.",
        "Scores of other systems can only increase when documents are removed: compare rankings and differences, not "
        "values.",
    ]
    if len(chosen_runs) == len(runs):
        notes.append(
            f"All systems form the pools, so depths beyond the cutoff of {name} change nothing. Choose some of the "
            "systems as makers to see the effect on the others."
        )
    elif chosen_runs:
        notes.append("Some systems are makers: the pools contain the first documents of these systems, not of others.")
    return ReducedBenchmark(
        kind="pool",
        whole=count_pairs(gold) | {"makers": [r.name for r in chosen_runs], "measure": name, "documents": documents},
        steps=tuple(steps),
        chosen=chosen,
        pairs=pairs_by_outcome(gold, verdicts[chosen.size]) if chosen else {},
        notes=tuple(notes),
    )


def documents_per_query(makers: Sequence[Run], qrels: Qrels, depth: int) -> dict[str, frozenset[str]]:
    """Return the pool of each query: the first ``depth`` documents of the runs ``makers``, and all relevant ones."""
    pooled = {topic.id: topic.docs for topic in pool_runs(makers, depth=depth, qrels=qrels, unjudged=True).topics}
    return {query: frozenset(pooled.get(query, ())) | own for query, own in zip(qrels, _relevant(qrels), strict=True)}


def _relevant(qrels: Qrels) -> list[frozenset[str]]:
    return [frozenset(doc for doc, grade in judged.items() if grade >= 1) for judged in qrels.values()]


def reduce_run(run: Run, corpus: frozenset[str]) -> Run:
    """Return the run without the documents outside the reduced corpus."""
    rankings = []
    for ranking in run.values():
        kept = [(doc, score) for doc, score in zip(ranking.docs, ranking.scores, strict=True) if doc.id in corpus]
        rankings.append(Ranking(ranking.query, tuple(doc for doc, _ in kept), tuple(score for _, score in kept)))
    return Run(rankings, name=run.name)
