"""Calibrations fitted to synthetic runs."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.calibration import (
    Calibration,
    CalibrationResult,
    RankedCollection,
    fit_calibration,
    is_absolute_score_to_calibrate,
)
from rerank.calibration.fitting import predict_held_out, usable_fit_lists
from rerank.calibration.judged_lists import cut_lists
from rerank.calibration.models import Platt, sigmoid
from rerank.errors import DataError
from rerank.judges import judges, open_judge
from rerank.prompts import load_prompt
from rerank.types import Qrels, Run
from tests.calibration.synthetic import make_collection, true_probability


def fit(*collections: RankedCollection, **options: Any) -> CalibrationResult:
    return fit_calibration(collections, **{"ranker": {"model": "m"}, "first_stage": "bm25", **options})


@pytest.fixture(scope="module")
def synthetic() -> RankedCollection:
    return make_collection()


@pytest.fixture(scope="module")
def small() -> RankedCollection:
    return make_collection(queries=10)


@pytest.fixture(scope="module")
def result(synthetic: RankedCollection) -> CalibrationResult:
    return fit(synthetic, tests=[make_collection(queries=20, seed=9, name="other")])


def mean_error(calibration: Calibration, collection: RankedCollection) -> float:
    errors = []
    for query, ranking in collection.run.items():
        stage = dict(zip(collection.first_stage[query].doc_ids, collection.first_stage[query].scores, strict=True))
        judge = [collection.judge[query][doc] for doc in ranking.doc_ids]
        first = [stage[doc] for doc in ranking.doc_ids]
        found = calibration.apply(judge, first, first_stage_name="bm25").relevance
        assert list(found) == sorted(found, reverse=True)
        errors += [abs(p - true_probability(j or 0, f)) for p, j, f in zip(found, judge, first, strict=True)]
    return statistics.mean(errors)


def test_known_probabilities_are_recovered(result: CalibrationResult) -> None:
    new = make_collection(queries=30, seed=5)
    assert mean_error(result.calibration, new) < 0.05


def test_the_test_fails_without_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are no log-odds: the identity in place of regression and calibrator is far from the truth."""
    from rerank.calibration.models import DocumentModel

    new = make_collection(queries=30, seed=5)
    fitted = fit(make_collection(queries=20)).calibration
    monkeypatch.setattr(DocumentModel, "probabilities", lambda self, columns: [sigmoid(score) for score in columns[0]])
    assert mean_error(fitted, new) > 0.1


def test_the_calibrator_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def jump(judge: float, first_stage: float) -> float:
        return 0.05 if judge < 0.8 else 0.5

    def error_of_fit() -> float:
        train = make_collection(queries=80, seed=1, kind="log attention", truth=jump)
        calibration = fit(replace(train, has_first_stage_scores=False)).calibration
        grid = [statistics.NormalDist().inv_cdf((19.5 - n) / 20) for n in range(20)]  # a list like those of the fit
        found = calibration.apply(grid, None, first_stage_name=None).relevance
        return statistics.mean(abs(p - jump(score, 0)) for p, score in zip(found, grid, strict=True))

    with_calibrator = error_of_fit()
    identity = {"platt": lambda *rows: Platt(slope=1.0, intercept=0.0)}
    monkeypatch.setattr("rerank.calibration.fitting.FITTERS", identity)
    assert with_calibrator < 0.04
    assert error_of_fit() > 0.06


def test_a_judge_whose_scores_differ_from_query_to_query_is_worth_as_much_as_its_order(
    synthetic: RankedCollection,
) -> None:
    """Log-likelihoods depend on the length of the query, so that only their order within a list says something."""
    draw = random.Random(3)
    shifts = {query: draw.gauss(0, 50) for query in synthetic.judge}
    scores = {
        query: {doc: 5 * (s or 0.0) + shifts[query] for doc, s in row.items()} for query, row in synthetic.judge.items()
    }
    shifted = replace(synthetic, judge=scores, kind="log-likelihood")
    auc = {row["fit"]: row["auc"] for row in fit(shifted).report["rows"] if row["depth"] == 20}
    assert auc["judge"] > auc["rank"] - 0.02
    assert auc["judge+first-stage"] > auc["rank+first-stage"] - 0.02


