"""Where runs stand by one measure: means with intervals, who is significantly above whom, who ties with the best.

Knows scores and tests, no cards and no pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerank.evaluation import Scores, compare_scores
from rerank.evaluation.grade_notes import describe_grade_use
from rerank.evaluation.pairwise_decisions import PairwiseDecisions
from rerank.evaluation.significance import TITLES, mean_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One run by one measure.

    Attributes:
        place: From 1, by the mean; it is the run's number in other runs' ``beats``. Equal means keep their given order.
        mean: Over all judged queries.
        low: Lower end of the mean's 95 % confidence interval; the mean itself where there is one query.
        high: Upper end.
        beats: Places of the runs that it is significantly above, ascending.
        beaten_by: How many are significantly above it.
        tied: Whether the run with the best mean is not significantly above it, or is it.
        missing: Judged queries that it lacks; they count as 0.
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
    """All runs by one measure.

    Attributes:
        measure: As ir_measures prints it.
        reading: How it reads grades, in words; empty where it reads none.
        runs: One a run, in the order of the scores.
        pairs: How many pairs were tested.
        significant: How many of them differ.
        rule: What "significant" means here, as a sentence; empty where nothing could be tested.
        notes: What a reader must know before believing the numbers.
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
        """Numbers of the runs (from 0, in the order of the scores), the best first."""
        return sorted(range(len(self.runs)), key=lambda at: self.runs[at].place)


def rank_runs(
    scores: Sequence[Scores], measure: str, *, test: str = "t", correction: str = "auto", alpha: float = 0.05
) -> Standings:
    """Put measured runs in order and test every pair of them.

    Args:
        scores: At least one run's, with different names, over the same judged queries.
        measure: As ir_measures prints it.
        test: Selector of a test of significance.
        correction: Its correction over all pairs.
        alpha: The level, after the correction.

    Raises:
        UsageError: The measure has no values query by query, or test and correction do not go together.
        UnknownNameError: No such test or correction.
    """
    means = [entry.mean(measure) for entry in scores]
    order = sorted(range(len(scores)), key=lambda at: -means[at])
    places = {at: place for place, at in enumerate(order, 1)}
    beats: list[tuple[int, ...]] = [() for _ in scores]
    pairs, significant, rule = 0, 0, ""
    notes: tuple[str, ...] = ("One run, or one judged query: nothing was tested.",)
    if len(scores) > 1 and len(scores[0].queries) > 1:
        found = compare_scores(scores, measure, test=test, correction=correction, alpha=alpha)
        beats, notes = found.decisions.beats(), found.notes
        pairs, significant = len(found.pairs), int(found.decisions.significant.sum())
        rule = _rule(found.decisions)
    above_the_rest = set(beats[order[0]])
    return Standings(
        measure=measure,
        reading=describe_grade_use(measure),
        runs=tuple(
            Standing(
                place=places[at],
                mean=means[at],
                beats=tuple(sorted(places[other] for other in beats[at])),
                beaten_by=sum(at in below for below in beats),
                tied=at not in above_the_rest,
                missing=len(entry.missing),
                **_interval(entry, measure, means[at]),
            )
            for at, entry in enumerate(scores)
        ),
        pairs=pairs,
        significant=significant,
        rule=rule,
        notes=notes,
    )


def format_ranges(places: Sequence[int]) -> str:
    """Ascending numbers in few letters.

    >>> ranges((4, 7, 8, 9, 12))
    '4, 7–9, 12'
    """
    groups: list[list[int]] = []
    for place in places:
        if groups and place == groups[-1][-1] + 1:
            groups[-1] = [groups[-1][0], place]
        else:
            groups.append([place])
    return ", ".join("–".join(map(str, group)) for group in groups)


def _interval(entry: Scores, measure: str, mean: float) -> dict[str, float]:
    values = list(entry.by_measure(measure).values())
    low, high = mean_interval(values) if len(values) > 1 else (mean, mean)
    return {"low": low, "high": high}


def _rule(decisions: PairwiseDecisions) -> str:
    many = len(decisions.significant)
    pairs = f"{many} pair{'s' * (many != 1)}"
    if decisions.correction != "none":
        how = f"after {TITLES[decisions.correction]}'s correction over {pairs}"
    else:
        how = f"which holds for {pairs} together" if decisions.family_wise else f"not corrected for {pairs}"
    return f"{decisions.title}, two-sided, {how}, level {decisions.alpha:g}"
