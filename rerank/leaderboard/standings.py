"""Standings by one measure: means with confidence intervals, significant differences, and ties with the best run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rerank.evaluation import ComparisonOptions, Scores, compare_evaluated_runs, compare_with_baseline
from rerank.evaluation.baseline_tests import is_baseline_test
from rerank.evaluation.measures import describe_grade_use
from rerank.evaluation.pairwise_decisions import PairwiseDecisions
from rerank.evaluation.significance import TITLES, student_t_interval
from rerank.leaderboard.first_stages import FirstStageGain, compare_with_first_stages

_NO_TEST = "No test was run: there is only one run or one judged query."


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Position of one run in the ranking by one measure, with its mean and test results."""

    place: int  #: Rank of the run by its mean, from 1. Runs with equal means keep their input order.
    mean: float  #: Mean over all judged queries.
    low: float  #: Lower bound of the 95 % confidence interval of the mean; the mean itself if there is one query.
    high: float
    beats: tuple[int, ...]  #: Ranks of the runs that this run significantly outperforms, ascending.
    beaten_by: int  #: Number of runs that significantly outperform this run.
    tied: bool  #: True if the run with the best mean does not significantly outperform this run.
    missing: int  #: Number of judged queries for which the run has no ranked list; they score 0.
    mark: str = ""  #: ``↑`` if the run is significantly above the baseline of the board, ``↓`` if below.
    #: Difference from the run's own first stage; None if the latter is not on the board or no test was run.
    gain: FirstStageGain | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    """Ranking of all runs by one measure, with the results of the significance tests."""

    measure: str  #: Name of the measure, as in ir_measures.
    reading: str  #: Description of how the measure uses grades; empty if it does not use them.
    runs: tuple[Standing, ...]  #: One standing per run, in the order of the scores.
    pairs: int = 0  #: Number of tested pairs.
    significant: int = 0  #: Number of significantly different pairs.
    rule: str = ""  #: Description of the test; empty if no test was run.
    notes: tuple[str, ...]
    baseline_rule: str = ""  #: Description of the test against the baseline; empty without a baseline.
    gain_rule: str = ""  #: Description of the test of the gains over first stages; empty if there are no gains.
    decisions: PairwiseDecisions | None = None  #: The decisions for all pairs of runs; None if no test was run.

    @property
    def order(self) -> list[int]:
        return sorted(range(len(self.runs)), key=lambda index: self.runs[index].place)


def rank_runs(
    scores: Sequence[Scores],
    measure: str,
    *,
    options: ComparisonOptions | None = None,
    baseline: str = "",
    before: Sequence[int | None] = (),
) -> Standings:
    """Rank runs by their mean scores, and test every pair of runs for a significant difference.

    Pairs are tested by ``t`` if the test is ``dunnett`` or ``max-t``, which compare with a baseline. All runs are also
    compared with the run named ``baseline``, if any: by Dunnett's test if the test controls the family-wise error over
    all pairs. Each run is also compared with its first stage, whose index is in ``before`` (None if not on the board).
    """
    means = [entry.mean(measure) for entry in scores]
    order = sorted(range(len(scores)), key=lambda index: -means[index])
    places = {index: place for place, index in enumerate(order, 1)}
    beats, marks, tested = _test_runs(scores, measure, options or ComparisonOptions(), baseline)
    decisions = tested.get("decisions")
    gains, gain_rule = (
        compare_with_first_stages(decisions, before) if decisions and before else ([None] * len(scores), "")
    )
    standings = []
    for index, entry in enumerate(scores):
        values = list(entry.by_measure(measure).values())
        low, high = student_t_interval(values) if len(values) > 1 else (means[index], means[index])
        standing = Standing(
            place=places[index],
            mean=means[index],
            low=low,
            high=high,
            beats=tuple(sorted(places[other] for other in beats[index])),
            beaten_by=sum(index in below for below in beats),
            tied=index not in beats[order[0]],
            missing=len(entry.missing),
            mark=marks.get(entry.run, ""),
            gain=gains[index],
        )
        standings.append(standing)
    reading = describe_grade_use(measure)
    return Standings(measure=measure, reading=reading, runs=tuple(standings), gain_rule=gain_rule, **tested)


def _test_runs(
    scores: Sequence[Scores], measure: str, options: ComparisonOptions, baseline: str
) -> tuple[list[tuple[int, ...]], dict[str, str], dict[str, Any]]:
    """Test the runs. Return the runs that each run outperforms, baseline marks by run, and fields of `Standings`."""
    if len(scores) < 2 or len(scores[0].queries) < 2:
        return [() for _ in scores], {}, {"notes": (_NO_TEST,)}
    test = "t" if is_baseline_test(options.test) else options.test
    comparison = compare_evaluated_runs(scores, measure, test=test, correction=options.correction, alpha=options.alpha)
    # The p-values are computed once, because the gains and the page also need them.
    decisions = replace(comparison.decisions, raw=comparison.decisions.p_values()[0])
    count = len(decisions.significant)
    pairs = f"{count} pair{'s' * (count != 1)}"
    if decisions.correction != "none":
        how = f"after {TITLES[decisions.correction]}'s correction over {pairs}"
    else:
        how = f"which holds for {pairs} together" if decisions.family_wise else f"not corrected for {pairs}"
    tested: dict[str, Any] = {
        "pairs": count,
        "significant": int(decisions.significant.sum()),
        "rule": f"{decisions.title}, two-sided, {how}, level {decisions.alpha:g}",
        "notes": comparison.notes,
        "decisions": decisions,
    }
    marks: dict[str, str] = {}
    if baseline:
        versus = replace(options, test="dunnett" if decisions.family_wise else options.test)
        compared = compare_with_baseline(scores, [measure], baseline, versus)
        marks = {row.run: "↑" if row.difference > 0 else "↓" for row in compared.rows if row.significant}
        described = compared.family.describe_p()
        tested["baseline_rule"] = f"↑ significantly above the baseline {baseline}, ↓ below: {described}"
    return decisions.beats(), marks, tested


def format_rank_ranges(places: Sequence[int]) -> str:
    """Format ascending numbers, with consecutive numbers combined into ranges.

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
