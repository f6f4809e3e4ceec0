"""Description of what a comparison tested: test, family of hypotheses, correction, level, topics and versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from rerank.evaluation.scores import Scores
from rerank.evaluation.significance import TITLES
from rerank.selector import Selector

#: Python packages whose versions can affect the computed values.
_DISTRIBUTIONS = ("listrank", "numpy", "scipy", "ir-measures")


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
    #: Margin for tests of equivalence to the baseline and of non-inferiority, in units of the measure; None to omit
    #: these tests.
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
        """Describe missing topics, options of the test and versions, for the legend below a table."""
        missing = ", ".join(f"{name} {count}" for name, count in self.missing.items()) or "none"
        options = ", ".join(f"{key} {value}" for key, value in self.options.items() if value is not None)
        versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
        return f"Missing queries: {missing}. {options and f'Options of the test: {options}. '}Versions: {versions}."


def options_of_test(test: object) -> dict[str, Any]:
    """Return all options of a test with their values, including defaults."""
    return {f.name: getattr(test, f.name) for f in fields(test)} if is_dataclass(test) else {}


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute measures and tests."""
    return {"python": platform.python_version(), **{name: version(name) for name in _DISTRIBUTIONS}}


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
