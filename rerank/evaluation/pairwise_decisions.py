"""Significance decisions for all pairs of systems, made with one test, one correction and one significance level."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from rerank.errors import UsageError
from rerank.evaluation.baseline_tests import baseline_tests, is_baseline_test
from rerank.evaluation.comparison_family import ComparisonFamily, options_of_test
from rerank.evaluation.outlying_systems import note_outlying_systems
from rerank.evaluation.score_matrix import ScoreMatrix
from rerank.evaluation.significance import (
    base,
    correct_p_values,
    open_significance_test,
    required_p_value,
    tests,
)
from rerank.evaluation.significance.base import (
    Bools,
    Floats,
    PairTest,
    SupportsDecision,
    SupportsIntervals,
    iterate_paired_differences,
    mean_paired_differences,
    sample_variances,
)
from rerank.evaluation.tables import table_of_significant_pairs
from rerank.io.reports import Report, TableReport
from rerank.selector import Selector

#: A comparison with fewer topics than this gets a note. Buckley and Voorhees (Evaluating evaluation measure stability,
#: SIGIR 2000) advise against fewer than 25.
FEW_TOPICS = 25


@dataclass(frozen=True, eq=False, kw_only=True)
class PairwiseDecisions(Report):
    """The result of testing every pair of systems on one measure: differences, p-values and decisions.

    Attributes:
        matrix: The scores.
        test: Selector of the test.
        correction: Name of the correction.
        alpha: Significance level.
        differences: (pairs,) mean of the first system minus mean of the second, in the order of
            ``itertools.combinations``.
        significant: (pairs,) whether the two systems differ significantly.
        raw: (pairs,) p-values before the correction; None if the test decided without p-values.
        adjusted: (pairs,) p-values after a correction that also covers other measures; None without such a correction.
        across: Names of all measures that the correction covers; empty if it covers only the pairs of this measure.
        notes: Caveats for the reader.
    """

    rows_key = "means"

    matrix: ScoreMatrix
    test: str
    correction: str
    alpha: float
    differences: Floats
    significant: Bools
    raw: Floats | None = None
    adjusted: Floats | None = None
    across: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def tables(self, digits: int = 4) -> TableReport:
        """Return a table with one row per system: its mean, and the counts of systems significantly below and above."""
        return table_of_significant_pairs(self.to_dict(), self.title, digits=digits)

    @property
    def title(self) -> str:
        """Title of the test in tables and reports."""
        return str(tests.get(Selector.parse(self.test).name).title)

    @property
    def options(self) -> dict[str, Any]:
        """All options of the test with their values, including defaults."""
        return options_of_test(open_significance_test(self.test))

    @property
    def family_wise(self) -> bool:
        """True if the test itself controls the family-wise error. Such a test needs no correction."""
        return bool(tests.get(Selector.parse(self.test).name).family_wise)

    @property
    def correction_of_second_test(self) -> str:
        """Correction for a second test of the pairs: that of the main test, or holm if the main test needs none."""
        return "holm" if self.family_wise else self.correction

    def family(self, missing: Mapping[str, int] | None = None) -> ComparisonFamily:
        """Return the family of hypotheses that was tested. ``missing``: how many topics each system lacks, if any."""
        return ComparisonFamily(
            test=self.test,
            title=self.title,
            correction=self.correction,
            family_wise=self.family_wise,
            alpha=self.alpha,
            pairs=len(self.significant),
            measures=self.across or tuple(filter(None, [self.matrix.measure])),
            across_measures=bool(self.across),
            topics=len(self.matrix.topics),
            missing=missing or {},
            options=self.options,
        )

    def simultaneous_half_widths(self) -> Floats:
        """Return (pairs,) half widths of intervals that jointly cover all true differences with probability 1 - alpha.

        Tukey's tests have their own intervals. The other tests use Student's t intervals at level alpha / pairs
        (Bonferroni), or at level alpha if nothing is corrected.
        """
        tester, alpha = open_significance_test(self.test), self.alpha / max(1, len(self.across))
        if isinstance(tester, SupportsIntervals):
            return np.full(len(self.significant), tester.half_width(self.matrix.values, alpha))
        level = alpha if self.correction == "none" else alpha / len(self.significant)
        from scipy.stats import t

        values, topics = self.matrix.values, len(self.matrix.topics)
        variances = np.concatenate([sample_variances(d) for d in iterate_paired_differences(values)])
        return np.asarray(np.sqrt(variances) * (t.isf(level / 2, topics - 1) / np.sqrt(topics)))

    def p_values(self) -> tuple[Floats, Floats]:
        """Return the p-values before and after the correction, each of shape (pairs,); compute them if missing."""
        raw = open_significance_test(self.test).p_values(self.matrix.values) if self.raw is None else self.raw
        return raw, correct_p_values(raw, self.correction) if self.adjusted is None else self.adjusted

    def beats(self) -> list[tuple[int, ...]]:
        """Return, for each system, the indices of the systems that it significantly outperforms."""
        below: list[list[int]] = [[] for _ in self.matrix.systems]
        index_pairs = combinations(range(len(below)), 2)
        for (a, b), is_significant, difference in zip(index_pairs, self.significant, self.differences, strict=True):
            if is_significant:
                better, worse = (a, b) if difference > 0 else (b, a)
                below[better].append(worse)
        return [tuple(sorted(indices)) for indices in below]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of ``rerank compare --matrix FILE --format json``, with systems in input order."""
        means, beats = self.matrix.values.mean(axis=0), self.beats()
        beaten = np.bincount([index for others in beats for index in others], minlength=len(means))
        return {
            "topics": len(self.matrix.topics),
            "systems": len(self.matrix.systems),
            "pairs": len(self.significant),
            "significant": int(self.significant.sum()),
            "test": Selector.parse(self.test).name,
            "options": self.options,
            "correction": self.correction,
            "alpha": self.alpha,
            "family": self.family().to_dict(),
            "means": [
                {"system": name, "mean": float(mean), "beats": len(others), "beaten_by": int(count)}
                for name, mean, others, count in zip(self.matrix.systems, means, beats, beaten, strict=True)
            ],
            "notes": list(self.notes),
        }


