"""Estimates from people's judgments of some topics and a model's of all, against ppi-python and in a simulation."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.adjudication.few_judgments import estimate_from_few_judgments, estimate_prediction_powered_mean
from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.evaluation import evaluate_runs
from rerank.evaluation.significance import student_t_interval
from rerank.types import Document, Qrels, Query, Ranking, Run


def made(topics: int = 20) -> tuple[list[Run], Qrels, Qrels]:
    """Two runs, people's judgments, and a model's, which differ in some documents."""
    rng = np.random.default_rng(0)
    worth = rng.normal(size=(topics, 30))
    runs = []
    for system, noise in (("good", 0.5), ("bad", 2.0)):
        best = np.argsort(-(worth + rng.normal(0, noise, worth.shape)), axis=1)[:, :10]
        lists = [
            Ranking.from_order(Query(id=f"q{t}"), [Document(id=f"d{d}") for d in row]) for t, row in enumerate(best)
        ]
        runs.append(Run(lists, name=system))
    people, model = (
        Qrels({f"q{t}": {f"d{d}": int(w > 0.8) for d, w in enumerate(row)} for t, row in enumerate(values)})
        for values in (worth, worth + rng.normal(0, 0.4, worth.shape))
    )
    return runs, people, model


def test_estimates_are_those_of_the_scores() -> None:
    runs, people, model = made()
    few = Qrels({topic: people[topic] for topic in ("q7", "q2", "q11", "q3", "q19", "elsewhere") if topic in people})
    report = estimate_from_few_judgments(runs, few, model, ["P@5"])
    assert (len(report.people_topics), len(report.model_topics), report.left_out) == (5, 15, 0)
    columns = []
    for qrels, topics in ((few, report.people_topics), (model, report.people_topics), (model, report.model_topics)):
        scores = evaluate_runs(qrels, runs, ["P@5"])
        columns.append(np.array([[entry.by_measure("P@5")[topic] for entry in scores] for topic in topics]))
    expected = estimate_prediction_powered_mean(*columns)
    for index, row in enumerate(report.rows):
        assert row["estimate"] == expected.estimate[index]
        assert row["interval"][1] - row["estimate"] == pytest.approx(expected.half_width[index])
        assert row["people"] == columns[0][:, index].mean()
        assert row["people_interval"] == list(student_t_interval(columns[0][:, index].tolist(), 0.95))


def test_a_difference_is_estimated_from_differences() -> None:
    runs, people, model = made()
    few = Qrels({topic: people[topic] for topic in list(people)[:8]})
    (row,) = estimate_from_few_judgments(runs, few, model, baseline="bad").rows
    assert row["run"] == "good"
    assert row["interval"][0] < row["estimate"] < row["interval"][1]
    (single,) = estimate_from_few_judgments(runs[:1], few, model).rows
    assert single["run"] == "good"


def test_topics_that_are_only_pooled_are_not_judged_by_people() -> None:
    runs, people, model = made()
    few = {topic: people[topic] for topic in list(people)[:8]}
    waiting = {topic: dict.fromkeys(judged, -1) for topic, judged in people.items() if topic not in few}
    report = estimate_from_few_judgments(runs, Qrels({**few, **waiting}), model)
    assert report == estimate_from_few_judgments(runs, Qrels(few), model)


def test_a_threshold_above_the_grades_of_the_model_is_noted() -> None:
    runs, people, model = made()
    few = Qrels({t: {d: 2 * g for d, g in people[t].items()} for t in list(people)[:8]}, name="people")
    report = estimate_from_few_judgments(runs, few, Qrels(dict(model), name="model"), ["P@5"], relevant=2)
    assert [row["weight"] for row in report.rows] == [0, 0]
    assert any("model" in note for note in report.notes)


def test_wrong_input() -> None:
    runs, people, model = made()
    with pytest.raises(DataError):
        estimate_from_few_judgments(runs, people, model)
    with pytest.raises(DataError):
        estimate_from_few_judgments(runs, Qrels({"q1": people["q1"]}), model)
    with pytest.raises(UnknownNameError):
        estimate_from_few_judgments(runs, Qrels({t: people[t] for t in list(people)[:8]}), model, baseline="other")
    with pytest.raises(DataError):
        estimate_from_few_judgments(runs[:1], Qrels({t: people[t] for t in list(people)[:8]}), model, baseline="good")


PEOPLE = [0.908, -0.011, 0.584, 0.386, 0.409, 0.457, 0.096, 0.454, 0.327, 1.165, 0.545, 0.429]
MODEL = [0.698, 0.161, 0.381, 0.415, 0.601, 0.481, 0.54, 0.487, 0.468, 1.191, 0.682, 0.414]
MODEL_ONLY = [
    *(0.504, 0.685, 1.034, 0.483, 0.489, 0.801, 0.328, 0.477, 0.771, 0.695, 0.573, 0.718, -0.157, 0.805, 0.31),
    *(0.133, 0.619, 0.725, 0.439, 0.281, 0.557, 0.537, 0.901, 0.737, 0.598, 0.828, 0.499, 0.319, 0.696, 0.696),
]
#: weight (None: tuned) -> estimate and interval of ``ppi_mean_pointestimate`` and ``ppi_mean_ci`` of ppi-python 0.2.3.
EXPECTED = {
    None: (0.49811609, 0.37617431, 0.62005787),
    1.0: (0.5052, 0.37691882, 0.63348118),
    0.5: (0.49214167, 0.36384345, 0.62043988),
    0.0: (0.47908333, 0.30800942, 0.65015725),
}


@pytest.mark.parametrize(("weight", "expected"), EXPECTED.items())
def test_normal_intervals_are_those_of_ppi_python(weight: float | None, expected: tuple[float, float, float]) -> None:
    people, model, more = (np.array(values)[:, None] for values in (PEOPLE, MODEL, MODEL_ONLY))
    found = estimate_prediction_powered_mean(people, model, more, weight=weight, interval="normal")
    estimate, half = found.estimate.item(), found.half_width.item()
    assert (estimate, estimate - half, estimate + half) == pytest.approx(expected, abs=1e-8)
    if weight is None:
        assert found.weight.item() == pytest.approx(0.7287591297196675)


def test_a_useless_model_has_a_small_weight_and_a_perfect_one_a_large_weight() -> None:
    rng = np.random.default_rng(0)
    people, more = rng.normal(size=(40, 1)), rng.normal(size=(4000, 1))
    perfect = estimate_prediction_powered_mean(people, people, more)
    assert perfect.weight.item() > 0.5
    assert estimate_prediction_powered_mean(people, -people, more).weight.item() == 0
    constant = estimate_prediction_powered_mean(people, np.ones((40, 1)), np.ones((4000, 1)))
    assert constant.weight.item() == 0
    assert constant.estimate.item() == pytest.approx(people.mean())


def test_t_intervals_cover_and_normal_intervals_of_few_topics_do_not() -> None:
    rng = np.random.default_rng(1)
    people = rng.normal(size=(8, 4000))
    model, more = people + rng.normal(size=people.shape), rng.normal(0, 2**0.5, (30, 4000))
    covered = {}
    for interval in ("t", "normal"):
        found = estimate_prediction_powered_mean(people, model, more, interval=interval)
        covered[interval] = float((np.abs(found.estimate) <= found.half_width).mean())
    assert 0.94 < covered["t"] < 0.98
    assert covered["normal"] < 0.9


def test_wrong_numbers() -> None:
    two, three = np.zeros((2, 1)), np.zeros((3, 1))
    with pytest.raises(DataError):
        estimate_prediction_powered_mean(two, two, three)
    with pytest.raises(DataError):
        estimate_prediction_powered_mean(three, three, three[:1])
    with pytest.raises(UsageError):
        estimate_prediction_powered_mean(three, three, three, weight=2)