def test_held_out_figures_meet_the_aims(result: CalibrationResult) -> None:
    rows = [row for row in result.report["rows"] if row["held_out"] and row["depth"] == 20]
    assert [row["fit"] for row in rows] == ["judge+first-stage", "judge", "rank+first-stage", "rank"]
    for row in rows[:2]:
        assert row["ece"] <= 0.05
        assert row["brier_skill"] > 0.1
        assert row["auc"] > 0.7
        assert row["intervals"]["auc"][0] < row["auc"] < row["intervals"]["auc"][1]
    others = [row for row in result.report["rows"] if not row["held_out"]]
    assert {(row["collection"], row["queries"]) for row in others} == {("other", 20)}


def test_the_report_is_the_first_fit_at_the_largest_depth(result: CalibrationResult) -> None:
    report = result.report
    row = next(row for row in report["rows"] if row["depth"] == 20)
    for key in ("ece", "brier", "brier_skill", "auc", "queries", "documents", "method", "intervals", "fit"):
        assert report[key] == row[key]
    assert (report["queries"], report["documents"], report["unjudged"], report["unscored"]) == (60, 1200, 0, 0)


def test_held_out_means_that_no_query_is_in_both_parts() -> None:
    """Labels that depend on the query alone, and a score that names the query: only a leak would predict them."""
    draw = random.Random(3)
    source = make_collection(queries=60, depth=5, kind="log attention")
    values = {query: draw.random() for query in source.run}
    label = {query: draw.random() < 0.5 for query in source.run}
    leaking = replace(
        source,
        judge={query: dict.fromkeys(source.judge[query], values[query]) for query in source.run},
        qrels=Qrels({query: dict.fromkeys(source.qrels[query], int(label[query])) for query in source.run}),
    )
    report = fit(leaking).report
    assert report["auc"] < 0.65
    assert report["brier_skill"] < 0.05


def test_held_out_predictions_are_what_users_get(small: RankedCollection) -> None:
    lists = usable_fit_lists(cut_lists([small]), "judge+first-stage")
    predicted, _ = predict_held_out(lists, "judge+first-stage")
    assert sorted(p.judged.query for p in predicted) == sorted(ranking.query for ranking in lists.documents)
    assert all(list(p.relevance) == sorted(p.relevance, reverse=True) for p in predicted)


def test_absolute_scores_are_cut_to_shorter_lists_and_others_are_not() -> None:
    absolute, within = make_collection(queries=6), make_collection(queries=6, kind="log attention")
    assert {ranking.depth for ranking in cut_lists([absolute]).documents} == {5, 20}
    assert {ranking.depth for ranking in cut_lists([within]).documents} == {20}
    assert {r.depth for r in cut_lists([make_collection(queries=6, depth=101)]).documents} == {5, 20, 100, 101}
    shorter = make_collection(queries=6, depth=10, kind="log attention")
    both = cut_lists([shorter, within])
    assert sorted((r.depth, len(r)) for r in both.documents) == [(10, 10)] * 6 + [(20, 20)] * 6


def test_a_cut_list_has_the_best_of_the_first_stage_in_the_final_order() -> None:
    source = make_collection(queries=1)
    (ranking,) = (r for r in cut_lists([source]).documents if r.depth == 5)
    best = source.first_stage["q0"].doc_ids[:5]
    order = [doc for doc in source.run["q0"].doc_ids if doc in best]
    assert ranking.judge == tuple(source.judge["q0"][doc] for doc in order)
    assert ranking.relevant == tuple(source.qrels["q0"][doc] == 1 for doc in order)
    assert ranking.length == 5


