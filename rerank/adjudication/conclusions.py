"""Conclusions about systems from gold and from cheaper judgments: significance decisions and rankings.

The difference d between two systems' means is computed and tested with gold and with cheap judgments. The pair of
systems then has one of these categories:

    |                  | both significant      | one significant      | none significant      |
    | same sign of d   | AA active agreement   | MA mixed agreement   | PA passive agreement  |
    | opposite sign    | AD active disagreement| MD mixed disagreement| PD passive disagreement|

If both differences are 0, the signs count as the same; if only one of them is 0, they count as opposite. Source:
Moffat, Scholer and Thomas, ADCS 2012; Otero, Parapar and Ferro, How discriminative are your qrels?, CIKM 2023.

Intervals and tests of these figures come from random samples of topics, systems and seeds. Topics are drawn with
replacement. Systems are drawn without replacement, half of them at a time: copies of a system would form pairs without
a difference, and the variance over half samples estimates that of a sample of full size (McCarthy, Pseudo-replication:
half samples, Review of the International Statistical Institute, 1969). The judgments of a walk are not sampled: they
result from all systems and topics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from rerank.adjudication.pools import Bools, Floats, Ints
from rerank.errors import ensure
from rerank.evaluation.pairwise_decisions import (
    ComparisonFamily,
    check_significance_level,
    options_of_test,
    resolve_correction,
)
from rerank.evaluation.significance import PairTest, correct_p_values, open_significance_test
from rerank.evaluation.significance.base import SupportsDecision, mean_paired_differences
from rerank.io.reports import Grid, TableReport, format_cell, make_grid

#: (pairs,) indices into `NAMES`, stored as 8-bit integers because a study holds very many of them.
Codes = npt.NDArray[np.int8]

#: Categories of a pair of systems. The code of a category is its index in this tuple.
NAMES = ("AA", "AD", "MA_missed", "MA_spurious", "MD_missed", "MD_spurious", "PA", "PD")
#: Names of the rates of `PairCategories`.
RATES = (
    *("precision", "recall", "f1", "publication_bias", "type_1", "type_2", "type_3"),
    *("balanced_accuracy", "mcc", "discriminative_power"),
)
_WRONG = {"missed": ("MA_missed", "MD_missed"), "spurious": ("MA_spurious", "MD_spurious"), "turned": ("AD",)}
# codes for the same sign and for opposite signs; row: whether significant under gold, column: under cheap judgments
_AGREE = np.array([[6, 3], [2, 0]], dtype=np.int8)
_DISAGREE = np.array([[7, 5], [4, 1]], dtype=np.int8)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCategories:
    """Number of system pairs per category of (dis)agreement between gold and cheap judgments, and rates of them.

    A mixed pair is ``missed`` if it is significant only with gold judgments, and ``spurious`` if only with cheap
    judgments. A rate is None if it would be 0 / 0.
    """

    AA: int
    AD: int
    MA_missed: int
    MA_spurious: int
    MD_missed: int
    MD_spurious: int
    PA: int
    PD: int

    @classmethod
    def from_codes(cls, codes: Codes) -> PairCategories:
        return cls(**dict(zip(NAMES, np.bincount(codes, minlength=len(NAMES)).tolist(), strict=True)))

    @property
    def MA(self) -> int:
        return self.MA_missed + self.MA_spurious

    @property
    def MD(self) -> int:
        return self.MD_missed + self.MD_spurious

    @property
    def pairs(self) -> int:
        return self.AA + self.AD + self.MA + self.MD + self.PA + self.PD

    @property
    def gold(self) -> int:
        """Number of pairs that are significant with gold judgments."""
        return self.AA + self.AD + self.MA_missed + self.MD_missed

    @property
    def cheap(self) -> int:
        """Number of pairs that are significant with cheap judgments."""
        return self.AA + self.AD + self.MA_spurious + self.MD_spurious

    @property
    def precision(self) -> float | None:
        """AA / (AA + AD + spurious), the share of pairs significant with cheap judgments that gold ones confirm."""
        return _ratio(self.AA, self.cheap)

    @property
    def recall(self) -> float | None:
        """AA / (AA + AD + missed), the share of pairs significant with gold judgments that cheap ones retain."""
        return _ratio(self.AA, self.gold)

    @property
    def f1(self) -> float | None:
        return _ratio(2 * self.AA, self.gold + self.cheap)

    @property
    def publication_bias(self) -> float | None:
        """Share of pairs significant with cheap judgments that gold ones do not confirm. Ferro and Sanderson 2022."""
        return None if self.precision is None else 1 - self.precision

    @property
    def type_1(self) -> float | None:
        """Type I error rate: spurious pairs divided by pairs that are not significant with gold judgments."""
        return _ratio(self.MA_spurious + self.MD_spurious, self.pairs - self.gold)

    @property
    def type_2(self) -> float | None:
        """Type II error rate: missed pairs divided by pairs that are significant with gold judgments."""
        return _ratio(self.MA_missed + self.MD_missed, self.gold)

    @property
    def type_3(self) -> float | None:
        """Type III error rate: AD pairs (opposite directions) divided by pairs significant with gold judgments."""
        return _ratio(self.AD, self.gold)

    @property
    def balanced_accuracy(self) -> float | None:
        """(TPR + TNR) / 2 of the significance decisions, ignoring direction; gold decides. McKechnie et al. 2025."""
        if self.type_1 is None or self.type_2 is None:
            return None
        return (2 - self.type_1 - self.type_2) / 2

    @property
    def mcc(self) -> float | None:
        """Matthews correlation coefficient of the two significance decisions, ignoring direction."""
        both, missed = self.AA + self.AD, self.MA_missed + self.MD_missed
        spurious, neither = self.MA_spurious + self.MD_spurious, self.PA + self.PD
        product = float(self.gold) * self.cheap * (self.pairs - self.gold) * (self.pairs - self.cheap)
        return (both * neither - missed * spurious) / product**0.5 if product else None

    @property
    def discriminative_power(self) -> float:
        """Fraction of pairs that are significant with cheap judgments. Source: Sakai, SIGIR 2006."""
        return self.cheap / self.pairs

    def to_dict(self) -> dict[str, float | None]:
        counts = {name: getattr(self, name) for name in ("AA", "AD", "MA", "MD", "PA", "PD")}
        return {**counts, **asdict(self), **{name: getattr(self, name) for name in RATES}}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def categorise_pairs(gold: Floats, gold_significant: Bools, cheap: Floats, cheap_significant: Bools) -> Codes:
    """Return (pairs,) indices into `NAMES`, from (pairs,) differences of means and whether they are significant."""
    verdicts = gold_significant.astype(np.intp), cheap_significant.astype(np.intp)
    return np.asarray(np.where(np.sign(gold) == np.sign(cheap), _AGREE[verdicts], _DISAGREE[verdicts]))


def count_errors(codes: Codes, systems: int) -> dict[str, Ints]:
    """Count, for every system, its pairs that are missed, spurious or turned into the opposite (category AD).

    The (pairs,) codes are in the order of ``itertools.combinations``, and each count has shape (systems,). Errors may
    be concentrated on a few systems, which is unfair. Source: Otero, Parapar and Barreiro, SIGIR 2025.
    """
    first, second = np.triu_indices(systems, 1)
    counts = {}
    for error, kinds in _WRONG.items():
        is_wrong = np.isin(codes, [NAMES.index(kind) for kind in kinds])
        counts[error] = np.bincount(np.concatenate((first[is_wrong], second[is_wrong])), minlength=systems)
    return counts


# Similarity of two rankings of the same systems. A ranking is an array of shape (systems,): the indices of the systems,
# best first.


def rank_systems(means: Floats, names: Sequence[str]) -> Ints:
    """Return the ranking of systems by decreasing mean and then by name."""
    # sorting by name first lets the stable sort break ties by name
    order = np.argsort(np.array(names), kind="stable")
    return np.asarray(order[np.argsort(-means[order], kind="stable")])


def ranks_in(ranking: Ints) -> Ints:
    """Return (systems,) the rank of each system in a ranking, counted from 0."""
    ranks = np.empty_like(ranking)
    ranks[ranking] = np.arange(len(ranking))
    return ranks


def rank_changes(gold: Ints, cheap: Ints) -> Ints:
    """Return (systems,) by how many ranks each system falls from the gold to the cheap ranking."""
    return ranks_in(cheap) - ranks_in(gold)


def kendall_tau(gold: Floats, cheap: Floats) -> float | None:
    """Compute Kendall's tau-b of systems' means with gold and cheap judgments; None if all means in one are equal."""
    # (pairs,) signs of all pairwise differences
    d, e = (np.sign(x[:, None] - x[None])[np.triu_indices(len(x), 1)] for x in (gold, cheap))
    # tau_b = sum d e / sqrt(sum |d| * sum |e|); ties contribute 0
    weight = float(np.abs(d).sum() * np.abs(e).sum())
    return float((d * e).sum()) / weight**0.5 if weight else None


def tau_ap(gold: Ints, cheap: Ints) -> float:
    """Compute tau_AP of two rankings, a variant of Kendall's tau that gives more weight to the top ranks.

    tau_AP = 2 / (m - 1) * (sum over i = 2 .. m of C(i) / (i - 1)) - 1 for m systems. Take the system at rank i of the
    cheap ranking: C(i) is the number of systems that both rankings place above it. The coefficient is not symmetric.
    Source: Yilmaz, Aslam and Robertson, A new rank correlation coefficient for information retrieval, SIGIR 2008.
    """
    gold_ranks = ranks_in(gold)[cheap]  # (systems,) gold ranks in the order of the cheap ranking
    count = len(gold_ranks)
    # (systems,) C(i): row i of the lower triangle counts the systems above it in both rankings
    concordant = np.tril(gold_ranks[None] < gold_ranks[:, None], -1).sum(axis=1)
    return round(float(2 / (count - 1) * (concordant[1:] / np.arange(1, count)).sum() - 1), 12)


def rank_biased_overlap(gold: Ints, cheap: Ints, p: float = 0.9) -> float:
    """Compute extrapolated rank-biased overlap: A_m p^m + (1 - p) / p * (sum over d = 1 .. m of A_d p^d).

    m is the number of systems, and A_d is the fraction of the first d systems that both rankings share. The expected
    depth of inspection is 1 / (1 - p). Source: Webber, Moffat and Zobel, A similarity measure for indefinite rankings,
    TOIS 2010, for rankings of equal length.
    """
    count = len(gold)
    # (systems,) smallest depth, counted from 0, at which both rankings contain the system
    joint_depths = np.maximum(ranks_in(gold), ranks_in(cheap))
    depths = np.arange(1, count + 1)
    # (systems,) A_d = number of systems shared by the first d, divided by d
    agreement = np.bincount(joint_depths, minlength=count).cumsum() / depths
    return round(float(agreement[-1] * p**count + (1 - p) / p * (agreement * p**depths).sum()), 12)


@dataclass(frozen=True)
class Procedure:
    """A significance test with a correction for multiple comparisons, by the selector and the name of both."""

    test: str
    correction: str

    @cached_property
    def significance_test(self) -> PairTest:
        """The test that ``test`` selects, cached because a study uses it thousands of times."""
        return open_significance_test(self.test)

    @property
    def family_wise(self) -> bool:
        return self.significance_test.family_wise

    def family(self, verdicts: Mapping[str, SignificanceVerdicts], alpha: float) -> ComparisonFamily:
        first = next(iter(verdicts.values()))
        return ComparisonFamily(
            test=self.test,
            title=self.significance_test.title,
            correction=self.correction,
            family_wise=self.family_wise,
            alpha=alpha,
            pairs=len(first.differences),
            measures=tuple(verdicts),
            topics=len(first.values),
            options=options_of_test(self.significance_test),
        )

    def __str__(self) -> str:
        return self.test if self.family_wise else f"{self.test} + {self.correction}"


def cross_significance_procedures(test: Iterable[str], corrections: Iterable[str]) -> tuple[Procedure, ...]:
    """Return all combinations of a test and a correction; a test that needs none occurs once, with ``none``."""
    names, requested = list(test), list(corrections)
    procedures: dict[Procedure, None] = {}
    all_family_wise = all(Procedure(name, "none").family_wise for name in names)
    for name in names:
        without_correction = Procedure(name, "none").family_wise and not all_family_wise
        for correction in ["none"] if without_correction else requested:
            procedures[Procedure(name, resolve_correction(name, correction))] = None
    return tuple(procedures)


@dataclass(frozen=True, eq=False)
class SignificanceVerdicts:
    """Scores of systems on topics, and the significance decisions of every procedure."""

    values: Floats  # (topics, systems) scores
    systems: tuple[str, ...]
    significant: tuple[Bools, ...]  # for every procedure, (pairs,) whether the two systems differ significantly

    @classmethod
    def from_scores(
        cls, values: Floats, systems: tuple[str, ...], procedures: Sequence[Procedure], alpha: float
    ) -> SignificanceVerdicts:
        """Test every pair of systems with every procedure. The p-values of a test serve all its corrections."""
        check_significance_level(alpha)
        p_values: dict[str, Floats] = {}
        decisions = []
        for procedure in procedures:
            test = procedure.significance_test
            # deciding by a critical value avoids computing p-values
            if procedure.correction == "none" and isinstance(test, SupportsDecision):
                decisions.append(test.significant(values, alpha))
                continue
            if procedure.test not in p_values:
                p_values[procedure.test] = test.p_values(values)
            decisions.append(correct_p_values(p_values[procedure.test], procedure.correction) <= alpha)
        return cls(values, systems, tuple(decisions))

    @cached_property
    def differences(self) -> Floats:
        """(pairs,) mean of the first system minus mean of the second."""
        return mean_paired_differences(self.values)

    @cached_property
    def means(self) -> Floats:
        """(systems,) mean score of each system."""
        # rounded like the differences, so that systems with equal means are also tied in rankings
        return np.asarray(self.values.mean(axis=0).round(12))

    @cached_property
    def ranking(self) -> Ints:
        """(systems,) indices of the systems, best mean first."""
        return rank_systems(self.means, self.systems)

    def categorise_against(self, gold: SignificanceVerdicts) -> list[Codes]:
        """Return (pairs,) category codes of the decisions for every procedure."""
        return [
            categorise_pairs(gold.differences, by_gold, self.differences, by_cheap)
            for by_gold, by_cheap in zip(gold.significant, self.significant, strict=True)
        ]

    def rank_changes(self, gold: SignificanceVerdicts) -> Ints:
        """Return (systems,) by how many ranks each system falls compared with the gold ranking."""
        return rank_changes(gold.ranking, self.ranking)

    def compare_ranking(self, gold: SignificanceVerdicts) -> dict[str, float | None]:
        """Return tau and other similarities to the gold ranking, by name; None if all systems tie in either ranking."""
        tau_b = kendall_tau(gold.means, self.means)
        if tau_b is None:
            return dict.fromkeys(("tau", "tau_ap", "rbo", "max_drop"))
        return {
            "tau": tau_b,
            "tau_ap": tau_ap(gold.ranking, self.ranking),
            "rbo": rank_biased_overlap(gold.ranking, self.ranking),
            "max_drop": int(self.rank_changes(gold).max()),
        }


def comparison_row(codes: Codes, similarity: Mapping[str, float | None]) -> dict[str, Any]:
    """Return category counts, rates and similarities to the gold ranking, by name."""
    return {**PairCategories.from_codes(codes).to_dict(), **similarity}


_VERDICTS = ("AA", "AD", "MA", "MD", "PA", "PD", "precision", "recall", "balanced_accuracy", "tau", "tau_ap")
#: Headings of the columns that a terminal shows only with ``--wide``.
_MINOR = ("MA", "MD", "PA", "PD", "balanced accuracy", "tau ap")


def procedure_of_row(row: Mapping[str, Any]) -> str:
    """Return the test and the correction of a row as text, such as ``t + holm``."""
    return str(row["test"]) if row["correction"] == "none" else f"{row['test']} + {row['correction']}"


def verdict_grid(rows: Sequence[Mapping[str, Any]], about: Sequence[str] = ()) -> Grid:
    """Return a table of `comparison_row` with ``about`` them: mean counts with 1 decimal, rates with 3 decimals."""
    cells = [
        [
            *(row[key] for key in about),
            row["measure"],
            procedure_of_row(row),
            *(format_cell(row[name], 1 if name.isupper() else 3) for name in _VERDICTS),
        ]
        for row in rows
    ]
    heads = [*about, "measure", "test", *(name.replace("_", " ") for name in _VERDICTS)]
    return make_grid(heads, cells, minor=_MINOR)._replace(left=len(about) + 2)


def verdict_tables(
    content: Mapping[str, Any], families: Sequence[ComparisonFamily], about: Sequence[str] = ()
) -> TableReport:
    """Return the decisions of a study or a comparison as a table, with the significance tests in its legend."""
    legend = [f"Significant: {family.describe_p()}" for family in families] + [families[0].describe_data()]
    return TableReport([verdict_grid(content["results"], about)], legend, content["notes"])


#: Figures of a study that get intervals.
RESAMPLED = (*RATES, "tau", "tau_ap", "rbo")
#: Figures by which methods are tested against each other.
CONTRASTED = ("recall", "precision", "balanced_accuracy", "tau", "tau_ap")
#: Correction over all pairs of methods.
CORRECTION = "holm"
#: Stream of random numbers for samples of topics and systems.
_SAMPLES = 2


@dataclass(frozen=True, eq=False, kw_only=True)
class StudyResamples:
    """Random samples of topics and systems for the intervals of a study; the same for all methods."""

    topics: Ints  # (samples, topics) indices of topics
    systems: Ints  # (samples, systems / 2) indices of systems
    #: Decisions with the gold judgments on every sample, for each measure.
    gold: Mapping[str, Sequence[SignificanceVerdicts]]
    procedures: tuple[Procedure, ...]  # tests with their corrections
    alpha: float

    @classmethod
    def draw(
        cls,
        gold: Mapping[str, SignificanceVerdicts],
        procedures: tuple[Procedure, ...],
        *,
        resamples: int,
        seed: int,
        alpha: float,
    ) -> StudyResamples:
        ensure(resamples >= 2, f"resamples is {resamples}", expected="at least 2", remedy="Use 1000")
        rng = np.random.default_rng([seed, _SAMPLES])
        topics, systems = next(iter(gold.values())).values.shape
        drawn = cls(
            topics=rng.integers(topics, size=(resamples, topics)),
            systems=np.stack([rng.permutation(systems)[: max(2, systems // 2)] for _ in range(resamples)]),
            gold={},
            procedures=procedures,
            alpha=alpha,
        )
        decisions = {name: [drawn._decide(index, own) for index in range(resamples)] for name, own in gold.items()}
        return replace(drawn, gold=decisions)

    def evaluate(self, measure: str, cheap: SignificanceVerdicts, samples: Sequence[int]) -> Floats:
        """Return (procedures, samples, figures) values of the figures in `RESAMPLED`; NaN if undefined."""
        figures = np.empty((len(self.procedures), len(samples), len(RESAMPLED)))
        for column, index in enumerate(samples):
            gold, decided = self.gold[measure][index], self._decide(index, cheap)
            similarity = decided.compare_ranking(gold)
            for row, codes in enumerate(decided.categorise_against(gold)):
                numbers = comparison_row(codes, similarity)
                figures[row, column] = [np.nan if (v := numbers[name]) is None else v for name in RESAMPLED]
        return figures

    def _decide(self, index: int, verdicts: SignificanceVerdicts) -> SignificanceVerdicts:
        systems = self.systems[index]
        return SignificanceVerdicts.from_scores(
            verdicts.values[np.ix_(self.topics[index], systems)],
            tuple(verdicts.systems[system] for system in systems),
            self.procedures,
            self.alpha,
        )


def figure_intervals(row: Mapping[str, Any], figures: Floats, alpha: float) -> dict[str, list[float] | None]:
    """Return the interval of each figure in `RESAMPLED`: value +- z times its standard deviation over samples.

    ``figures`` has shape (samples, figures). Intervals are clipped to the range of the figure, and None if the figure
    is undefined, or is undefined in most samples.
    """
    intervals: dict[str, list[float] | None] = {}
    for name, values in zip(RESAMPLED, figures.T, strict=True):
        lowest = -1.0 if name in ("tau", "tau_ap", "mcc") else 0.0
        half = _half_width(values, alpha)
        intervals[name] = (
            None if row[name] is None or half is None else [max(lowest, row[name] - half), min(1.0, row[name] + half)]
        )
    return intervals


def compare_methods(
    rows: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Floats], alpha: float
) -> Iterator[dict[str, Any]]:
    """Test the difference of every pair of methods in one setting (budget, measure, test).

    Both methods are evaluated on the same samples; each sample belongs to one seed of a method. A difference is divided
    by its standard deviation over samples and compared with the normal distribution. Holm's correction covers all pairs
    of methods for one figure. ``figures`` are (samples, figures) values of the figures in `RESAMPLED`.
    """
    from scipy.stats import norm

    for name in CONTRASTED:
        column = RESAMPLED.index(name)
        contrasts = []
        for a, b in combinations(rows, 2):
            half = _half_width(figures[a][:, column] - figures[b][:, column], alpha)
            if half is None or rows[a][name] is None or rows[b][name] is None:
                continue
            difference = rows[a][name] - rows[b][name]
            z = abs(difference) / (half / norm.ppf(1 - alpha / 2)) if half else (np.inf if difference else 0.0)
            contrasts.append(
                {
                    "figure": name,
                    "method_a": a,
                    "method_b": b,
                    "difference": difference,
                    "interval": [difference - half, difference + half],
                    "p": float(max(2 * norm.sf(z), np.finfo(float).tiny)),
                }
            )
        adjusted = correct_p_values(np.array([row["p"] for row in contrasts]), CORRECTION) if contrasts else ()
        for row, p in zip(contrasts, adjusted, strict=True):
            yield {**row, "adjusted_p": float(p)}


def _half_width(values: Floats, alpha: float) -> float | None:
    """Return z times the standard deviation of the defined values; None if fewer than half of them are defined."""
    from scipy.stats import norm

    defined = values[~np.isnan(values)]
    if len(defined) < max(2, len(values) / 2):
        return None
    return float(norm.ppf(1 - alpha / 2) * defined.std(ddof=1))
