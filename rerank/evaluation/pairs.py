"""Which of all pairs of systems differ: one test, one correction, one level. Knows no files and prints nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rerank.errors import UsageError
from rerank.evaluation.matrix import Matrix
from rerank.evaluation.significance import CORRECTIONS, correct, open_test, tests
from rerank.evaluation.significance.base import Bools, Floats, PairTest, mean_differences
from rerank.selector import Selector

#: With fewer topics than this a note says so. Source of the number: Buckley and Voorhees, Evaluating evaluation
#: measure stability, SIGIR 2000, who advise against fewer than 25.
FEW_TOPICS = 25
#: Corrections under which the smallest p-value must reach the level over the number of pairs.
_STRICT = ("bonferroni", "holm", "hochberg")


@dataclass(frozen=True, eq=False, kw_only=True)
class Decisions:
    """What a test says of every pair.

    Attributes:
        test: Its selector.
        correction: Name of the correction.
        alpha: The level.
        differences: (pairs,) mean of the first system less mean of the second, in the order of
            ``itertools.combinations``.
        significant: (pairs,) whether they differ.
        notes: What a reader must know before believing them.
    """

    test: str
    correction: str
    alpha: float
    differences: Floats
    significant: Bools
    notes: tuple[str, ...] = ()


def decide(matrix: Matrix, test: str = "t", correction: str = "auto", *, alpha: float = 0.05) -> Decisions:
    """Test every pair of systems.

    Args:
        matrix: The scores.
        test: Selector of a test, such as ``"t"`` or ``"tukey-randomised,permutations=1000"``.
        correction: none, bonferroni, holm, hochberg, bh or by; ``auto`` is holm, or none where the test holds for all
            pairs together.
        alpha: The level.

    Raises:
        UnknownNameError: No such test or correction.
        UsageError: A correction for a test that needs none, or a level outside 0 to 1.
    """
    check_level(alpha)
    tester = open_test(test)
    name = correction_of(test, correction)
    if name == "none":
        significant = tester.significant(matrix.values, alpha)
    else:
        significant = correct(tester.p_values(matrix.values), name) <= alpha
    return Decisions(
        test=test,
        correction=name,
        alpha=alpha,
        differences=mean_differences(matrix.values),
        significant=significant,
        notes=_notes(matrix, tester, name, alpha),
    )


def correction_of(test: str, correction: str) -> str:
    """The correction that is meant, checked against the test; see `decide`."""
    family_wise = tests.get(Selector.parse(test).name).family_wise
    if correction == "auto":
        return "none" if family_wise else "holm"
    if family_wise and correction in CORRECTIONS and correction != "none":
        raise UsageError(
            f"correction {correction!r} for the test {test!r}",
            expected="none: it holds for all pairs together",
            remedy="Leave the correction out",
        )
    correct(np.ones(1), correction)  # an unknown name
    return correction


def check_level(alpha: float) -> None:
    """Refuse a level of significance that is none.

    Raises:
        UsageError: It is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha={alpha}", expected="a number between 0 and 1")


def _notes(matrix: Matrix, test: PairTest, correction: str, alpha: float) -> tuple[str, ...]:
    topics, pairs = len(matrix.topics), len(matrix.systems) * (len(matrix.systems) - 1) // 2
    notes = []
    if topics < FEW_TOPICS:
        notes.append(f"Only {topics} topics: differences must be large to be found, and p-values are rough.")
    least, wanted = test.resolution(topics), alpha / pairs if correction in _STRICT else alpha
    if least > wanted:
        notes.append(
            f"The least p-value that this test can give here is {least:.2g}, and {correction} over {pairs} pairs wants "
            f"{wanted:.2g}: nothing can be significant. Use more topics or permutations, or another test."
        )
    if constant := [system for system, column in zip(matrix.systems, matrix.values.T, strict=True) if np.ptp(column) == 0]:
        notes.append(f"{len(constant)} systems score the same on every topic, such as {constant[0]!r}.")
    if not np.ptp(matrix.values, axis=1).any():
        notes.append("All systems score the same on every topic: this measure tells none of them apart.")
    return tuple(notes)