def test_half_of_the_lists_lose_their_relevant_documents_and_size_does_not_tell() -> None:
    lists = cut_lists([make_collection(queries=30)]).answerable
    for depth in (5, 20):
        pairs: dict[object, list[Any]] = {}
        for ranking in lists:
            if ranking.depth == depth:
                pairs.setdefault(ranking.query, []).append(ranking)
        for complete, reduced in (pair for pair in pairs.values() if len(pair) == 2):
            assert not reduced.has_relevant
            assert len(complete) == len(reduced) <= depth
            assert complete.length == reduced.length == depth
    # Ranks alone know nothing about a list, so `answerable` cannot be predicted from them.
    report = fit(make_collection(queries=40, depth=20)).report
    (row,) = (r for r in report["answerable"] if r["fit"] == "rank" and r["depth"] == 20)
    assert 0.35 < row["auc"] < 0.65


def test_answerable_is_predicted_on_held_out_queries(result: CalibrationResult) -> None:
    (row,) = (r for r in result.report["answerable"] if r["fit"] == "judge" and r["depth"] == 20 and r["held_out"])
    assert row["auc"] > 0.6
    assert row["brier_skill"] > 0
    models = result.calibration
    strong = models.apply([3.0, 2.0, -3.0], None, first_stage_name=None).answerable
    weak = models.apply([-2.0, -3.0, -3.0], None, first_stage_name=None).answerable
    assert strong > 0.5 > weak


def test_unjudged_documents_are_left_out_and_counted(small: RankedCollection) -> None:
    kept = {query: dict(list(grades.items())[:12]) for query, grades in small.qrels.items()}
    report = fit(replace(small, qrels=Qrels(kept))).report
    assert (report["documents"], report["unjudged"]) == (10 * 12, 10 * 8)


def test_each_run_has_a_lowest_relevant_grade_of_its_own(small: RankedCollection) -> None:
    grades = Qrels({query: {doc: 2 * grade for doc, grade in row.items()} for query, row in small.qrels.items()})
    other = replace(small, name="other", qrels=grades, relevant=2)
    report = fit(small, tests=[other]).report
    rates = [row["rate"] for row in report["rows"] if row["depth"] == report["depth"]]
    assert rates == [pytest.approx(report["rate"])] * len(rates)
    assert fit(small, tests=[replace(other, relevant=3)]).report["rows"][-1]["rate"] == 0


def test_runs_of_one_collection_with_different_relevant_grades_are_refused(small: RankedCollection) -> None:
    with pytest.raises(DataError, match="count grades from 1 and from 2 as relevant.*--relevant"):
        fit(small, replace(small, relevant=2))


def test_documents_have_the_same_ranks_in_the_fit_as_later_if_others_have_no_judge_score(
    small: RankedCollection,
) -> None:
    judge = {q: {doc: s for n, (doc, s) in enumerate(row.items()) if n % 2} for q, row in small.judge.items()}
    partly = replace(small, judge=judge, kind="log attention")
    usable = usable_fit_lists(cut_lists([partly]), "judge").documents
    assert usable
    for ranking in usable:
        doc_ids, scored = small.run[ranking.query[1]].doc_ids, judge[ranking.query[1]]
        assert ranking.ranks == tuple(rank for rank, doc in enumerate(doc_ids, 1) if doc in scored)


def test_with_complete_judgments_unjudged_documents_are_not_relevant(small: RankedCollection) -> None:
    relevant = {
        query: {doc: grade for doc, grade in grades.items() if grade} if query != "q0" else {}
        for query, grades in small.qrels.items()
    }
    only_relevant = replace(small, qrels=Qrels(relevant))
    with pytest.raises(DataError, match="All judged documents are relevant.*--complete"):
        fit(only_relevant)
    report = fit(replace(only_relevant, is_complete=True)).report
    assert (report["queries"], report["documents"], report["unjudged"]) == (9, 180, 0)  # q0 has no judgments
    assert report["rate"] == pytest.approx(sum(map(len, relevant.values())) / 180)


