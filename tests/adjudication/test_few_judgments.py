"""Estimates from people's judgments of some topics and a model's judgments of all."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.adjudication.few_judgments import estimate_from_few_judgments, estimate_prediction_powered_mean
from rerank.errors import DataError, UnknownNameError
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
