"""Which of all pairs of systems differ: one test, one correction, one level. Knows no files and prints nothing."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields, is_dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rerank.errors import UsageError
from rerank.evaluation.matrix import Matrix
from rerank.evaluation.significance import CORRECTIONS, correct, least_wanted, open_test, tests
from rerank.evaluation.significance.base import Bools, Floats, PairTest, SupportsDecision, mean_differences
from rerank.selector import Selector

#: With fewer topics than this a note says so. Source of the number: Buckley and Voorhees, Evaluating evaluation
#: measure stability, SIGIR 2000, who advise against fewer than 25.
FEW_TOPICS = 25


@dataclass(frozen=True, eq=False, kw_only=True)
class Decisions:
    """What a test says of every pair.

    Attributes:
        matrix: The scores that were tested.
        test: Its selector.
        correction: Name of the correction.
        alpha: The level.
        differences: (pairs,) mean of the first system less mean of the second, in the order of
            ``itertools.combinations``.
        significant: (pairs,) whether they differ.
        raw: (pairs,) p-values before the correction, or None where the decision needed none.
        notes: What a reader must know before believing them.
    """

    matrix: Matrix
    test: str
    correction: str
    alpha: float
    differences: Floats
    significant: Bools
    raw: Floats | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A table for people."""
        from rerank.evaluation.tables import decisions_table

        return decisions_table(self)

    @property
    def title(self) -> str:
        """What the test is called."""
        return str(tests.get(Selector.parse(self.test).name).title)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the test with their values, those by default too."""
        tester = open_test(self.test)
        return {field.name: getattr(tester, field.name) for field in fields(tester)} if is_dataclass(tester) else {}

    @property
    def family_wise(self) -> bool:
        """Whether the test holds for all pairs together, so that it needs no correction."""
        return bool(tests.get(Selector.parse(self.test).name).family_wise)

    def p_values(self) -> tuple[Floats, Floats]:
        """(pairs,) p-values before and after the correction; computed here where the decision needed none."""
        raw = open_test(self.test).p_values(self.matrix.values) if self.raw is None else self.raw
        return raw, correct(raw, self.correction)

    def beats(self) -> list[tuple[int, ...]]:
        """For every system, the places of those whose mean is significantly below its own."""
        below: list[list[int]] = [[] for _ in self.matrix.systems]
        couples = combinations(range(len(below)), 2)
        for (a, b), found, difference in zip(couples, self.significant, self.differences, strict=True):
            if found:
                better, worse = (a, b) if difference > 0 else (b, a)
                below[better].append(worse)
        return [tuple(sorted(places)) for places in below]

    def to_dict(self) -> dict[str, Any]:
        """What ``rerank compare --matrix FILE --format json`` prints: counts, and every system in the order given."""
        means, beats = self.matrix.values.mean(axis=0), self.beats()
        beaten = np.bincount([place for places in beats for place in places], minlength=len(means))
        return {
            "topics": len(self.matrix.topics),
            "systems": len(self.matrix.systems),
            "pairs": len(self.significant),
            "significant": int(self.significant.sum()),
            "test": Selector.parse(self.test).name,
            "options": self.options,
            "correction": self.correction,
            "alpha": self.alpha,
            "means": [
                {"system": name, "mean": float(mean), "beats": len(places), "beaten_by": int(times)}
                for name, mean, places, times in zip(self.matrix.systems, means, beats, beaten, strict=True)
            ],
            "notes": list(self.notes),
        }


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
    raw = None
    if name == "none" and isinstance(tester, SupportsDecision):
        significant = tester.significant(matrix.values, alpha)
    else:
        raw = tester.p_values(matrix.values)
        significant = correct(raw, name) <= alpha
    return Decisions(
        matrix=matrix,
        test=test,
        correction=name,
        alpha=alpha,
        differences=mean_differences(matrix.values),
        significant=significant,
        raw=raw,
        notes=(*reservations(matrix, tester, name, alpha), *_constant(matrix)),
    )


def correction_of(test: str, correction: str) -> str:
    """The correction that is meant, checked against the test; see `decide`."""
    family_wise = tests.get(Selector.parse(test).name).family_wise
    if correction == "auto":
        return "none" if family_wise else "holm"
    correct(np.ones(1), correction)  # an unknown name
    if family_wise and correction in CORRECTIONS and correction != "none":
        raise UsageError(
            f"correction {correction!r} for the test {test!r}",
            expected="none: it holds for all pairs together",
            remedy="Leave the correction out",
        )
    return correction


def selector_of(test: str, *, permutations: int | None = None, seed: int | None = None) -> str:
    """A test's selector with the options of chance added; None leaves the test's own.

    Raises:
        UsageError: The test leaves nothing to chance.
        UnknownNameError: No such test.
    """
    given = {key: value for key, value in (("permutations", permutations), ("seed", seed)) if value is not None}
    name = Selector.parse(test).name
    for key in given:
        if key not in inspect.signature(tests.get(name)).parameters:
            able = [n.replace("_", "-") for n in tests.names() if key in inspect.signature(tests.get(n)).parameters]
            raise UsageError(
                f"{key}={given[key]} for the test {name!r}, which leaves nothing to chance",
                expected=f"one of: {', '.join(able)}",
                remedy=f"Leave {key} out, or take another test",
            )
    return ",".join([test, *(f"{key}={value}" for key, value in given.items())])


def check_level(alpha: float) -> None:
    """Refuse a level of significance that is none.

    Raises:
        UsageError: It is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha={alpha}", expected="a number between 0 and 1")


def reservations(
    matrix: Matrix, test: PairTest, correction: str, alpha: float, *, noun: str = "topics"
) -> tuple[str, ...]:
    """What a reader must know before believing a test: few topics, too coarse p-values, nothing to tell apart.

    Args:
        matrix: The scores.
        test: The test.
        correction: Name of the correction.
        alpha: The level.
        noun: What the rows are called.
    """
    topics, pairs = len(matrix.topics), len(matrix.systems) * (len(matrix.systems) - 1) // 2
    notes = []
    if topics < FEW_TOPICS:
        notes.append(f"Only {topics} {noun}: differences must be large to be found, and p-values are rough.")
    least, wanted = test.resolution(topics), least_wanted(correction, alpha, pairs)
    if least > wanted:
        needs = f"{correction} over {pairs} pairs" if wanted < alpha else "the level"
        notes.append(
            f"The least p-value that this test can give here is {least:.2g}, and {needs} wants {wanted:.2g}: nothing "
            f"can be significant. Use more {noun} or permutations, or another test."
        )
    if not np.ptp(matrix.values, axis=1).any():
        notes.append(f"All systems score the same on every one of the {noun}: this measure tells none of them apart.")
    return tuple(notes)


def _constant(matrix: Matrix) -> list[str]:
    names = [name for name, column in zip(matrix.systems, matrix.values.T, strict=True) if np.ptp(column) == 0]
    if not names:
        return []
    many = f"{len(names)} systems score" if len(names) > 1 else "1 system scores"
    return [f"{many} the same on every topic, such as {names[0]!r}: look at where the scores come from."]
