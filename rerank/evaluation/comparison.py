"""Runs against each other on one measure: means with confidence intervals, and every pair tested.

Tests are paired by topic and corrected over all pairs of the comparison. Knows no files and prints nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rerank.errors import UsageError
from rerank.evaluation.grades import grade_note
from rerank.evaluation.matrix import Matrix
from rerank.evaluation.measures import check_by_query, parse_measures
from rerank.evaluation.measuring import evaluate_all
from rerank.evaluation.pairs import Decisions, check_level, decide, reservations
from rerank.evaluation.report import Comparison, Pair, RunSummary
from rerank.evaluation.scores import Scores
from rerank.evaluation.significance import SMALLEST, correct, mean_interval, open_test
from rerank.evaluation.significance.base import DECIMALS, Floats, bounded, differences
from rerank.selector import Selector
from rerank.types import Qrels, Run


def compare(
    qrels: Qrels,
    runs: Iterable[Run],
    measure: str,
    *,
    relevant: int = 1,
    test: str = "t",
    correction: str = "auto",
    alpha: float = 0.05,
) -> Comparison:
    """Measure runs and test every pair of them.

    Args:
        qrels: The judgments.
        runs: At least two, with different names.
        measure: One name, see `rerank.evaluation.measures.parse_measures`.
        relevant: The lowest grade that binary measures count as relevant where the name gives none.
        test: Selector of the main test: ``"t"``, ``"permutation,permutations=100000"`` ...
        correction: none, bonferroni, holm, hochberg, bh or by; ``auto`` is holm, or none for Tukey's tests, which hold
            for all pairs together.
        alpha: Level of significance, for the corrected p-values.

    Raises:
        UsageError: Too few runs, two of one name, more than one measure or one without values query by query, an alpha
            outside 0 to 1, or a correction for a test that needs none.
        UnknownNameError: No such measure, test or correction.
        DataError: Fewer than two judged queries, or a run that shares none with the judgments.
        MissingPrerequisiteError: The measure needs something that is not installed.
    """
    runs = list(runs)
    names = [str(m) for m in parse_measures([measure], relevant=relevant)]
    if len(names) != 1:
        raise UsageError(f"{measure!r} stands for {len(names)} measures", expected="one measure in a comparison")
    check_by_query(names[0])
    _check_names([run.name for run in runs])
    scores = evaluate_all(qrels, runs, [measure], relevant=relevant)
    found = compare_scores(scores, names[0], test=test, correction=correction, alpha=alpha)
    told = grade_note(qrels, names)
    return replace(found, notes=(*found.notes, told)) if told else found


def compare_scores(
    scores: Sequence[Scores], measure: str, *, test: str = "t", correction: str = "auto", alpha: float = 0.05
) -> Comparison:
    """Test every pair of runs that are measured already; see `compare`.

    Args:
        scores: At least two, with different names, over the same judged queries.
        measure: As ir_measures prints it; all of them must have it.
        test: Selector of the main test.
        correction: Its correction.
        alpha: Level of significance, for the corrected p-values.
    """
    _check_names([entry.run for entry in scores])
    check_level(alpha)
    decisions = decide(Matrix.from_scores(scores, measure), _rounding(test), correction, alpha=alpha)
    pairs = _pairs(decisions)
    return Comparison(
        measure=measure,
        alpha=alpha,
        queries=len(decisions.matrix.topics),
        runs=tuple(_summary(entry, measure) for entry in scores),
        pairs=pairs,
        decisions=decisions,
        notes=_notes(scores, pairs, decisions),
    )


def _check_names(names: Sequence[str]) -> None:
    if len(names) < 2:
        raise UsageError(f"{len(names)} run to compare", expected="at least two")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"Two runs are called {name!r}", remedy="Give each another name")


def _rounding(test: str) -> str:
    """Measured scores are sums of fractions, so what ties must tie here, whatever SciPy makes of given decimals."""
    selector = Selector.parse(test)
    return f"{test},decimals={DECIMALS}" if selector.name == "wilcoxon" and "decimals" not in selector.options else test


def _summary(entry: Scores, measure: str) -> RunSummary:
    low, high = mean_interval(list(entry.values[measure].values()))
    return RunSummary(run=entry.run, mean=entry.mean(measure), low=low, high=high, missing=len(entry.missing))


def _pairs(decisions: Decisions) -> tuple[Pair, ...]:
    matrix = decisions.matrix
    deltas = np.concatenate(list(differences(matrix.values)), axis=1)
    low, mean, high, effect = _sizes(deltas)
    raw, adjusted = decisions.p_values()
    if Selector.parse(decisions.test).name == "t":  # without spread t has no bound, which counts for nothing (adjusted)
        raw = np.where((low == high) & (mean != 0), SMALLEST, raw)
    signed = bounded(open_test(_rounding("wilcoxon")).p_values(matrix.values))
    columns: dict[str, Any] = {
        "difference": mean,
        "low": low,
        "high": high,
        "effect": effect,
        "wins": (deltas > 0).sum(axis=0),
        "ties": (deltas == 0).sum(axis=0),
        "losses": (deltas < 0).sum(axis=0),
        "p": raw,
        "p_adjusted": adjusted,
        "p_wilcoxon": signed,
        "p_wilcoxon_adjusted": correct(signed, "holm"),
        "significant": decisions.significant,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    couples = itertools.combinations(matrix.systems, 2)
    return tuple(
        Pair(a=a, b=b, **dict(zip(columns, row, strict=True))) for (a, b), row in zip(couples, rows, strict=True)
    )


def _sizes(deltas: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Lower end, mean, upper end (95 %, Student's t) and d_z of (queries, pairs) differences."""
    from scipy.stats import t

    constant = deltas.min(axis=0) == deltas.max(axis=0)  # rounding of the mean must not pass for spread
    mean = np.where(constant, deltas[0], deltas.mean(axis=0))
    spread = np.where(constant, 0.0, deltas.std(axis=0, ddof=1))
    half = float(t.ppf(0.975, len(deltas) - 1)) * spread / math.sqrt(len(deltas))
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.where(mean == 0, 0.0, mean / spread)
    return mean - half, mean, mean + half, effect


def _notes(scores: Sequence[Scores], pairs: Sequence[Pair], decisions: Decisions) -> tuple[str, ...]:
    count = len(decisions.matrix.topics)
    notes = [
        f"Run {entry.run!r} lacks {len(entry.missing)} of {count} judged queries; they count as 0."
        for entry in scores
        if entry.missing
    ]
    tester = open_test(decisions.test)
    if Selector.parse(decisions.test).name == "t":
        notes += [
            f"{pair.a!r} and {pair.b!r}: all {count} differences are equal, so the t-test cannot be computed; "
            "see Wilcoxon."
            for pair in pairs
            if pair.untestable
        ]
    told = reservations(decisions.matrix, tester, decisions.correction, decisions.alpha, noun="queries")
    return (*notes, *told)