def test_documents_without_a_judge_score_are_left_out_and_counted(small: RankedCollection) -> None:
    judge = {
        query: {doc: None if doc in ("d0", "d1") else score for doc, score in scores.items()}
        for query, scores in small.judge.items()
    }
    report = fit(replace(small, judge=judge)).report
    assert (report["documents"], report["unscored"]) == (10 * 18, 20)
    ranks = next(row for row in report["rows"] if row["fit"] == "rank" and row["depth"] == 20)
    assert ranks["documents"] == 10 * 20


def test_without_judge_scores_ranks_are_fitted(small: RankedCollection) -> None:
    result = fit(replace(small, kind="", judge={}))
    assert list(result.calibration.fits) == ["rank+first-stage", "rank"]
    assert result.report["unscored"] is None
    assert result.report["brier_skill"] > 0
    relevance = result.calibration.apply(None, [10.0] * 20, first_stage_name="bm25").relevance
    assert relevance[0] > relevance[-1]


def test_without_first_stage_scores_there_is_one_fit_less(small: RankedCollection) -> None:
    calibration = fit(replace(small, has_first_stage_scores=False)).calibration
    assert list(calibration.fits) == ["judge", "rank"]
    assert calibration.first_stage is None
    assert calibration.apply([1.0], [10.0], first_stage_name="bm25").fit == "judge"


def test_a_test_on_another_first_stage_uses_the_fit_without_its_scores(small: RankedCollection) -> None:
    other = replace(make_collection(queries=10, seed=4, name="other"), has_first_stage_scores=False)
    rows = [row for row in fit(small, tests=[other]).report["rows"] if row["collection"] == "other"]
    assert {row["fit"] for row in rows} == {"judge", "rank"}


def test_fitting_is_deterministic(small: RankedCollection) -> None:
    assert fit(small) == fit(small)


EMPTY = Run(())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qrels": Qrels({"unknown": {"d0": 1}})}, "No query has a judged document"),
        ({"qrels": Qrels({"q1": {"d0": 1, "d1": 0}})}, "1 query has a judged document"),
        ({"qrels": Qrels({"q1": {"d0": 0}, "q2": {"d1": 0}})}, "All judged documents are not relevant"),
        ({"qrels": Qrels({"q1": {"d0": 1}, "q2": {"d1": 1}})}, "All judged documents are relevant"),
        ({"run": EMPTY}, "No query has a judged document"),
        ({"first_stage": EMPTY}, "has 20 documents, and its first-stage list has 0"),
    ],
)
def test_data_that_cannot_be_fitted(small: RankedCollection, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(replace(small, **changes))


def test_two_queries_are_enough_to_fit() -> None:
    assert fit(make_collection(queries=2, seed=2)).report["queries"] == 2


def test_different_kinds_and_repeated_queries_are_refused(small: RankedCollection) -> None:
    with pytest.raises(DataError, match="kinds log-likelihood, log-odds"):
        fit(small, make_collection(queries=3, name="b", kind="log-likelihood"))
    with pytest.raises(DataError, match="10 queries of 'synthetic', such as 'q0', occur in the fitted runs"):
        fit(small, tests=[small])


def test_the_scope_of_every_judge_is_known() -> None:
    scopes = {}
    for name in judges.names():
        judge = open_judge(name, Fake("reversed"), load_prompt(judges.get(name).prompt or "listwise"))
        if judge.score_kind is not None:
            scopes[name] = judge.score_kind.scope
            assert is_absolute_score_to_calibrate(judge.score_kind.name) == (judge.score_kind.scope == "absolute"), name
    assert set(scopes.values()) == {"absolute", "within", "latest"}