def compare_all_runs(
    matrix: ScoreMatrix, test: str = "t", correction: str = "auto", *, alpha: float = 0.05
) -> PairwiseDecisions:
    """Test every pair of systems for a significant difference.

    Args:
        matrix: The scores.
        test: Selector of a test, such as ``"t"`` or ``"tukey-randomised,permutations=1000"``.
        correction: none, bonferroni, holm, hochberg, bh or by. ``auto`` selects holm, or none if the test controls the
            family-wise error itself.
        alpha: Significance level.

    Raises:
        UnknownNameError: The test or correction does not exist.
        UsageError: The test cannot be combined with the correction, or alpha is not between 0 and 1.
    """
    check_significance_level(alpha)
    tester = open_significance_test(test)
    name = resolve_correction(test, correction)
    raw = None
    # comparing with one critical value is much cheaper than computing all p-values
    if name == "none" and isinstance(tester, SupportsDecision):
        significant = tester.significant(matrix.values, alpha)
    else:
        raw = tester.p_values(matrix.values)
        significant = correct_p_values(raw, name) <= alpha
    return PairwiseDecisions(
        matrix=matrix,
        test=test,
        correction=name,
        alpha=alpha,
        differences=mean_paired_differences(matrix.values),
        significant=significant,
        raw=raw,
        notes=(*list_caveats_of_test(matrix, tester, name, alpha), *_note_on_constant_scores(matrix)),
    )


