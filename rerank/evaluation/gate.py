"""A gate for continuous integration: whether a run may replace another one, decided by a comparison of the two."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from rerank.errors import ensure
from rerank.evaluation.baseline_comparison import POWER, BaselineComparison, BaselineRow
from rerank.evaluation.pairwise_decisions import with_rounding_for_wilcoxon
from rerank.evaluation.scores import format_interval, format_p_value
from rerank.evaluation.significance import open_significance_test

Condition = Literal["worse", "not-better", "not-equivalent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """Decision of a gate about a new run, compared with a base run on one measure."""

    fail_if: Condition
    fails: bool
    difference: float  #: Mean score of the new run minus that of the base run.
    p: float  #: P-value of the test that decided.
    #: Smallest true difference that a paired t-test detects with a power of 0.8; 0 if all differences are equal.
    detectable: float
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def decide_gate(comparison: BaselineComparison, condition: Condition) -> GateDecision:
    """Decide whether a gate fails, given the comparison of one run with one baseline on one measure.

    - ``worse`` fails if the new run is significantly worse: the p-value of the two-sided paired test is at most alpha
      and the difference is negative.
    - ``not-better`` fails unless the new run is significantly better, by the same test.
    - ``not-equivalent`` fails unless both one-sided t-tests against the margin (TOST) are significant at alpha.

    If all differences are equal but not 0, a studentised test cannot be computed, and Wilcoxon's test decides instead.

    The sentence states the smallest true difference that the paired t-test detects with power .8 at level alpha, given
    the standard deviation s of the differences on n queries. With d = shift * s / sqrt(n), the power is P(|T| > t_crit)
    for a noncentral t variable T with n - 1 degrees of freedom (Cohen 1988, section 2.5; `paired_t_power`), which is
    solved for d. It does not depend on the observed difference.

    Raises:
        UsageError: There are several measures or runs, or the comparison has no margin for ``not-equivalent``.
    """
    count = len(comparison.rows)
    ensure(count == 1, f"--fail-if is given with {count} comparisons", expected="one: two runs and one measure")
    (row,), family, margin = comparison.rows, comparison.family, comparison.margin
    ensure(
        margin is not None or condition != "not-equivalent",
        "--fail-if not-equivalent is given without --margin",
        expected="the largest difference that does not matter",
        remedy="Add --margin .01",
    )
    title, p = family.title, row.adjusted_p
    if p is None:
        title, p = "Wilcoxon, since all differences are equal", _wilcoxon_p(comparison, row)
    is_significant = p <= family.alpha
    if condition == "not-equivalent":
        title, p = f"TOST with margin {margin:g}", row.claims["equivalent_p"]
        fails = p > family.alpha
        verdict = f"{'not ' * fails}significantly equivalent"
    elif condition == "worse":
        fails = is_significant and row.difference < 0
        verdict = f"{'' if fails else 'not '}significantly worse"
    else:
        fails = not (is_significant and row.difference > 0)
        verdict = f"{'not ' * fails}significantly better"
    sentence = (
        f"{row.run} - {comparison.baseline}: {row.measure} {row.difference:+.4f} {format_interval(*row.interval, 4)}, "
        f"p {format_p_value(p)} ({title}, {family.topics} queries), {verdict} at level {family.alpha:g}"
    )
    if row.detectable:
        sentence += (
            f"; with {family.topics} queries, a true loss of less than {row.detectable:.4f} would not be seen with "
            f"power {POWER:g}"
        )
    elif row.difference and p > family.alpha:
        sentence += f"; the p-value of {family.topics} equal differences is at least {2 / 2**family.topics:.3g}"
    return GateDecision(
        fail_if=condition, fails=fails, difference=row.difference, p=p, detectable=row.detectable, sentence=sentence
    )


def _wilcoxon_p(comparison: BaselineComparison, row: BaselineRow) -> float:
    (matrix,) = comparison.matrices
    pair = [matrix.systems.index(name) for name in (comparison.baseline, row.run)]
    return float(open_significance_test(with_rounding_for_wilcoxon("wilcoxon")).p_values(matrix.values[:, pair])[0])
