"""Significance decisions for all pairs of systems, and their comparison with the decisions from gold judgments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rerank.adjudication.pair_categories import Codes, PairCategories, categorise_pairs_under_cheaper_judgments
from rerank.adjudication.pools import Bools, Floats, Ints
from rerank.adjudication.ranking_similarity import (
    rank_biased_overlap_with_gold,
    rank_changes_from_gold_judgments,
    rank_systems_for_study,
    tau_ap_with_gold_judgments,
    tau_with_gold_judgments,
)
from rerank.evaluation.comparison_family import ComparisonFamily, options_of_test
from rerank.evaluation.pairwise_decisions import check_significance_level, resolve_correction
from rerank.evaluation.significance import PairTest, correct_p_values, open_significance_test
from rerank.evaluation.significance.base import SupportsDecision, mean_paired_differences


@dataclass(frozen=True)
class Procedure:
    """A significance test with a correction for multiple comparisons.

    Attributes:
        test: Selector of a test.
        correction: Name of a correction.
    """

    test: str
    correction: str

    @cached_property
    def significance_test(self) -> PairTest:
        """The test that ``test`` selects. The object is cached, because a study uses it thousands of times."""
        return open_significance_test(self.test)

    @property
    def family_wise(self) -> bool:
        """True if the test itself controls the family-wise error."""
        return self.significance_test.family_wise

    def family(self, verdicts: Mapping[str, SignificanceVerdicts], alpha: float) -> ComparisonFamily:
        """Return the family of hypotheses that was tested: all pairs of systems on every measure.

        Args:
            verdicts: Significance decisions for each measure.
            alpha: Significance level.
        """
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
        """Return the test and the correction as text, or only the test if it needs no correction."""
        return self.test if self.family_wise else f"{self.test} + {self.correction}"


def cross_significance_procedures(test: Iterable[str], corrections: Iterable[str]) -> tuple[Procedure, ...]:
    """Return all combinations of a test and a correction. A test that needs no correction occurs once, with ``none``.

    Raises:
        UnknownNameError: A test or correction does not exist.
        UsageError: A correction is given, but every test controls the family-wise error itself.
    """
    names, requested = list(test), list(corrections)
    procedures: dict[Procedure, None] = {}
    all_family_wise = all(Procedure(name, "none").family_wise for name in names)
    for name in names:
        without_correction = Procedure(name, "none").family_wise and not all_family_wise
        for correction in ["none"] if without_correction else requested:
            procedures[Procedure(name, resolve_correction(name, correction))] = None
    return tuple(procedures)


def find_significant_pairs(values: Floats, procedures: Sequence[Procedure], alpha: float) -> list[Bools]:
    """Return, for every procedure, a boolean array of shape (pairs,): whether the two systems differ significantly.

    The p-values of a test are computed once and used for all its corrections.

    Args:
        values: (topics, systems) scores.
        procedures: Tests with their corrections.
        alpha: Significance level.
    """
    check_significance_level(alpha)
    raw: dict[str, Floats] = {}
    decisions = []
    for procedure in procedures:
        test = procedure.significance_test
        # deciding by a critical value avoids computing p-values
        if procedure.correction == "none" and isinstance(test, SupportsDecision):
            decisions.append(test.significant(values, alpha))
            continue
        if procedure.test not in raw:
            raw[procedure.test] = test.p_values(values)
        decisions.append(correct_p_values(raw[procedure.test], procedure.correction) <= alpha)
    return decisions


@dataclass(frozen=True, eq=False)
class SignificanceVerdicts:
    """Scores of systems on topics, and the significance decisions of every procedure.

    Attributes:
        values: (topics, systems) scores.
        systems: Names of the systems.
        significant: For every procedure, (pairs,) whether the two systems differ significantly.
    """

    values: Floats
    systems: tuple[str, ...]
    significant: tuple[Bools, ...]

    @classmethod
    def from_scores(
        cls, values: Floats, systems: tuple[str, ...], procedures: Sequence[Procedure], alpha: float
    ) -> SignificanceVerdicts:
        """Test every pair of systems with every procedure."""
        return cls(values, systems, tuple(find_significant_pairs(values, procedures, alpha)))

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
        return rank_systems_for_study(self.means, self.systems)

    def categorise_against(self, gold: SignificanceVerdicts) -> list[Codes]:
        """Compare the decisions with those in ``gold``: return (pairs,) category codes for every procedure."""
        return [
            categorise_pairs_under_cheaper_judgments(gold.differences, by_gold, self.differences, by_cheap)
            for by_gold, by_cheap in zip(gold.significant, self.significant, strict=True)
        ]

    def rank_changes(self, gold: SignificanceVerdicts) -> Ints:
        """Return an array of shape (systems,): by how many ranks each system falls compared with the gold ranking."""
        return rank_changes_from_gold_judgments(gold.ranking, self.ranking)

    def compare_ranking(self, gold: SignificanceVerdicts) -> dict[str, float | None]:
        """Return tau and other similarities to the gold ranking, by name; None if all systems tie in either ranking."""
        tau_b = tau_with_gold_judgments(gold.means, self.means)
        if tau_b is None:
            return dict.fromkeys(("tau", "tau_ap", "rbo", "max_drop"))
        return {
            "tau": tau_b,
            "tau_ap": tau_ap_with_gold_judgments(gold.ranking, self.ranking),
            "rbo": rank_biased_overlap_with_gold(gold.ranking, self.ranking),
            "max_drop": int(self.rank_changes(gold).max()),
        }


def gold_judgment_comparison_row(codes: Codes, similarity: dict[str, float | None]) -> dict[str, Any]:
    """Return one flat row for reports: category counts, rates and similarities to the gold ranking, by name."""
    return {**PairCategories.from_codes(codes).to_dict(), **similarity}
