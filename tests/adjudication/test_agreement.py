"""Agreement of two and of several assessors, against statsmodels, the package krippendorff, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import sem, t
from statsmodels.stats.inter_rater import cohens_kappa

from rerank.adjudication.agreement import (
    AssessorPanel,
    compare_assessors,
    count_coincidences,
    judged_topics,
    krippendorff_alpha,
    topics_judged_by_both,
)
from rerank.errors import DataError, UsageError
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


#: Grades of 4 assessors for 12 documents; -1 is missing.
TABLE = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, -1, -1, -1],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, -1, 3],
        [-1, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, -1],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, -1],
    ]
)
#: krippendorff 0.9.0, ``krippendorff.alpha`` of the table.
EXPECTED = {"nominal": 0.743421052631579, "ordinal": 0.8153875037548814, "interval": 0.8491071428571428}


def counts_of(table: np.ndarray, grades: tuple[int, ...]) -> np.ndarray:
    return np.stack([(table == grade).sum(axis=0) for grade in grades], axis=1)


@pytest.mark.parametrize(("level", "expected"), EXPECTED.items())
def test_alpha_is_that_of_the_package_krippendorff(level: str, expected: float) -> None:
    grades = (1, 2, 3, 4, 5)
    found = krippendorff_alpha(count_coincidences(counts_of(TABLE, grades)), grades, level)  # type: ignore[arg-type]
    assert found == pytest.approx(expected, abs=1e-12)


Judgments = dict[str, dict[str, int]]


def made(topics: int = 12, seed: int = 0) -> dict[str, Judgments]:
    """Three assessors: b is like a with noise, c judges half of the documents at random, and some are not judged."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 4, (topics, 10))
    b = np.clip(a + rng.integers(-1, 2, a.shape), 0, 3)
    c = np.where(rng.random(a.shape) < 0.5, rng.integers(0, 4, a.shape), -1)
    return {
        name: {f"q{t}": {f"d{d}": int(grade) for d, grade in enumerate(row)} for t, row in enumerate(table)}
        for name, table in (("a", a), ("b", b), ("c", c))
    }


def test_kappas_are_those_of_two_assessors() -> None:
    judged = made()
    panel = AssessorPanel.from_qrels(judged)
    pair = compare_assessors(judged["a"], judged["c"])
    for weights in ("none", "linear", "quadratic"):
        assert panel.kappas(weights)[0, 2] == pytest.approx(pair.kappa(weights))
    rows = {(row["a"], row["b"]): row for row in panel.to_dict()["pairs"]}
    assert (rows["a", "c"]["documents"], rows["a", "c"]["overlap"]) == (pair.documents, pair.overlap)
    assert rows["a", "b"]["kappa_quadratic"] > rows["a", "c"]["kappa_quadratic"]


def test_the_order_of_assessors_has_no_effect() -> None:
    judged = made()
    one, two = (AssessorPanel.from_qrels({n: judged[n] for n in names}) for names in ("abc", "cab"))
    np.testing.assert_allclose(one.alphas(), two.alphas())


def test_an_interval_contains_its_value_and_narrows_with_topics() -> None:
    widths = []
    for topics in (10, 90):
        found = AssessorPanel.from_qrels(made(topics)).to_dict()
        alpha, pair = found["alpha"]["ordinal"], found["pairs"][0]
        assert alpha["interval"][0] < alpha["value"] < alpha["interval"][1]
        assert pair["kappa_interval"][0] < pair["kappa"] < pair["kappa_interval"][1]
        widths.append(np.diff(found["alpha"]["ordinal"]["interval"]).item())
    assert widths[1] < widths[0] / 2


def test_the_interval_is_the_jackknife_of_tukeys_pseudovalues() -> None:
    judged = made(topics=9)
    parts = [{n: {t: r for t, r in rows.items() if t != out} for n, rows in judged.items()} for out in judged["a"]]
    values = np.array([AssessorPanel.from_qrels(part).kappas()[0, 1] for part in parts])
    whole = AssessorPanel.from_qrels(judged).kappas()[0, 1]
    pseudo = 9 * whole - 8 * values  # Tukey's pseudovalues have the same standard error
    half = t.isf(0.05, 8) * sem(pseudo)
    (row, *_) = AssessorPanel.from_qrels(judged).to_dict(alpha=0.1)["pairs"]
    assert row["kappa_interval"] == pytest.approx([whole - half, min(1, whole + half)])


def test_few_topics_have_no_interval() -> None:
    found = AssessorPanel.from_qrels(made(topics=4)).to_dict()
    assert found["alpha"]["nominal"]["interval"] is None
    assert found["pairs"][0]["kappa_interval"] is None


def test_scales_with_different_lowest_relevant_grades() -> None:
    judged = made()
    binary = {topic: {doc: int(g >= 2) for doc, g in row.items()} for topic, row in judged["a"].items()}
    panel = AssessorPanel.from_qrels({"graded": judged["a"], "binary": binary}, (2, 1))
    assert panel.kappas()[0, 1] == 1
    assert panel.alphas() == pytest.approx([1, 1, 1])


def test_agreement_by_topic() -> None:
    found = AssessorPanel.from_qrels(made()).to_dict()
    alone = AssessorPanel.from_qrels({name: {"q3": rows["q3"]} for name, rows in made().items()}).to_dict()
    row = next(row for row in found["by_topic"] if row["topic"] == "q3")
    assert row["documents"] == alone["documents"]
    assert row["interval"] == pytest.approx(alone["alpha"]["interval"]["value"])


@pytest.mark.parametrize(
    ("judged", "relevant", "error"),
    [
        ({"a": {"q": {"d": 1}}}, None, UsageError),
        ({"a": {"q": {"d": 1}}, "b": {"q": {"d": -1}}}, None, DataError),
        ({"a": {"q": {"d": 1}}, "b": {"q": {"d": 1}}}, (1,), UsageError),
    ],
)
def test_wrong_input(judged: dict[str, Judgments], relevant: tuple[int, ...] | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        AssessorPanel.from_qrels(judged, relevant)


def test_one_grade_only_has_no_agreement_beyond_chance() -> None:
    same = {"q": {"d": 1, "e": 1}}
    assert AssessorPanel.from_qrels({"a": same, "b": same}).to_dict()["alpha"]["nominal"]["value"] is None
