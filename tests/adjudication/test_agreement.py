"""Agreement of two judges, against statsmodels and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from rerank.adjudication.agreement import compare_assessors, judged_topics, topics_judged_by_both
from rerank.types import EXCLUDED, Qrels

A = {"q1": {"a": 0, "b": 1, "c": 2, "d": 3, "only": 1}, "q2": {"e": 2, "f": 2}, "q3": {"x": 1}}
B = {"q1": {"a": 0, "b": 2, "c": 2, "d": 1, "other": 0}, "q2": {"e": 2, "f": 0}}


def test_by_hand() -> None:
    found = compare_assessors(A, B)
    assert (found.documents, found.grades) == (6, (0, 1, 2, 3))
    assert found.overlap == 3 / 6
    two = found.binary(2)
    assert two.table.tolist() == [[1, 1], [2, 2]]
    assert topics_judged_by_both(Qrels(A), Qrels(B)) == ("q1", "q2")


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_statsmodels(seed: int) -> None:
    one, two = np.random.default_rng(seed).integers(0, 4, (2, 60))
    two[:25] = one[:25]
    found = compare_assessors(*({"q": {str(n): int(grade) for n, grade in enumerate(column)}} for column in (one, two)))
    assert found.kappa() == pytest.approx(cohens_kappa(found.table, return_results=False))
    assert found.kappa("linear") == pytest.approx(cohens_kappa(found.table, wt="linear", return_results=False))
    assert found.kappa("quadratic") == pytest.approx(cohens_kappa(found.table, wt="quadratic", return_results=False))


def test_nothing_in_common_and_nothing_to_disagree_on() -> None:
    assert compare_assessors(A, {}).kappa() is None
    assert compare_assessors(A, {}).overlap is None
    assert compare_assessors({"q": {"a": 1}}, {"q": {"a": 1}}).kappa() is None
    assert compare_assessors(A, {}).to_dict(1)["binary_kappa"] is None


def test_documents_without_a_judgment_do_not_count() -> None:
    found = compare_assessors({"q": {"a": 1, "b": -1, "c": 0, "d": EXCLUDED}}, {"q": {"a": 1, "b": 1, "c": -1, "d": 0}})
    assert found.documents == 1


def test_a_pool_without_a_judgment_is_no_judged_topic() -> None:
    pooled = Qrels({"q1": {"a": -1, "b": EXCLUDED}, "q2": {"a": -1, "b": 0}, "q3": {}})
    assert judged_topics(pooled) == ("q2",)
    assert topics_judged_by_both(Qrels(A), pooled) == ("q2",)
