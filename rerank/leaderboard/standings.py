"""Standings by one measure: means with confidence intervals, significant differences, and ties with the best run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.evaluation import Scores, compare_evaluated_runs
from rerank.evaluation.grade_notes import describe_grade_use
from rerank.evaluation.pairwise_decisions import PairwiseDecisions
from rerank.evaluation.significance import TITLES, student_t_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The standing of one run by one measure.

    Attributes:
        place: Rank of the run by its mean, from 1. Runs with equal means keep their input order.
        mean: Mean over all judged queries.
        low: Lower bound of the 95 % confidence interval of the mean; the mean itself if there is one query.
        high: Upper bound of the interval.
        beats: Ranks of the runs that this run significantly outperforms, ascending.
        beaten_by: Number of runs that significantly outperform this run.
        tied: True if the run with the best mean does not significantly outperform this run.
        missing: Number of judged queries for which the run has no list; they score 0.
    """

    place: int
    mean: float
    low: float
    high: float
    beats: tuple[int, ...]
    beaten_by: int
    tied: bool
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    """The standings of all runs by one measure.

    Attributes:
        measure: Name of the measure, as in ir_measures.
        reading: Description of how the measure uses grades; empty if it does not use them.
        runs: One standing per run, in the order of the scores.
        pairs: Number of tested pairs.
        significant: Number of significantly different pairs.
        rule: Description of the test; empty if no test was run.
        notes: Notes on the validity of the results.
    """

    measure: str
    reading: str
    runs: tuple[Standing, ...]
    pairs: int
    significant: int
    rule: str
    notes: tuple[str, ...]

    @property
    def order(self) -> list[int]:
        """Indexes of the runs, best first."""
        return sorted(range(len(self.runs)), key=lambda index: self.runs[index].place)


def rank_board_runs(
    scores: Sequence[Scores], measure: str, *, test: str = "t", correction: str = "auto", alpha: float = 0.05
) -> Standings:
    """Rank runs by their mean scores, and test every pair of runs for a significant difference.

    Args:
        scores: Scores of at least one run, with unique names and the same judged queries.
        measure: Name of the measure, as in ir_measures.
        test: Selector of the significance test.
        correction: Correction for multiple comparisons over all pairs.
        alpha: Significance level after the correction.

    Raises:
        UsageError: The measure has no per-query values, or the test does not support the correction.
        UnknownNameError: The test or correction does not exist.
    """
    means = [entry.mean(measure) for entry in scores]
    order = sorted(range(len(scores)), key=lambda index: -means[index])
    places = {index: place for place, index in enumerate(order, 1)}
    beats: list[tuple[int, ...]] = [() for _ in scores]
    pairs, significant, rule = 0, 0, ""
    notes: tuple[str, ...] = ("No test was run: there is only one run or one judged query.",)
    if len(scores) > 1 and len(scores[0].queries) > 1:
        comparison = compare_evaluated_runs(scores, measure, test=test, correction=correction, alpha=alpha)
        beats, notes = comparison.decisions.beats(), comparison.notes
        pairs, significant = len(comparison.pairs), int(comparison.decisions.significant.sum())
        rule = _tie_rule_of_standings(comparison.decisions)
    above_the_rest = set(beats[order[0]])
    return Standings(
        measure=measure,
        reading=describe_grade_use(measure),
        runs=tuple(
            Standing(
                place=places[index],
                mean=means[index],
                beats=tuple(sorted(places[other] for other in beats[index])),
                beaten_by=sum(index in below for below in beats),
                tied=index not in above_the_rest,
                missing=len(entry.missing),
                **_interval_of_standing(entry, measure, means[index]),
            )
            for index, entry in enumerate(scores)
        ),
        pairs=pairs,
        significant=significant,
        rule=rule,
        notes=notes,
    )


def format_rank_ranges(places: Sequence[int]) -> str:
    """Format ascending numbers, with consecutive numbers combined to ranges.

    >>> format_rank_ranges((4, 7, 8, 9, 12))
    '4, 7–9, 12'
    """
    groups: list[list[int]] = []
    for place in places:
        if groups and place == groups[-1][-1] + 1:
            groups[-1] = [groups[-1][0], place]
        else:
            groups.append([place])
    return ", ".join("–".join(map(str, group)) for group in groups)


def _interval_of_standing(entry: Scores, measure: str, mean: float) -> dict[str, float]:
    values = list(entry.by_measure(measure).values())
    low, high = student_t_interval(values) if len(values) > 1 else (mean, mean)
    return {"low": low, "high": high}


def _tie_rule_of_standings(decisions: PairwiseDecisions) -> str:
    many = len(decisions.significant)
    pairs = f"{many} pair{'s' * (many != 1)}"
    if decisions.correction != "none":
        how = f"after {TITLES[decisions.correction]}'s correction over {pairs}"
    else:
        how = f"which holds for {pairs} together" if decisions.family_wise else f"not corrected for {pairs}"
    return f"{decisions.title}, two-sided, {how}, level {decisions.alpha:g}"
