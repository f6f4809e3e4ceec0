"""Measures of how well a second experiment reproduces a first one, each with a baseline and an advanced run.

The measures are those of Breuer, Ferro, Fuhr, Maistro, Sakai, Schaer and Soboroff, How to measure the reproducibility
of system-oriented IR experiments, SIGIR 2020. On the same collection, they compare documents, scores per topic and the
effect; on another collection, only the effect and the distributions of scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from rerank.errors import ensure
from rerank.evaluation.comparison import notes_on_judgments
from rerank.evaluation.evaluator import evaluate_runs
from rerank.evaluation.measures import check_measure_has_query_values, parse_measures
from rerank.evaluation.pairwise_decisions import note_missing_queries
from rerank.evaluation.scores import format_p_value, format_score, library_versions
from rerank.evaluation.significance import paired_t
from rerank.evaluation.significance.base import DECIMALS, Floats
from rerank.io.reports import Grid, PlainReport, TableReport
from rerank.types import Qrels, Run

_ROLES = ("baseline", "advanced")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """The runs of one experiment and the judgments of its collection."""

    baseline: Run
    advanced: Run
    qrels: Qrels

    @property
    def runs(self) -> tuple[Run, Run]:
        return self.baseline, self.advanced


def measure_reproduction(
    original: Experiment,
    again: Experiment,
    measures: Sequence[str] = ("nDCG@10",),
    *,
    relevant: int = 1,
    depth: int = 1000,
    p: float = 0.95,
) -> PlainReport:
    """Compare an experiment with its reproduction. If both have the same judgments, topics are paired.

    Document orders are compared in the first ``depth`` documents per topic; ``p`` is the persistence of rank-biased
    overlap, between 0 and 1. The result is the JSON object of ``rerank reproduce``. ``rows`` has two rows per measure,
    for ``role`` baseline and advanced: ``original`` and ``again`` (means), ``rmse`` (root mean square error of the
    scores per topic; None on another collection) and ``p`` (two-sided t-test of the two means; None if it cannot be
    computed). ``orders`` has one row per role on the same collection: ``ktu`` (Kendall's tau union) and ``rbo``
    (rank-biased overlap), averaged over topics. ``effects`` has one row per measure: mean improvements ``improvement``
    and ``improvement_again``, their ratio ``er``, relative improvements ``ri`` and ``ri_again``, and ``dri``, ri minus
    ri_again. A value whose divisor is 0 is None.
    """
    found = f"depth is {depth} and p is {p}"
    ensure(depth >= 2 and 0 < p < 1, found, expected="a depth of 2 or more, and p between 0 and 1")
    names = [str(measure) for measure in parse_measures(measures, relevant=relevant)]
    for name in names:
        check_measure_has_query_values(name)
    same = original.qrels == again.qrels
    topics = [tuple(entry.qrels) for entry in (original, original if same else again)]
    before, after = (evaluate_runs(entry.qrels, entry.runs, names) for entry in (original, again))
    scored = list(zip((before, after), topics, strict=True))
    values = {
        (name, role): [np.array([scores[place].by_measure(name)[topic] for topic in ids]) for scores, ids in scored]
        for name in names
        for place, role in enumerate(_ROLES)
    }
    pairs = zip(_ROLES, original.runs, again.runs, strict=True) if same else ()
    notes: list[str] = []
    for entry, scores in ((original, before), (again, after)):
        notes += [*notes_on_judgments(entry.qrels, entry.runs, names), *note_missing_queries(scores)]
    effects: list[dict[str, Any]] = [
        {"measure": name, **_compare_effects([fmean(part) for role in _ROLES for part in values[name, role]])}
        for name in names
    ]
    rows = [{"measure": n, "role": r, **_compare_scores(*pair, same=same)} for (n, r), pair in values.items()]
    orders = [{"role": role, **_compare_orders(x, y, original.qrels, depth, p)} for role, x, y in pairs]
    content = {
        "same_collection": same,
        "depth": depth,
        "effects": effects,
        "rows": rows,
        "orders": orders,
        "versions": library_versions(),
        "notes": notes,
    }

    kind = "the same collection, paired" if same else "another collection, unpaired"
    legend = [
        f"Second experiment on {kind} t-test. ER: effect ratio, ideally 1; DeltaRI: difference of relative "
        f"improvements, ideally 0.{f' Orders: first {depth} documents.' if orders else ''}"
    ]

    def table(digits: int) -> TableReport:
        def cells(row: dict[str, Any], *keys: str) -> list[str]:
            return ["-" if row[key] is None else format_score(row[key], digits) for key in keys]

        gains = ("improvement", "improvement_again", "er", "ri", "ri_again", "dri")
        heads = ["measure", "improvement", "again", "ER", "RI", "RI again", "DeltaRI"]
        of_scores = [
            [row["measure"], row["role"], *cells(row, "original", "again", "rmse"), format_p_value(row["p"])]
            for row in rows
        ]
        grids = [
            Grid(heads, [[row["measure"], *cells(row, *gains)] for row in effects]),
            Grid(["measure", "run", "original", "again", "RMSE", "p"], of_scores, left=2),
        ]
        if orders:
            of_orders = [[row["role"], *cells(row, "ktu", "rbo")] for row in orders]
            grids.append(Grid(["run", "tau union", "RBO"], of_orders))
        return TableReport(grids, legend, notes, after=len(grids) - 1)

    return PlainReport(content=content, key=("effects", "rows", "orders"), table=table)


def _compare_scores(original: Floats, again: Floats, *, same: bool) -> dict[str, Any]:
    from scipy.stats import ttest_ind

    row: dict[str, Any] = {"original": float(original.mean()), "again": float(again.mean()), "rmse": None, "p": None}
    if same:
        differences = np.round(original - again, DECIMALS)
        row["rmse"] = float(np.sqrt((differences**2).mean()))
        if np.ptp(differences) or not differences.any():
            row["p"] = paired_t(differences.tolist())
    elif np.ptp(original) or np.ptp(again):
        row["p"] = float(ttest_ind(original, again).pvalue)
    return row


def _compare_orders(original: Run, again: Run, qrels: Qrels, depth: int, p: float) -> dict[str, Any]:
    lists = [
        [[doc.id for doc in run[query].docs[:depth]] for run in (original, again)]
        for query in qrels
        if query in original and query in again
    ]

    def mean(similarity: Callable[[list[str], list[str]], float | None]) -> float | None:
        found = [value for pair in lists if (value := similarity(*pair)) is not None]
        return fmean(found) if found else None

    return {"ktu": mean(kendall_tau_union), "rbo": mean(lambda a, b: rank_biased_overlap(a, b, p))}


def _compare_effects(means: Sequence[float]) -> dict[str, float | None]:
    """Return a row of effects from the means of the baseline (original, again) and of the advanced run."""
    baseline, baseline_again, advanced, advanced_again = means
    # a gain that is a rounding error of equal means must not be a divisor
    gain, gain_again = round(advanced - baseline, DECIMALS), round(advanced_again - baseline_again, DECIMALS)
    ri = gain / baseline if baseline else None
    ri_again = gain_again / baseline_again if baseline_again else None
    return {
        "improvement": gain,
        "improvement_again": gain_again,
        "er": gain_again / gain if gain else None,
        "ri": ri,
        "ri_again": ri_again,
        "dri": None if ri is None or ri_again is None else ri - ri_again,
    }


def kendall_tau_union(original: Sequence[str], other: Sequence[str]) -> float | None:
    """Compute Kendall's tau union of two lists, cut to the length of the shorter one; None below two documents.

    Documents are numbered by their position in the union of the lists: first the documents of the original list, then
    those that only the other list contains. Tau compares the two sequences of numbers rank by rank, so documents that
    only the other list contains have larger numbers than all others: below the common ones they agree with the
    original order, above them they do not. Two lists without a common document have tau 1. Source: section 3.1 of
    Breuer et al.
    """
    from scipy.stats import kendalltau

    length = min(len(original), len(other))
    if length < 2:
        return None
    numbers = {doc: n for n, doc in enumerate(dict.fromkeys([*original[:length], *other[:length]]))}
    return float(kendalltau(range(length), [numbers[doc] for doc in other[:length]]).statistic)


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], p: float = 0.95) -> float | None:
    """Compute rank-biased overlap down to the end of the longer list, divided by its largest value at this depth.

    RBO = (sum over d of p^(d - 1) A_d) / (sum over d of p^(d - 1)), where A_d is the number of documents that the first
    d ranks of both lists share, divided by d. It is None if both lists are empty. Sources: Webber, Moffat and Zobel, A
    similarity measure for indefinite rankings, TOIS 2010, equation 4; normalised as by Clarke, Vtyurina and Smucker,
    TOIS 2021.
    """
    depth = max(len(first), len(second))
    if not depth:
        return None
    ranks = {doc: rank for rank, doc in enumerate(second)}
    # rank, from 0, at which a document has been seen in both lists
    joint = [max(rank, ranks[doc]) for rank, doc in enumerate(first) if doc in ranks]
    agreement = np.bincount(np.array(joint, dtype=np.int64), minlength=depth).cumsum() / np.arange(1, depth + 1)
    weights = p ** np.arange(depth)
    return float(agreement @ weights / weights.sum())
