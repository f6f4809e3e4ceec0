"""Significance decisions for all pairs of systems, and the family of hypotheses that a comparison tested."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from rerank.errors import UnknownNameError, UsageError, ensure
from rerank.evaluation.baseline_tests import baseline_tests, is_baseline_test, spell_out
from rerank.evaluation.scores import ScoreMatrix, Scores, format_score, library_versions
from rerank.evaluation.significance import (
    TITLES,
    base,
    correct_p_values,
    open_significance_test,
    required_p_value,
    tests,
)
from rerank.evaluation.significance.base import Bools, Floats, PairTest, SupportsDecision, SupportsIntervals
from rerank.evaluation.significance.single_pairs import Wilcoxon
from rerank.io.reports import Grid, Report, TableReport
from rerank.selector import Selector

#: A comparison with fewer topics than this gets a note. Buckley and Voorhees (Evaluating evaluation measure stability,
#: SIGIR 2000) advise against fewer than 25.
FEW_TOPICS = 25
#: Smallest number of systems for which quartiles of means are informative.
_FEWEST = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class PairwiseDecisions(Report):
    """Tests of every pair of systems by one measure; arrays have shape (pairs,), as in ``itertools.combinations``."""

    rows_key = "means"

    matrix: ScoreMatrix
    test: str  #: Selector of the test.
    correction: str
    alpha: float
    differences: Floats  #: Mean of the first system minus mean of the second.
    significant: Bools  #: Whether the two systems differ significantly.
    raw: Floats | None = None  #: P-values before the correction; None if the test decided without p-values.
    #: P-values after a correction that also covers other measures; None without such a correction.
    adjusted: Floats | None = None
    across: tuple[str, ...] = ()  #: All measures that the correction covers; empty if it covers only this measure.
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return str(tests.get(Selector.parse(self.test).name).title)

    @property
    def options(self) -> dict[str, Any]:
        return options_of_test(open_significance_test(self.test))

    @property
    def family_wise(self) -> bool:
        return bool(tests.get(Selector.parse(self.test).name).family_wise)

    @property
    def correction_of_second_test(self) -> str:
        return "holm" if self.family_wise else self.correction

    def family(self, missing: Mapping[str, int] | None = None) -> ComparisonFamily:
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
        from scipy.stats import t

        tester, values = open_significance_test(self.test), self.matrix.values
        alpha = self.alpha / max(1, len(self.across))
        if isinstance(tester, SupportsIntervals):
            return np.full(len(self.significant), tester.half_width(values, alpha))
        level, topics = alpha if self.correction == "none" else alpha / len(self.significant), len(values)
        variances = np.concatenate([base.sample_variances(d) for d in base.iterate_paired_differences(values)])
        return np.asarray(np.sqrt(variances) * (t.isf(level / 2, topics - 1) / np.sqrt(topics)))

    def p_values(self) -> tuple[Floats, Floats]:
        raw = open_significance_test(self.test).p_values(self.matrix.values) if self.raw is None else self.raw
        return raw, correct_p_values(raw, self.correction) if self.adjusted is None else self.adjusted

    def beats(self) -> list[tuple[int, ...]]:
        """Return, for each system, the indices of the systems that it significantly outperforms."""
        below: list[list[int]] = [[] for _ in self.matrix.systems]
        index_pairs = combinations(range(len(below)), 2)
        for (a, b), is_significant, difference in zip(index_pairs, self.significant, self.differences, strict=True):
            if is_significant:
                below[a if difference > 0 else b].append(b if difference > 0 else a)
        return [tuple(sorted(indices)) for indices in below]

    def to_dict(self) -> dict[str, Any]:
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

    def tables(self, digits: int = 4) -> TableReport:
        content = self.to_dict()
        rows = [
            [entry["system"], format_score(entry["mean"], digits), str(entry["beats"]), str(entry["beaten_by"])]
            for entry in sorted(content["means"], key=lambda entry: -entry["mean"])
        ]
        options = "".join(f", {key} {value}" for key, value in content["options"].items() if value is not None)
        line = (
            f"{content['significant']} of {content['pairs']} pairs of {content['systems']} systems differ on "
            f"{content['topics']} topics: {self.title}{options}, correction {TITLES[self.correction]}, "
            f"significance level {self.alpha:g}."
        )
        return TableReport([Grid(["system", "mean", "beats", "beaten by"], rows)], [], [line, *self.notes])


def compare_all_runs(
    matrix: ScoreMatrix, test: str = "t", correction: str = "auto", *, alpha: float = 0.05
) -> PairwiseDecisions:
    """Test every pair of systems for a significant difference.

    ``test`` is a selector, such as ``"tukey-randomised,permutations=1000"``. ``auto`` selects the correction holm, or
    none if the test controls the family-wise error itself.

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
    notes = [*list_caveats(matrix, tester, name, alpha)]
    # systems with a constant score are often failed runs
    constant = [name for name, column in zip(matrix.systems, matrix.values.T, strict=True) if np.ptp(column) == 0]
    if constant:
        count = f"{len(constant)} systems have" if len(constant) > 1 else "1 system has"
        notes.append(
            f"{count} the same score on every topic, such as {constant[0]!r}: check where the scores come from."
        )
    return PairwiseDecisions(
        matrix=matrix,
        test=test,
        correction=name,
        alpha=alpha,
        differences=base.mean_paired_differences(matrix.values),
        significant=significant,
        raw=raw,
        notes=tuple(notes),
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
    """Return the name of the correction to use with a test; ``auto`` is the test's default."""
    return base.resolve_correction(test, correction, family_wise=tests.get(Selector.parse(test).name).family_wise)


def build_test_selector(test: str, *, permutations: int | None = None, seed: int | None = None) -> str:
    """Return the selector of a test with the given number of permutations and seed; None keeps the test's default."""
    options = {key: value for key, value in (("permutations", permutations), ("seed", seed)) if value is not None}
    test = spell_out(test)
    name = Selector.parse(test).name
    if name not in tests and name not in baseline_tests:
        known = (*tests.names(), *(f"{name} (with a baseline)" for name in baseline_tests.names()))
        raise UnknownNameError("test", name, [text.replace("_", "-") for text in known])
    plugin = baseline_tests.get(name) if is_baseline_test(name) else tests.get(name)
    for key in options:
        if key not in inspect.signature(plugin).parameters:
            resampling = [n for n in tests.names() if key in inspect.signature(tests.get(n)).parameters]
            raise UsageError(
                f"The test {name!r} is deterministic and has no option {key!r}",
                expected=f"one of the tests {', '.join(n.replace('_', '-') for n in resampling)}",
                remedy=f"Omit {key}, or choose another test",
            )
    return ",".join([test, *(f"{key}={value}" for key, value in options.items())])


def with_rounding_for_wilcoxon(selector: str) -> str:
    """Return the selector of a test, which rounds differences if it is Wilcoxon's: scores are sums of fractions."""
    parsed = Selector.parse(selector)
    if parsed.name == "wilcoxon" and "decimals" not in parsed.options:
        return f"{selector},decimals={base.DECIMALS}"
    return selector


def check_significance_level(alpha: float) -> None:
    """Check that a significance level is between 0 and 1, and not so small that quantiles overflow."""
    ensure(1e-12 <= alpha < 1, f"alpha is {alpha}", expected="a number between 1e-12 and 1")


def list_caveats(
    matrix: ScoreMatrix, test: PairTest, correction: str, alpha: float, *, noun: str = "topics"
) -> tuple[str, ...]:
    """Return reasons to doubt a test: few topics (called ``noun``), equal scores, or p-values that stay too large."""
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
    # a failed run widens the distribution of the largest difference, so pairs of other runs lose their significance
    if test.family_wise and (names := find_outlying_systems(matrix)):
        notes.append(describe_outliers(names, "Tukey's tests pool"))
    return (*notes, *note_symmetry(test))


def describe_outliers(names: Sequence[str], pooling: str) -> str:
    """Return a note on outlying systems, for tests that pool all systems (``pooling``, such as "the test pools")."""
    listed = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"Far below the other systems: {listed}. {pooling} all systems, so an outlying one can hide differences "
        "between the others. If they are failed runs, leave them out (compare: --omit-outliers)."
    )


