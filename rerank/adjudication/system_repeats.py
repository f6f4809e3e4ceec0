"""Repeats of stochastic systems: several runs of one system that count as one system in a study."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rerank.adjudication.pools import Bools, Floats
from rerank.adjudication.run_groups import group_runs_by_name
from rerank.evaluation import ScoreMatrix


@dataclass(frozen=True, eq=False, kw_only=True)
class SystemRepeats:
    """Assignment of runs to systems. A system's score on a topic is the mean over its runs.

    Attributes:
        names: Names of the runs.
        systems: Names of the systems.
        runs: For every system, the indices of its runs.
    """

    names: tuple[str, ...]
    systems: tuple[str, ...]
    runs: tuple[tuple[int, ...], ...]

    @classmethod
    def match(cls, names: Sequence[str], patterns: Sequence[tuple[str, str]]) -> SystemRepeats:
        """Assign runs to systems by their names. A run that no pattern matches is a system of its own.

        Args:
            names: Names of the runs.
            patterns: Pairs of the name of a system and a shell pattern, such as ``("gpt", "gpt-3.5*")``.
        """
        members = group_runs_by_name(names, patterns, fewest=2)
        return cls(names=tuple(names), systems=tuple(members), runs=tuple(map(tuple, members.values())))

    def contributed(self, pooled: Container[str]) -> Bools:
        """Return an array of shape (systems,): whether any run of the system is named in ``pooled``."""
        return np.array([any(self.names[run] in pooled for run in runs) for runs in self.runs])

    def average(self, values: Floats) -> Floats:
        """Average (..., runs) scores over the runs of each system and return (..., systems) scores."""
        if all(len(runs) == 1 for runs in self.runs):
            return values
        return np.stack([values[..., list(runs)].mean(axis=-1) for runs in self.runs], axis=-1)

    def average_matrix(self, matrix: ScoreMatrix) -> ScoreMatrix:
        """Average the scores of a matrix whose systems are the runs."""
        return replace(matrix, systems=self.systems, values=self.average(matrix.values))

    def describe(self, matrices: Mapping[str, ScoreMatrix]) -> list[dict[str, Any]]:
        """Return the variation between the runs of each repeated system.

        Args:
            matrices: Scores of the runs, for each measure.

        Returns:
            One row per repeated system and measure: the mean; ``sd_of_means``, the standard deviation of the runs'
            means; and ``sd_per_topic``, the root of the mean over topics of the variance between runs.
        """
        rows = []
        for system, runs in zip(self.systems, self.runs, strict=True):
            for measure, matrix in matrices.items() if len(runs) > 1 else ():
                values = matrix.values[:, list(runs)]  # (topics, repeats)
                rows.append(
                    {
                        "system": system,
                        "runs": len(runs),
                        "measure": measure,
                        "mean": float(values.mean()),
                        "sd_of_means": float(values.mean(axis=0).std(ddof=1)),
                        "sd_per_topic": float(values.var(axis=1, ddof=1).mean() ** 0.5),
                    }
                )
        return rows
