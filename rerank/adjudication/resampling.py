"""Intervals and tests for the figures of a study, from random samples of topics, systems and seeds.

Topics are drawn with replacement. Systems are drawn without replacement, half of them at a time: copies of a system
would form pairs without a difference, and the variance over half samples estimates that of a sample of full size
(McCarthy, Pseudo-replication: half samples, Review of the International Statistical Institute, 1969). The judgments of
a walk are not sampled: they result from all systems and topics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from rerank.adjudication.conclusions import RATES, Procedure, SignificanceVerdicts, comparison_row
from rerank.adjudication.pools import Floats, Ints
from rerank.errors import ensure
from rerank.evaluation.significance import correct_p_values

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