def note_symmetry(test: object) -> list[str]:
    """Return a note if the test is Wilcoxon's, which is not one of means."""
    if not isinstance(test, Wilcoxon):
        return []
    return [
        "Wilcoxon's test is one of symmetry about 0, not of the mean: skewed differences with a mean of 0 are "
        "significant too often."
    ]


def note_few_topics(topics: int, noun: str) -> list[str]:
    """Return a note if there are fewer than `FEW_TOPICS` topics."""
    if topics >= FEW_TOPICS:
        return []
    return [f"Only {topics} {noun}: only large differences can be significant, and p-values are imprecise."]


def find_outlying_systems(matrix: ScoreMatrix) -> tuple[str, ...]:
    """Return the systems whose mean is more than 3 interquartile ranges below the lower quartile of all means.

    Failed runs distort tests that pool all systems. There are none among few systems, or if both quartiles are equal.
    Source of the rule: Tukey, Exploratory data analysis, 1977 (outer fence).
    """
    means = matrix.values.mean(axis=0)
    low, high = np.quantile(means, [0.25, 0.75])
    if len(means) < _FEWEST or high == low:
        return ()
    return tuple(system for system, mean in zip(matrix.systems, means, strict=True) if mean < low - 3 * (high - low))


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonOptions:
    """Options for comparing systems."""

    test: str = "t"  #: Selector of the test.
    #: Name of the correction; ``auto`` selects holm, or none if the test controls the family-wise error.
    correction: str = "auto"
    #: Significance level, applied to the corrected p-values; intervals have confidence level 1 - alpha.
    alpha: float = 0.05
    #: Whether to correct over all measures together instead of for each measure alone. P-values of tests that control
    #: the family-wise error over the systems are multiplied by the number of measures (Bonferroni).
    across_measures: bool = False
    #: Whether to compute simultaneous intervals of all pairs as well. Comparisons with a baseline always include them.
    simultaneous: bool = False
    #: Margin of equivalence and non-inferiority, in units of the measure; None to omit these tests.
    margin: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonFamily:
    """The hypotheses that were tested together, with the test and its correction."""

    test: str  #: Selector of the test.
    title: str  #: Name of the test in tables.
    correction: str
    family_wise: bool  #: Whether the test itself controls the family-wise error.
    alpha: float
    pairs: int  #: Number of pairs of systems tested per measure.
    measures: tuple[str, ...]
    across_measures: bool = False  #: Whether the correction covers all measures together, or each is its own family.
    topics: int
    missing: Mapping[str, int] = field(default_factory=dict)  #: Number of topics without results, if any, by system.
    options: Mapping[str, Any] = field(default_factory=dict)  #: Options of the test with their values.

    @property
    def measures_together(self) -> int:
        return len(self.measures) if self.across_measures else 1

    @property
    def size(self) -> int:
        return self.pairs * self.measures_together

    @property
    def level_of_single_test(self) -> float:
        """Bonferroni level of a single test: alpha / size, or alpha without a correction."""
        return self.alpha if self.correction == "none" and not self.family_wise else self.alpha / self.size

    def to_dict(self) -> dict[str, Any]:
        """Return the value of ``family`` in the JSON of every command that compares systems."""
        return {
            "test": Selector.parse(self.test).name,
            "options": dict(self.options),
            "correction": self.correction,
            "alpha": self.alpha,
            "pairs": self.pairs,
            "measures": list(self.measures),
            "across_measures": self.across_measures,
            "size": self.size,
            "topics": self.topics,
            "missing_topics": dict(self.missing),
            "versions": library_versions(),
        }

    def describe_p(self) -> str:
        """Describe which p-values are called significant, for the legend below a table."""
        pairs = f"{self.pairs} pair{'s' * (self.pairs != 1)}"
        measures = self.measures_together
        if self.correction != "none":
            how = f"after {TITLES[self.correction]}'s correction over {pairs}"
            how += f" x {measures} measures" if measures > 1 else ""
        elif self.family_wise:
            how = f"which controls the family-wise error over {pairs}"
            how += f", times {measures} measures (Bonferroni)" if measures > 1 else ""
        else:
            how = "not corrected"
        return f"p ({self.title}, two-sided), {how}, is at most {self.alpha:g}; {self.topics} queries."

    def describe_data(self) -> str:
        missing = ", ".join(f"{name} {count}" for name, count in self.missing.items()) or "none"
        options = ", ".join(f"{key} {value}" for key, value in self.options.items() if value is not None)
        versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
        return f"Missing queries: {missing}. {options and f'Options of the test: {options}. '}Versions: {versions}."


def options_of_test(test: object) -> dict[str, Any]:
    """Return all options of a test with their values, including defaults."""
    return {f.name: getattr(test, f.name) for f in fields(test)} if is_dataclass(test) else {}


def missing_topics(scores: Sequence[Scores]) -> dict[str, int]:
    """Return the number of judged queries without results, for each run with such queries."""
    return {entry.run: len(entry.missing) for entry in scores if entry.missing}


def note_missing_queries(scores: Sequence[Scores]) -> list[str]:
    """Return a note for every run that has no results for some judged queries."""
    return [
        f"Run {entry.run!r} has no results for {len(entry.missing)} of {len(entry.queries)} judged queries; "
        "they score 0."
        for entry in scores
        if entry.missing
    ]