def correct_across_measures(decisions: Sequence[PairwiseDecisions]) -> list[PairwiseDecisions]:
    """Correct the p-values of several measures together, for decisions made with the same test and correction.

    P-values of tests that control the family-wise error over the pairs are multiplied by the number of measures.
    """
    raw = [entry.p_values()[0] for entry in decisions]
    first = decisions[0]
    if first.family_wise:
        adjusted = [np.minimum(1.0, p * len(raw)) for p in raw]
    else:
        adjusted = np.split(correct_p_values(np.concatenate(raw), first.correction), len(raw))
    measures = tuple(entry.matrix.measure for entry in decisions)
    return [
        replace(entry, raw=p, adjusted=q, across=measures, significant=q <= entry.alpha)
        for entry, p, q in zip(decisions, raw, adjusted, strict=True)
    ]


def resolve_correction(test: str, correction: str) -> str:
    """Return the name of the correction to use with a test. ``auto`` is replaced by the test's default."""
    return base.resolve_correction(test, correction, family_wise=tests.get(Selector.parse(test).name).family_wise)


def build_significance_test_selector(test: str, *, permutations: int | None = None, seed: int | None = None) -> str:
    """Return the selector of a test with the given number of permutations and seed. None keeps the test's default."""
    options = {key: value for key, value in (("permutations", permutations), ("seed", seed)) if value is not None}
    name = Selector.parse(test).name
    plugin = baseline_tests.get(name) if is_baseline_test(name) else tests.get(name)
    for key in options:
        if key not in inspect.signature(plugin).parameters:
            resampling_tests = [
                other.replace("_", "-")
                for other in tests.names()
                if key in inspect.signature(tests.get(other)).parameters
            ]
            raise UsageError(
                f"The test {name!r} is deterministic and has no option {key!r}",
                expected=f"one of the tests {', '.join(resampling_tests)}",
                remedy=f"Omit {key}, or choose another test",
            )
    return ",".join([test, *(f"{key}={value}" for key, value in options.items())])


def check_significance_level(alpha: float) -> None:
    """Check a significance level."""
    if not 0 < alpha < 1:
        raise UsageError(f"alpha is {alpha}", expected="a number between 0 and 1")


def list_caveats_of_test(
    matrix: ScoreMatrix, test: PairTest, correction: str, alpha: float, *, noun: str = "topics"
) -> tuple[str, ...]:
    """Return notes on reasons to doubt a test: few topics, p-values that cannot be small enough, or equal scores.

    Args:
        matrix: The scores.
        test: The test.
        correction: Name of the correction.
        alpha: Significance level.
        noun: Word for the rows of the matrix in the notes.
    """
    topics, pairs = len(matrix.topics), len(matrix.systems) * (len(matrix.systems) - 1) // 2
    notes = note_few_topics(topics, noun)
    least, required = test.resolution(topics), required_p_value(correction, alpha, pairs)
    if least > required:
        condition = f"{correction} over {pairs} pairs" if required < alpha else "the significance level"
        notes.append(
            f"The smallest possible p-value of this test is {least:.2g}, and {condition} requires {required:.2g}: "
            f"no pair can be significant. Use more {noun}, more permutations or another test."
        )
    # all systems are equal if the range of their scores is 0 on every topic
    if not np.ptp(matrix.values, axis=1).any():
        notes.append(f"All systems have equal scores on all {noun}: this measure does not distinguish them.")
    if test.family_wise:
        notes += note_outlying_systems(matrix)
    return tuple(notes)


def note_few_topics(topics: int, noun: str) -> list[str]:
    """Return a note if there are fewer than `FEW_TOPICS` topics; ``noun`` is the note's word for topics."""
    if topics >= FEW_TOPICS:
        return []
    return [f"Only {topics} {noun}: only large differences can be significant, and p-values are imprecise."]


def _note_on_constant_scores(matrix: ScoreMatrix) -> list[str]:
    """Return a note if systems have a constant score over all topics. Such systems are often failed runs."""
    names = [name for name, column in zip(matrix.systems, matrix.values.T, strict=True) if np.ptp(column) == 0]
    if not names:
        return []
    count = f"{len(names)} systems have" if len(names) > 1 else "1 system has"
    return [f"{count} the same score on every topic, such as {names[0]!r}: check where the scores come from."]
