"""What a test says of every two systems by some judgments, beside what it says by gold ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rerank.adjudication.categories import Categories, Codes, categorise
from rerank.adjudication.correlation import max_drop, ranked, rbo, tau, tau_ap
from rerank.adjudication.pools import Bools, Floats, Ints
from rerank.evaluation.pairs import check_level, correction_of
from rerank.evaluation.significance import PairTest, correct, open_test
from rerank.evaluation.significance.base import SupportsDecision, mean_differences


@dataclass(frozen=True)
class Procedure:
    """A test with its correction.

    Attributes:
        test: Selector of a test.
        correction: Name of a correction.
    """

    test: str
    correction: str

    @cached_property
    def opened(self) -> PairTest:
        """The test. Looked up once, for a study asks it thousands of times."""
        return open_test(self.test)

    @property
    def family_wise(self) -> bool:
        """Whether the test holds for all pairs together by itself."""
        return self.opened.family_wise

    def __str__(self) -> str:
        """Both names, or the test's alone where it needs no correction."""
        return self.test if self.family_wise else f"{self.test} + {self.correction}"


def crossed(test: Iterable[str], corrections: Iterable[str]) -> tuple[Procedure, ...]:
    """Every test with every correction; one that needs none stands once, without.

    Raises:
        UnknownNameError: No such test or correction.
        UsageError: A correction is asked for, and no test takes one.
    """
    given, wanted = list(test), list(corrections)
    found: dict[Procedure, None] = {}
    alone = all(Procedure(name, "none").family_wise for name in given)
    for name in given:
        bare = Procedure(name, "none").family_wise and not alone
        for correction in ["none"] if bare else wanted:
            found[Procedure(name, correction_of(name, correction))] = None
    return tuple(found)


def significant(values: Floats, procedures: Sequence[Procedure], alpha: float) -> list[Bools]:
    """Which pairs differ, by every procedure; a test's p-values are computed once for all its corrections.

    Args:
        values: (topics, systems).
        procedures: Tests and corrections.
        alpha: The level.
    """
    check_level(alpha)
    raw: dict[str, Floats] = {}
    found = []
    for procedure in procedures:
        test = procedure.opened
        if procedure.correction == "none" and isinstance(test, SupportsDecision):
            found.append(test.significant(values, alpha))
            continue
        if procedure.test not in raw:
            raw[procedure.test] = test.p_values(values)
        found.append(correct(raw[procedure.test], procedure.correction) <= alpha)
    return found


@dataclass(frozen=True, eq=False)
class Verdicts:
    """A topic x system matrix and what every procedure says of it.

    Attributes:
        values: (topics, systems).
        systems: Their names.
        significant: For every procedure, (pairs,).
    """

    values: Floats
    systems: tuple[str, ...]
    significant: tuple[Bools, ...]

    @classmethod
    def of(cls, values: Floats, systems: tuple[str, ...], procedures: Sequence[Procedure], alpha: float) -> Verdicts:
        """Test every pair."""
        return cls(values, systems, tuple(significant(values, procedures, alpha)))

    @cached_property
    def differences(self) -> Floats:
        """(pairs,) of the means."""
        return mean_differences(self.values)

    @cached_property
    def means(self) -> Floats:
        """(systems,)."""
        return np.asarray(self.values.mean(axis=0).round(12))

    @cached_property
    def ranking(self) -> Ints:
        """(systems,) their places, best first."""
        return ranked(self.means, self.systems)

    def beside(self, gold: Verdicts) -> list[Codes]:
        """For every procedure, (pairs,) the category of each pair, see `categorise`."""
        return [
            categorise(gold.differences, by_gold, self.differences, by_cheap)
            for by_gold, by_cheap in zip(gold.significant, self.significant, strict=True)
        ]

    def alike(self, gold: Verdicts) -> dict[str, float | None]:
        """How near the ranking of systems is to gold's; all None where either ranks none of them above another."""
        found = tau(gold.means, self.means)
        if found is None:
            return dict.fromkeys(("tau", "tau_ap", "rbo", "max_drop"))
        return {
            "tau": found,
            "tau_ap": tau_ap(gold.ranking, self.ranking),
            "rbo": rbo(gold.ranking, self.ranking),
            "max_drop": max_drop(gold.ranking, self.ranking),
        }


def row(codes: Codes, alike: dict[str, float | None]) -> dict[str, Any]:
    """The numbers of one comparison with gold, under the names that reports use."""
    return {**Categories.of(codes).to_dict(), **alike}
