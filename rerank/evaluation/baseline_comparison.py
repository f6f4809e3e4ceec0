"""Comparison of many systems with one baseline, with tests of equivalence and non-inferiority (TOST)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation.baseline_tests import CorrectedPairTest, open_baseline_test
from rerank.evaluation.pairwise_decisions import (
    ComparisonFamily,
    ComparisonOptions,
    check_significance_level,
    describe_outliers,
    find_outlying_systems,
    missing_topics,
    note_few_topics,
    note_missing_queries,
    note_symmetry,
    options_of_test,
    with_rounding_for_wilcoxon,
)
from rerank.evaluation.power import smallest_detectable_difference
from rerank.evaluation.scores import ScoreMatrix, Scores, format_interval, format_p_value, format_score
from rerank.evaluation.significance import correct_p_values
from rerank.evaluation.significance.anova import Dunnett
from rerank.evaluation.significance.base import (
    BaselineP,
    Floats,
    clip_p_values,
    differences_from_baseline,
    sample_skewness,
    standard_errors,
)
from rerank.evaluation.significance.resampling import Bootstrap, MaxT, ResamplingOptions
from rerank.io.reports import Cell, Grid, Report, TableReport, format_cell
from rerank.selector import Selector

if TYPE_CHECKING:
    from rerank.evaluation.gate import GateDecision

#: Power at which the smallest detectable difference of a row is stated.
POWER = 0.8
#: Skewness of differences beyond which tests of means need more topics than is usual.
_SKEWED = 2.0
#: Ratio of standard deviations from which a note is given with tests that assume equal variances.
_UNEQUAL = 3.0
#: Marks at the mean of a run that is significantly above or below the baseline.
ABOVE, BELOW = "†", "‡"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRow:
    """Comparison of one system with the baseline on one measure."""

    run: str
    measure: str
    mean: float  #: Mean score of the system.
    difference: float  #: Mean score of the system minus that of the baseline.
    interval: tuple[float, float]  #: 1 - alpha confidence interval of the difference (paired t, for this one alone).
    p: float | None  #: P-value of this comparison alone; None if the t-test cannot be computed.
    #: P-value that takes all comparisons into account; None if the t-test cannot be computed.
    adjusted_p: float | None
    judged: float | None = None  #: Fraction of the system's top documents that are judged; None if unknown.
    significant: bool  #: Whether ``adjusted_p`` is at most alpha.
    #: Intervals of all systems jointly cover the true differences with probability 1 - alpha.
    simultaneous_interval: tuple[float, float]
    #: Smallest true difference that a paired t-test detects with a power of 0.8, at the level alpha divided by the size
    #: of the family (at alpha without a correction), given the standard deviation of the per-topic differences.
    detectable: float
    #: The p-values ``equivalent_p`` and ``not_inferior_p``; empty if no margin was given.
    claims: Mapping[str, float] = field(default_factory=dict)

    @property
    def mark(self) -> str:  # in tables
        return (ABOVE if self.difference > 0 else BELOW) if self.significant else ""

    def to_dict(self) -> dict[str, Any]:
        content = asdict(self) | {
            "interval": list(self.interval),
            "simultaneous_interval": list(self.simultaneous_interval),
        }
        claims: dict[str, float] = content.pop("claims")
        return content | claims


@dataclass(frozen=True, eq=False, kw_only=True)
class BaselineComparison(Report):
    """Comparison of all systems with a baseline."""

    rows_key = "rows"

    baseline: str
    family: ComparisonFamily  #: The hypotheses that were tested together, with the test and its correction.
    matrices: tuple[ScoreMatrix, ...]  #: The scores, one matrix per measure.
    rows: tuple[BaselineRow, ...]  #: One row per measure and system other than the baseline, in input order.
    margin: float | None = None  #: Margin of equivalence and non-inferiority; None if they were not tested.
    claims_test: str = "t"  #: Test of equivalence and non-inferiority: t or bootstrap.
    claims_correction: str = "holm"
    #: Fraction of the baseline's top documents that are judged, for each measure; None if unknown.
    baseline_judged: Mapping[str, float | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    gate: GateDecision | None = None  #: Decision of ``rerank compare --fail-if``.

    def to_dict(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline,
            "family": self.family.to_dict(),
            "margin": self.margin,
            **(
                {}
                if self.margin is None
                else {"claims": {"test": self.claims_test, "correction": self.claims_correction}}
            ),
            "means": [
                {
                    "measure": matrix.measure,
                    "mean": float(matrix.values[:, matrix.systems.index(self.baseline)].mean()),
                    "judged": self.baseline_judged.get(matrix.measure),
                }
                for matrix in self.matrices
            ],
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
            **({"gate": self.gate.to_dict()} if self.gate is not None else {}),
        }

    def sorted_rows(self) -> list[BaselineRow]:
        order = {measure: number for number, measure in enumerate(self.family.measures)}
        return sorted(self.rows, key=lambda row: (order[row.measure], -row.mean))

    def tables(self, digits: int = 4) -> TableReport:
        measures, claims = self.family.measures_together, ""
        if self.margin is not None:
            over = f"{self.family.pairs} runs" + (f" x {measures} measures" if measures > 1 else "")
            holm = "not corrected" if self.claims_correction == "none" else f"Holm over {over}"
            claims = f" Equivalence and non-inferiority: {self.claims_test}, margin {self.margin:g}, {holm}."
        legend = [
            f"{ABOVE} significantly above the baseline {self.baseline}, {BELOW} below: {self.family.describe_p()}",
            "Difference: run minus baseline. Detectable: smallest true difference found with power 0.8 at the "
            f"corrected level. Judged: fraction of judged documents at the measure's cutoff, or 10.{claims}",
            self.family.describe_data(),
        ]
        return TableReport([self._table_of_means(digits), self._table_of_comparisons(digits)], legend, self.notes)

    def _table_of_means(self, digits: int) -> Grid:
        marks = {(row.run, row.measure): row.mark for row in self.rows}
        means = {m.measure: dict(zip(m.systems, m.values.mean(axis=0).tolist(), strict=True)) for m in self.matrices}
        first = next(iter(means.values()))
        rows: list[list[str | Cell]] = []
        for name in sorted(first, key=lambda system: -first[system]):
            cells = [
                Cell(format_score(row[name], digits), marks.get((name, measure), ""), row[name] == max(row.values()))
                for measure, row in means.items()
            ]
            rows.append([f"{name} (baseline)" if name == self.baseline else name, *cells])
        return Grid(["run", *means], rows)

    def _table_of_comparisons(self, digits: int) -> Grid:
        level = f"{100 * (1 - self.family.alpha):g}%"
        heads = ["run", "measure", "difference", f"{level} interval", f"simultaneous {level}", "p", "adjusted p"]
        heads += ["detectable", "judged", *(["equivalent", "not inferior"] if self.margin is not None else [])]
        rows: list[list[str | Cell]] = [
            [
                row.run,
                row.measure,
                Cell(f"{row.difference:+.{digits}f}", row.mark),
                format_interval(*row.interval, digits),
                format_interval(*row.simultaneous_interval, digits),
                format_p_value(row.p),
                format_p_value(row.adjusted_p),
                format_score(row.detectable, digits),
                format_cell(row.judged, 2),
                *(format_p_value(p) for p in row.claims.values()),
            ]
            for row in self.sorted_rows()
        ]
        minor = (f"simultaneous {level}", "p", "detectable", "judged")
        return Grid(heads, rows, left=2, minor=[heads.index(name) for name in minor])


def compare_with_baseline(
    scores: Sequence[Scores],
    measures: Sequence[str],
    baseline: str,
    options: ComparisonOptions | None = None,
    *,
    judged: Mapping[tuple[str, str], float] | None = None,
) -> BaselineComparison:
    """Test every run other than the baseline for a significant difference from the baseline.

    All ``scores`` are over the same judged queries and include the ``measures``, named as ir_measures prints them. The
    test may also be ``dunnett`` or ``max-t``. ``judged`` has known fractions of judged documents among the run's top
    documents, for each pair (run, measure).

    Raises:
        UnknownNameError: The baseline, the test or the correction does not exist.
        UsageError: The test cannot be combined with the correction, or an option is out of range.
        DataError: The runs were evaluated on different queries, or on fewer than two.
    """
    from scipy.stats import t

    options, judged = options or ComparisonOptions(), judged or {}
    check_significance_level(options.alpha)
    test = open_baseline_test(with_rounding_for_wilcoxon(options.test), options.correction)
    single = test.test if isinstance(test, CorrectedPairTest) else test
    matrices = tuple(ScoreMatrix.from_scores(scores, measure) for measure in measures)
    systems, topics = matrices[0].systems, len(matrices[0].topics)
    if baseline not in systems:
        raise UnknownNameError("baseline", baseline, systems)
    index = systems.index(baseline)
    p_values = [test.p_values(matrix.values, index) for matrix in matrices]
    if options.across_measures and test.family_wise:
        p_values = [BaselineP(p.raw, np.minimum(1.0, p.adjusted * len(p_values))) for p in p_values]
    elif options.across_measures:
        adjusted = correct_p_values(np.concatenate([p.raw for p in p_values]), test.correction)
        parts = np.split(adjusted, len(p_values))
        p_values = [BaselineP(p.raw, part) for p, part in zip(p_values, parts, strict=True)]
    family = ComparisonFamily(
        test=options.test,
        title=test.title,
        correction=test.correction,
        family_wise=test.family_wise,
        alpha=options.alpha,
        pairs=len(scores) - 1,
        measures=tuple(measures),
        across_measures=options.across_measures,
        topics=len(scores[0].queries),
        missing=missing_topics(scores),
        options=options_of_test(single),
    )
    level = family.level_of_single_test
    differences = [differences_from_baseline(matrix.values, index) for matrix in matrices]
    bootstrap = single if isinstance(single, Bootstrap) or (isinstance(single, MaxT) and not single.flip) else None
    claims_correction = "holm" if test.family_wise or test.correction != "none" else "none"
    claims: list[dict[str, Floats]] = [{} for _ in matrices]
    if options.margin is not None:
        tested = [equivalence_p_values(d, options.margin, bootstrap) for d in differences]
        claims = _correct_claims(tested, claims_correction, across=options.across_measures)
    rows = []
    for matrix, d, p, claimed in zip(matrices, differences, p_values, claims, strict=True):
        mean, errors = d.mean(axis=0), standard_errors(d)
        half = errors * t.isf(family.alpha / 2, topics - 1)
        wide = test.half_widths(matrix.values, index, family.alpha / family.measures_together)
        # the t-test cannot be computed if all differences are equal and not 0
        unknown = (errors == 0) & (mean != 0) & (Selector.parse(family.test).name == "t")
        means = np.delete(matrix.values.mean(axis=0), index)
        for j, name in enumerate(system for system in systems if system != baseline):
            row = BaselineRow(
                run=name,
                measure=matrix.measure,
                mean=float(means[j]),
                difference=float(mean[j]),
                interval=(float(mean[j] - half[j]), float(mean[j] + half[j])),
                simultaneous_interval=(float(mean[j] - wide[j]), float(mean[j] + wide[j])),
                p=None if unknown[j] else float(p.raw[j]),
                adjusted_p=None if unknown[j] else float(p.adjusted[j]),
                judged=judged.get((name, matrix.measure)),
                significant=bool(p.adjusted[j] <= family.alpha and not unknown[j]),
                detectable=smallest_detectable_difference(topics, float(errors[j] * np.sqrt(topics)), level, POWER),
                claims={claim: float(values[j]) for claim, values in claimed.items()},
            )
            rows.append(row)
    return BaselineComparison(
        baseline=baseline,
        family=family,
        matrices=matrices,
        rows=tuple(rows),
        margin=options.margin,
        claims_test="t" if bootstrap is None else "bootstrap",
        claims_correction=claims_correction,
        baseline_judged={measure: judged.get((baseline, measure)) for measure in measures},
        notes=(
            *note_missing_queries(scores),
            *note_few_topics(topics, "queries"),
            *note_symmetry(single),
            *_note_assumptions(single, options.margin, matrices, differences, baseline),
        ),
    )


def _correct_claims(found: Sequence[EquivalenceP], correction: str, *, across: bool) -> list[dict[str, Floats]]:
    """Return the corrected p-values of each claim for each measure, corrected alone or ``across`` all measures."""
    columns = [[claim[place] for claim in found] for place in range(2)]  # of each claim, one array per measure
    if across:
        columns = [np.split(correct_p_values(np.concatenate(parts), correction), len(found)) for parts in columns]
    else:
        columns = [[correct_p_values(p, correction) for p in parts] for parts in columns]
    return [{"equivalent_p": one, "not_inferior_p": two} for one, two in zip(*columns, strict=True)]


def _note_assumptions(
    test: object, margin: float | None, matrices: Sequence[ScoreMatrix], differences: Sequence[Floats], baseline: str
) -> Iterator[str]:
    """Yield notes on assumptions of the tests that these differences seem to violate, with the worst case."""
    for matrix, d in zip(matrices, differences, strict=True):
        others = [system for system in matrix.systems if system != baseline]
        on = f" on {matrix.measure}" if len(matrices) > 1 else ""
        skewness = np.array([sample_skewness(column) for column in d.T])
        worst = int(np.argmax(np.abs(skewness)))
        if (isinstance(test, MaxT) or margin is not None) and abs(skewness[worst]) > _SKEWED:
            yield (
                f"The differences of {others[worst]!r} from the baseline{on} have a skewness of {skewness[worst]:.1f}: "
                f"{'max-t' if isinstance(test, MaxT) else 'the tests with a margin'} may reject too often with "
                f"{len(d)} queries."
            )
        deviations = d.std(axis=0, ddof=1)
        if isinstance(test, Dunnett) and deviations.min() * _UNEQUAL < deviations.max():
            least, most = others[int(np.argmin(deviations))], others[int(np.argmax(deviations))]
            yield (
                f"Dunnett's test assumes equal variances, but the standard deviations of the differences{on} range "
                f"from {deviations.min():.3g} ({least!r}) to {deviations.max():.3g} ({most!r}): use max-t."
            )
        if isinstance(test, Dunnett) and (outlying := find_outlying_systems(matrix)):
            yield describe_outliers(outlying, "Dunnett's test pools")


class EquivalenceP(NamedTuple):
    """P-values of tests with a margin, as arrays of shape (pairs,). Small values are evidence for the claim."""

    equivalent: Floats  #: Against the null hypothesis that the true difference is at least the margin in size.
    not_inferior: Floats  #: Against the null hypothesis that the true difference is at most minus the margin.


def equivalence_p_values(
    differences: Floats, margin: float, bootstrap: ResamplingOptions | None = None
) -> EquivalenceP:
    """Test whether the mean differences of (topics, pairs) scores lie within a margin, in units of the measure.

    The p-value of equivalence is the larger of the p-values of two one-sided t-tests, for d > -margin and for d <
    margin. Equivalence holds at level alpha if and only if the 1 - 2 alpha confidence interval lies within the margins.
    If all differences are equal, their variance cannot be estimated: p is the smallest reported p-value if all
    differences are 0, and 1 otherwise. Source: Schuirmann, J. Pharmacokinetics and Biopharmaceutics 1987; Lakens, SPPS
    2017.

    With ``bootstrap``, the t distribution is replaced by that of the studentised means of its draws, which are as
    skewed as the differences: p = (1 + number of draws at least as extreme) / (B + 1), in one direction.
    """
    from scipy.stats import t

    if not (np.isfinite(margin) and margin > 0):
        raise UsageError(f"margin is {margin}", expected="a number above 0, in units of the measure")
    topics, mean, error = len(differences), differences.mean(axis=0), standard_errors(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        from_below, from_above = (mean + margin) / error, (margin - mean) / error
    if bootstrap is None:
        above, below = (t.sf(statistic, topics - 1) for statistic in (from_below, from_above))
    else:
        drawn = np.concatenate([*bootstrap.bootstrap_t(differences - mean)])  # (draws, pairs)
        counts = ((drawn >= from_below).sum(axis=0), (-drawn >= from_above).sum(axis=0))
        above, below = ((1 + count) / (len(drawn) + 1) for count in counts)
    limit = np.where(differences[0] == 0, 0.0, 1.0)
    not_inferior = clip_p_values(np.where(error == 0, limit, above))
    return EquivalenceP(np.maximum(not_inferior, clip_p_values(np.where(error == 0, limit, below))), not_inferior)
