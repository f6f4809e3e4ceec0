"""Comparison of two sets of judgments for the same topics: their agreement, and the conclusions drawn from each.

Use it to compare the judgments of two people, of a language model and people, or incomplete and complete judgments. The
advantage of a group of systems is how much higher other judgments rank the group than gold judgments do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from rerank.adjudication.agreement import Agreement, compare_assessors, topics_judged_by_both
from rerank.adjudication.conclusions import (
    Codes,
    Procedure,
    SignificanceVerdicts,
    StudyResamples,
    comparison_row,
    figure_intervals,
)
from rerank.adjudication.pool_measures import score_matrices
from rerank.adjudication.pools import Bools, Floats
from rerank.adjudication.studies import notes_on_tests
from rerank.errors import DataError, UsageError
from rerank.evaluation import parse_measures
from rerank.evaluation.comparison import notes_on_judgments
from rerank.types import Qrels, Run


@dataclass(frozen=True, eq=False, kw_only=True)
class QrelsComparison:
    """Results of comparing a set of judgments with gold judgments: agreement, and decisions about systems."""

    #: Topics judged in both sets. Only these topics are evaluated.
    topics: tuple[str, ...]
    left_out: int  # number of topics that are not judged in both sets
    systems: tuple[str, ...]
    procedures: tuple[Procedure, ...]  # tests with their corrections
    gold: Mapping[str, SignificanceVerdicts]  # significance decisions with the gold judgments, for each measure
    other: Mapping[str, SignificanceVerdicts]  # significance decisions with the other judgments, for each measure
    agreement: Agreement  # agreement on the documents in both sets of judgments
    relevant: int  # lowest grade that counts as relevant
    alpha: float = 0.05
    notes: tuple[str, ...] = ()

    def codes(self) -> dict[tuple[str, Procedure], Codes]:
        """Return (pairs,) category codes for each measure and procedure."""
        return {
            (measure, procedure): codes
            for measure, gold in self.gold.items()
            for procedure, codes in zip(self.procedures, self.other[measure].categorise_against(gold), strict=True)
        }

    def to_dict(self, *, resamples: int = 0, seed: int = 0, groups: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
        """Return the JSON object of ``rerank qrels compare --format json``.

        ``resamples`` is the number of samples of topics and systems for intervals, as in a study; 0 for none.
        ``groups`` are pairs of the name of a group of systems and a shell pattern for their names; the advantage that
        the other judgments give each group is computed, which requires samples.

        Raises:
            UsageError: ``resamples`` is 1, a pattern matches no run, or fewer than three runs are outside a group.
        """
        results: list[dict[str, Any]] = []
        for (measure, procedure), codes in self.codes().items():
            about = {"measure": measure, "test": procedure.test, "correction": procedure.correction}
            results.append({**about, **comparison_row(codes, self.other[measure].compare_ranking(self.gold[measure]))})
        if resamples:
            samples = StudyResamples.draw(self.gold, self.procedures, resamples=resamples, seed=seed, alpha=self.alpha)
            # rows and arrays have the same order: measures, and procedures within each measure
            figures = [row for name, own in self.other.items() for row in samples.evaluate(name, own, range(resamples))]
            for row, values in zip(results, figures, strict=True):
                row["interval"] = figure_intervals(row, values, self.alpha)
        content = {
            "topics": len(self.topics),
            "topics_left_out": self.left_out,
            "systems": len(self.systems),
            "pairs": len(next(iter(self.gold.values())).differences),
            "relevant": self.relevant,
            "agreement": self.agreement.to_dict(self.relevant),
            "results": results,
            "notes": list(self.notes),
        }
        if groups:
            content["groups"] = [
                self._advantage(name, find_group(self.systems, name, pattern), measure, resamples, seed)
                for name, pattern in groups
                for measure in self.gold
            ]
        return content

    def _advantage(self, name: str, group: Bools, measure: str, resamples: int, seed: int) -> dict[str, Any]:
        gold, other = self.gold[measure], self.other[measure]
        scores = gold.values, other.values
        low, high = resample_advantage(*scores, group, resamples=resamples, seed=seed, alpha=self.alpha)
        return {
            "group": name,
            "systems": int(group.sum()),
            "measure": measure,
            **compute_advantage(gold.means, other.means, group)._asdict(),
            "ranks_interval": [low.ranks, high.ranks],
            "score_interval": [low.score, high.score],
        }


def compare_with_gold_qrels(
    runs: Sequence[Run],
    gold: Qrels,
    other: Qrels,
    measures: Sequence[str] = ("nDCG@10",),
    *,
    procedures: Sequence[Procedure] = (Procedure("t", "bh"),),
    relevant: int = 1,
    alpha: float = 0.05,
) -> QrelsComparison:
    """Compare the conclusions drawn from a set of judgments with the conclusions drawn from gold judgments.

    Raises:
        DataError: Fewer than two topics are in both sets of judgments, or there are fewer than two runs.
        UnknownNameError: A measure or test does not exist.
    """
    topics = topics_judged_by_both(gold, other)
    if len(topics) < 2:
        found = f"{len(topics)} topics are judged by both {gold.name} and {other.name}"
        raise DataError(found, expected="at least 2 topics")
    names = [str(measure) for measure in parse_measures(measures, relevant=relevant)]
    shared_qrels = [Qrels({topic: qrels[topic] for topic in topics}, name=qrels.name) for qrels in (gold, other)]
    matrices = [score_matrices(qrels, runs, names) for qrels in shared_qrels]
    gold_verdicts, other_verdicts = (
        {name: SignificanceVerdicts.from_scores(m.values, m.systems, procedures, alpha) for name, m in row.items()}
        for row in matrices
    )
    notes = list(notes_on_tests((matrix for row in matrices for matrix in row.values()), procedures, alpha))
    notes += [note for qrels in shared_qrels for note in notes_on_judgments(qrels, runs, names, relevant)]
    return QrelsComparison(
        topics=topics,
        left_out=len({*gold, *other}) - len(topics),
        systems=tuple(run.name for run in runs),
        procedures=tuple(procedures),
        gold=gold_verdicts,
        other=other_verdicts,
        agreement=compare_assessors(gold, other),
        relevant=relevant,
        alpha=alpha,
        notes=tuple(dict.fromkeys(notes)),
    )


class GroupAdvantage(NamedTuple):
    """Advantage of a group of systems under judgments other than the gold judgments."""

    #: Mean number of ranks that the group's systems rise. It is 0 if the mean rank of the group is unchanged.
    ranks: float
    #: Mean score of the group's systems with the other judgments, minus the mean score expected from their scores with
    #: gold judgments. The expected score is read off the least-squares line through the systems outside the group.
    score: float


def compute_advantage(gold: Floats, other: Floats, group: Bools) -> GroupAdvantage:
    """Compute the advantage of a group of systems, from all (systems,) mean scores with gold and with other judgments.

    More lenient judgments raise all scores, but the scores of good systems less than others. The line through the
    systems outside the group accounts for this effect as far as the effect is linear.
    """
    from scipy.stats import rankdata

    outside = ~group
    rise = rankdata(other) - rankdata(gold)  # ascending: the best system has the largest rank
    centred = gold[outside] - gold[outside].mean()
    spread = float(centred @ centred)
    slope = float(centred @ other[outside]) / spread if spread else 0.0
    expected = other[outside].mean() + slope * (gold[group] - gold[outside].mean())
    return GroupAdvantage(float(rise[group].mean()), float((other[group] - expected).mean()))


def resample_advantage(
    gold: Floats, other: Floats, group: Bools, *, resamples: int, seed: int, alpha: float
) -> tuple[GroupAdvantage, GroupAdvantage]:
    """Return the ends of the 1 - alpha interval by the bootstrap over topics, from (topics, systems) scores."""
    topics = len(gold)
    drawn = np.random.default_rng(seed).multinomial(topics, np.full(topics, 1 / topics), size=resamples) / topics
    samples = [compute_advantage(a, b, group) for a, b in zip(drawn @ gold, drawn @ other, strict=True)]
    low, high = np.quantile(np.array(samples), [alpha / 2, 1 - alpha / 2], axis=0).tolist()
    return GroupAdvantage(*low), GroupAdvantage(*high)


def find_group(systems: Sequence[str], name: str, pattern: str) -> Bools:
    """Return (systems,) whether the name of each system matches a shell pattern."""
    group = np.array([fnmatchcase(system, pattern) for system in systems])
    if not group.any() or (~group).sum() < 3:
        raise UsageError(
            f"The pattern {pattern!r} of {name} matches {group.sum()} of {len(systems)} runs",
            expected="at least one matching run, and at least three other runs",
            remedy=f"Correct the pattern; the names of the runs (at most 20 shown): {', '.join(systems[:20])}",
        )
    return group
