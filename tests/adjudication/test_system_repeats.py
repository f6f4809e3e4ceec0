"""Runs that are repeats of one system."""

from __future__ import annotations

import numpy as np
import pytest

from rerank.adjudication.pool_measures import SystemRepeats
from rerank.adjudication.studies import StudyDesign, run_study
from rerank.errors import UsageError
from rerank.evaluation import ScoreMatrix
from rerank.types import Run
from tests.adjudication.test_studies import BUDGETS, made
from tests.raising import raises


def test_means_per_topic_and_variance_between_repeats() -> None:
    repeats = SystemRepeats.match(["gpt-1", "bm25", "gpt-2"], [("gpt", "gpt-*")])
    assert repeats.systems == ("gpt", "bm25")
    values = np.array([[0.1, 0.5, 0.3], [0.6, 0.5, 0.6]])
    assert repeats.average(values) == pytest.approx(np.array([[0.2, 0.5], [0.6, 0.5]]))
    matrix = ScoreMatrix(measure="AP", topics=("1", "2"), systems=("gpt-1", "bm25", "gpt-2"), values=values)
    (row,) = repeats.describe({"AP": matrix})
    assert (row["system"], row["runs"], row["measure"]) == ("gpt", 2, "AP")
    assert row["mean"] == pytest.approx(0.4)
    assert row["sd_of_means"] == pytest.approx(np.std([0.35, 0.45], ddof=1))
    assert row["sd_per_topic"] == pytest.approx((0.02 / 2) ** 0.5)  # variances .02 and 0


def test_repeats_are_one_system_of_a_study() -> None:
    runs, qrels = made()
    again = [*runs, Run(runs[0].values(), name="<s0> again")]
    design = StudyDesign(methods=("docid",), budgets=BUDGETS, relevant=2, repeats=(("first", "<s0>*"),))
    found = run_study(again, qrels, design)
    assert found.systems == ("first", "<s1>", "<s2>", "<s3>", "<s4>", "<s5>")
    plain = run_study(runs, qrels, StudyDesign(methods=("docid",), budgets=BUDGETS, relevant=2))
    assert found.rows() == plain.rows()
    (row,) = found.to_dict()["repeats"]
    assert (row["system"], row["runs"], row["sd_of_means"], row["sd_per_topic"]) == ("first", 2, 0, 0)


def test_patterns_that_do_not_fit() -> None:
    with raises(UsageError, "1 runs", "a"):
        SystemRepeats.match(["a1", "b1"], [("a", "a*")])
    with raises(UsageError, "'a1'"):
        SystemRepeats.match(["a1", "a2"], [("a", "a*"), ("b", "*1")])
    with raises(UsageError, "'b'"):
        SystemRepeats.match(["a1", "a2", "b"], [("b", "a*")])
