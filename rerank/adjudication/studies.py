"""Adjudication studies. They measure how well judging orders with limited budgets preserve conclusions from gold qrels.

Source: Otero, Parapar and Ferro, How discriminative are your qrels? How to study the statistical significance of
document adjudication methods, CIKM 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from rerank.adjudication.pool_measures import Measurer
from rerank.adjudication.pools import Pool, pool_runs
from rerank.adjudication.significance_verdicts import SignificanceVerdicts
from rerank.adjudication.study_design import StudyDesign
from rerank.adjudication.study_notes import note_study_budgets, note_study_pool, note_study_tests
from rerank.adjudication.study_resampling import StudyResamples
from rerank.adjudication.study_results import AdjudicationStudy, StudyCell
from rerank.adjudication.walks import AdjudicationBudget, judge_pool_in_order
from rerank.evaluation.comparison import notes_on_judgments
from rerank.types import Qrels, Run

#: Function that is called with the method after every walk. The walks are listed in `StudyDesign.walks`.
OnWalk = Callable[[str], None]


def run_study(
    runs: Sequence[Run],
    qrels: Qrels,
    design: StudyDesign,
    *,
    pool_from: Sequence[Run] | None = None,
    on_walk: OnWalk | None = None,
) -> AdjudicationStudy:
    """Judge the pool with every method and budget, and compare the conclusions with those from gold judgments.

    Args:
        runs: At least two runs to evaluate.
        qrels: Gold judgments. They provide the grades for the judging orders, and the reference conclusions.
        design: Design of the study.
        pool_from: Runs that form the pool; by default, all runs. Systems without a run among them did not contribute.
        on_walk: Called with the method after each walk through the pool.

    Raises:
        UnknownNameError: A method, test, correction or measure does not exist.
        UsageError: An option is invalid.
        DataError: There are fewer than two runs or topics, or runs and judgments have nothing in common.
    """
    pooled = runs if pool_from is None else pool_from
    pool = pool_runs(pooled, depth=design.depth, qrels=qrels, unjudged=design.unjudged)
    measurer = Measurer(pool, runs, qrels, design.measures, relevant=design.relevant, repeats=design.repeats)
    gold = {
        name: SignificanceVerdicts.from_scores(matrix.values, matrix.systems, design.procedures, design.alpha)
        for name, matrix in measurer.gold.items()
    }
    # any order gives the same result if the whole pool is judged
    everything = replace(design, methods=("docid",), budgets=(AdjudicationBudget("share", 100),), resamples=0)
    whole = tuple(_walk_study_pool("docid", design.seed, everything, measurer, gold, None))
    samples = _draw_study_samples(gold, design) if design.resamples else None
    cells: list[StudyCell] = []
    for method, seed in design.walks:
        cells += _walk_study_pool(method, seed, design, measurer, gold, samples)
        if on_walk:
            on_walk(method)
    return AdjudicationStudy(
        design=design,
        pool=pool,
        qrels=qrels.name,
        topics=measurer.topics,
        gold=gold,
        pooled=None if pool_from is None else measurer.repeats.contributed(pool.systems),
        repeats=tuple(measurer.repeats.describe(measurer.run_scores)),
        cells=tuple(cells),
        whole=whole,
        notes=_note_study(design, pool, qrels, runs, measurer, cells, whole),
    )


def _draw_study_samples(gold: Mapping[str, SignificanceVerdicts], design: StudyDesign) -> StudyResamples:
    return StudyResamples.draw(
        gold, design.procedures, resamples=design.resamples, seed=design.seed, alpha=design.alpha
    )


def _note_study(
    design: StudyDesign,
    pool: Pool,
    qrels: Qrels,
    runs: Sequence[Run],
    measurer: Measurer,
    cells: Sequence[StudyCell],
    whole: Sequence[StudyCell],
) -> tuple[str, ...]:
    """Return the caveats of a study (tests, judgments, pool and budgets) without repetitions."""
    notes = [
        *note_study_tests(measurer.gold.values(), design.procedures, design.alpha),
        *notes_on_judgments(qrels, runs, measurer.names, design.relevant),
        *note_study_pool(pool, qrels.judged(), whole, depth=design.depth, relevant=design.relevant),
        *note_study_budgets(cells, len(pool.topics)),
    ]
    return tuple(dict.fromkeys(notes))


def _walk_study_pool(
    method: str,
    seed: int,
    design: StudyDesign,
    measurer: Measurer,
    gold: dict[str, SignificanceVerdicts],
    samples: StudyResamples | None,
) -> Iterator[StudyCell]:
    """Judge the whole pool by one method and seed. Yield one result per budget, measure and procedure."""
    relevant = measurer.relevant_documents(design.relevant)
    ordering = judge_pool_in_order(design.orders[method], measurer.pool, relevant, seed=seed)
    values = measurer.measure(ordering, design.budgets)
    # for every topic, (docs,) number of relevant documents among the first n judged documents
    hits = [flags[docs].cumsum() for flags, docs in zip(relevant, ordering.docs, strict=True)]
    for index, budget in enumerate(design.budgets):
        sizes = ordering.sizes(budget)
        relevant_found = sum(int(row[size - 1]) for row, size in zip(hits, sizes, strict=True) if size)
        for measure, matrices in values.items():
            cheap = SignificanceVerdicts.from_scores(
                matrices[index], gold[measure].systems, design.procedures, design.alpha
            )
            similarity = cheap.compare_ranking(gold[measure])
            drawn = design.samples_of_walk(method, seed)
            resampled = samples.evaluate(measure, cheap, drawn) if samples else [None] * len(design.procedures)
            for procedure, codes, figures in zip(
                design.procedures, cheap.categorise_against(gold[measure]), resampled, strict=True
            ):
                yield StudyCell(
                    method=method,
                    seed=seed,
                    budget=budget,
                    measure=measure,
                    procedure=procedure,
                    judged=int(sizes.sum()),
                    topics=int((sizes > 0).sum()),
                    relevant=relevant_found,
                    codes=codes,
                    similarity=similarity,
                    rank_changes=cheap.rank_changes(gold[measure]),
                    resampled=figures,
                )
