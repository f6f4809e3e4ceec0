"""Estimates of mean scores of runs, from people's judgments of some topics and a model's judgments of all topics.

Source of prediction-powered inference: Angelopoulos et al., Prediction-powered inference, Science 2023; for the tuned
weight, Angelopoulos, Duchi and Zrnic, PPI++, arXiv 2311.01453; in retrieval, Oosterhuis et al., Reliable confidence
intervals for information retrieval evaluation using generative A.I., KDD 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from rerank.adjudication.agreement import judged_topics
from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.evaluation import Scores, evaluate_runs, parse_measures
from rerank.evaluation.comparison import notes_on_judgments
from rerank.evaluation.measures import check_measure_has_query_values
from rerank.evaluation.significance import student_t_interval
from rerank.evaluation.significance.base import Floats
from rerank.io.reports import Grid, Report, TableReport, format_cell, value_with_interval
from rerank.types import Qrels, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class FewJudgmentsReport(Report):
    """Estimated mean scores of runs, or differences from a baseline, by prediction-powered inference."""

    rows_key = "rows"

    people_topics: tuple[str, ...]  # topics judged by people and by the model
    model_topics: tuple[str, ...]  # topics judged only by the model
    left_out: int  # number of topics that the model did not judge
    baseline: str  # name of the baseline; empty if means are estimated instead of differences
    alpha: float  # intervals have confidence level 1 - alpha
    #: One row per measure and run except the baseline: ``measure``, ``run``, ``estimate`` with ``interval``, ``weight``
    #: of the model's judgments, ``people`` with ``people_interval`` (from people's judgments alone) and ``model`` (from
    #: the model's judgments alone).
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "topics_of_people": len(self.people_topics),
            "topics_of_model_only": len(self.model_topics),
            "topics_left_out": self.left_out,
            "baseline": self.baseline or None,
            "confidence": 1 - self.alpha,
            "rows": list(self.rows),
            "notes": list(self.notes),
        }

    def tables(self, digits: int = 4) -> TableReport:
        rows = [
            [
                row["run"],
                row["measure"],
                value_with_interval(row["estimate"], row["interval"], digits),
                value_with_interval(row["people"], row["people_interval"], digits),
                format_cell(row["model"], digits),
                format_cell(row["weight"], 2),
            ]
            for row in self.rows
        ]
        what = f"Differences from {self.baseline}" if self.baseline else "Means"
        legend = [
            f"{what}, {1 - self.alpha:.0%} intervals; {len(self.people_topics)} topics judged by people and "
            f"{len(self.model_topics)} only by the model ({self.left_out} topics omitted)."
        ]
        heads = ["run", "measure", "estimate", "people only", "model only", "weight of the model"]
        return TableReport([Grid(heads, rows, left=2)], legend, self.notes)


def estimate_from_few_judgments(
    runs: Sequence[Run],
    people: Qrels,
    model: Qrels,
    measures: Sequence[str] = ("nDCG@10",),
    *,
    relevant: int = 1,
    baseline: str = "",
    alpha: float = 0.05,
) -> FewJudgmentsReport:
    """Estimate the means of runs, or their differences from a baseline, by prediction-powered inference.

    The topics that people judged must be a random sample of the topics. A run without documents for a topic scores 0.
    The intervals have confidence level 1 - alpha.

    Raises:
        UsageError: A measure does not exist or has no per-query values.
        DataError: Too few topics are judged by both assessors or by the model alone, or the baseline is the only run.
        UnknownNameError: The baseline is not one of the runs.
    """
    names = [str(measure) for measure in parse_measures(measures, relevant=relevant)]
    for name in names:
        check_measure_has_query_values(name)
    systems = [run.name for run in runs]
    if baseline and baseline not in systems:
        raise UnknownNameError("baseline", baseline, systems)
    if baseline and len(systems) < 2:
        raise DataError(f"The baseline {baseline!r} is the only run", expected="at least one other run")
    by_people = set(judged_topics(people))
    both, alone = (
        tuple(topic for topic in judged_topics(model) if (topic in by_people) is judged) for judged in (True, False)
    )
    if len(both) < LEAST_JUDGED_TOPICS or len(alone) < 2:
        raise DataError(
            f"{len(both)} topics are judged in both {people.name} and {model.name}, and {len(alone)} only in "
            f"{model.name}",
            expected=f"at least {LEAST_JUDGED_TOPICS} topics in both and at least 2 only in {model.name}",
            remedy="Let the model judge all topics, and let people judge a random sample of them",
        )
    shared = Qrels({topic: people[topic] for topic in both}, name=people.name)
    people_scores, model_scores = evaluate_runs(shared, runs, names), evaluate_runs(model, runs, names)

    def values(evaluated: Sequence[Scores], topics: Sequence[str], measure: str) -> Floats:
        """Return the (topics, systems) scores, minus those of the baseline if there is one."""
        found = np.array([[scores.by_measure(measure)[topic] for scores in evaluated] for topic in topics])
        return found - found[:, [systems.index(baseline)]] if baseline else found

    rows = []
    for name in names:
        gold, cheap, rest = (
            values(*part, name) for part in ((people_scores, both), (model_scores, both), (model_scores, alone))
        )
        found = estimate_prediction_powered_mean(gold, cheap, rest, alpha=alpha)
        model_means = np.concatenate([cheap, rest]).mean(axis=0)
        rows += [
            {
                "measure": name,
                "run": system,
                "estimate": float(found.estimate[index]),
                "interval": [float(found.estimate[index] + sign * found.half_width[index]) for sign in (-1, 1)],
                "weight": float(found.weight[index]),
                "people": float(gold[:, index].mean()),
                "people_interval": list(student_t_interval(gold[:, index].tolist(), 1 - alpha)),
                "model": float(model_means[index]),
            }
            for index, system in enumerate(systems)
            if system != baseline
        ]
    notes = [note for qrels in (shared, model) for note in notes_on_judgments(qrels, runs, names, relevant)]
    return FewJudgmentsReport(
        people_topics=both,
        model_topics=alone,
        left_out=len({*people, *model}) - len(both) - len(alone),
        baseline=baseline,
        alpha=alpha,
        rows=tuple(rows),
        notes=tuple(dict.fromkeys(notes)),
    )


#: Smallest number of topics judged by people: t intervals have this number minus 2 degrees of freedom.
LEAST_JUDGED_TOPICS = 3


class PredictionPoweredMean(NamedTuple):
    """Estimated mean scores or mean differences of several systems, as arrays of shape (systems,)."""

    estimate: Floats
    half_width: Floats  #: Half of the width of the intervals around the estimates.
    weight: Floats  #: Weight of the model's judgments: 0 ignores them, 1 trusts them fully.


def estimate_prediction_powered_mean(
    people: Floats,
    model: Floats,
    model_only: Floats,
    *,
    weight: float | None = None,
    alpha: float = 0.05,
    interval: Literal["t", "normal"] = "t",
) -> PredictionPoweredMean:
    """Estimate means from n topics with both kinds of judgments and N topics with a model's judgments only.

    With scores y from people's judgments and f from the model's judgments, the estimate is mean_n(y) + w (mean_N(f) -
    mean_n(f)). For a given weight w it is unbiased, whatever the model's errors are, if the n topics are a random
    sample of all topics. Its variance is w^2 var_N(f) / N + var_n(y - w f) / n. This is smallest for the weight
    cov_n(y, f) / ((1 + n / N) var_{n+N}(f)), clipped to the range from 0 to 1. Since it is estimated from the same
    topics, it gives the estimate a bias of order 1 / n if the scores are skewed.

    The published interval is ``normal``. It holds for large n; with few topics it is too narrow, since it treats both
    variances and the weight as known. ``t`` divides the squared residuals by n - 2, as in a regression on f, and uses
    the quantile of the t distribution with n - 2 degrees of freedom.

    ``people`` and ``model`` are (n, systems) scores of the same topics. Without ``weight``, each system gets the weight
    with the smallest variance.
    """
    from scipy.stats import norm, t

    n, more = len(people), len(model_only)
    if n < LEAST_JUDGED_TOPICS or more < 2:
        raise DataError(
            f"{n} topics are judged by people, and {more} topics are judged only by the model",
            expected=f"at least {LEAST_JUDGED_TOPICS} topics judged by people and at least 2 judged only by the model",
        )
    if weight is not None and not 0 <= weight <= 1:
        raise UsageError(f"weight is {weight}", expected="a number from 0 to 1")
    if weight is None:
        covariance = ((people - people.mean(axis=0)) * (model - model.mean(axis=0))).mean(axis=0)
        spread = np.concatenate([model, model_only]).var(axis=0, ddof=1) * (1 + n / more)
        weights = np.divide(covariance, spread, out=np.zeros_like(covariance), where=spread > 0).clip(0, 1)
    else:
        weights = np.full(people.shape[1], float(weight))
    estimate = people.mean(axis=0) + weights * (model_only.mean(axis=0) - model.mean(axis=0))
    lost = 0 if interval == "normal" else 1
    residual = (people - weights * model).var(axis=0, ddof=2 * lost)
    variance = weights**2 * model_only.var(axis=0, ddof=lost) / more + residual / n
    quantile = norm.ppf(1 - alpha / 2) if interval == "normal" else t.ppf(1 - alpha / 2, n - 2)
    return PredictionPoweredMean(estimate, quantile * np.sqrt(variance), weights)
