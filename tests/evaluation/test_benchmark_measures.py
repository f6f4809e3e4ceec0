"""Benchmarks' own measures: by name, by hand, and beside scikit-learn, which INQUIRE's scripts call."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping, Sequence

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.evaluation import (
    ScoreMatrix,
    Scores,
    compare_runs,
    evaluate_run,
    evaluate_runs,
    evaluation_report,
    parse_measures,
)
from rerank.evaluation import table_of_scores as table
from rerank.evaluation.benchmark_measures import (
    BenchmarkProvider,
    JudgedRanking,
    RatioTerm,
    inquire_ap,
    inquire_ndcg,
    register_benchmark_measures,
    t2ranking_recall,
    t2ranking_rr,
)
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.raising import raises
from tests.ranked import run_of

NAMES = ["INQUIRE_AP@50", "INQUIRE_nDCG@50", "T2Ranking_R@50", "T2Ranking_RR@50"]


def run(lists: Mapping[str, str], name: str = "sys") -> Run:
    return run_of(name, lists)


def graded(judged: Mapping[str, str]) -> Qrels:
    """Grades from strings such as ``a1 b0``."""
    return Qrels({query: {pair[0]: int(pair[1:]) for pair in text.split()} for query, text in judged.items()})


#: q3 is judged and not in the run, q4 and q6 are in the run and not judged, q5 has nothing relevant.
QRELS = graded({"q1": "a2 b3 c2 x1", "q2": "y3", "q3": "z2 w2", "q5": "a0"})
RUN = run({"q1": "axb", "q2": "xy", "q4": "a", "q5": "ab", "q6": "a"})


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("INQUIRE_AP@50", "INQUIRE_AP@50"),
        ("inquire_map@50", "INQUIRE_AP@50"),
        ("Inquire_NDCG(cutoff=50)", "INQUIRE_nDCG@50"),
        ("T2Ranking_Recall(rel=2)@50", "T2Ranking_R(rel=2)@50"),
        ("t2ranking_mrr@10", "T2Ranking_RR@10"),
        ("T2Ranking_RR(rel=1)@10", "T2Ranking_RR@10"),
    ],
)
def test_names(written: str, printed: str) -> None:
    assert [str(measure) for measure in parse_measures([written])] == [printed]
    assert [str(measure) for measure in parse_measures([printed])] == [printed]


@pytest.mark.parametrize("name", [name.removesuffix("@50") for name in NAMES])
@pytest.mark.parametrize(
    ("rest", "named"),
    [
        ("", ("cutoff", "{}@10")),
        ("@0", ("cutoff=0",)),
        ("@-3", ("cutoff=-3",)),
        ("@1.5", ("cutoff=1.5",)),
        ("(rel=0)@5", ("rel=0",)),
        ("(judged_only=True)@5", ("judged_only", "cutoff, rel")),
        ("(k=5)", ("'k'",)),
    ],
)
def test_bad_measures(name: str, rest: str, named: tuple[str, ...]) -> None:
    with raises(UsageError, *(value.format(name) for value in named)):
        parse_measures([name + rest])


def test_a_wrong_name_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError) as caught:
        parse_measures(["INQUIRE_RR@50"])
    assert "INQUIRE_AP" in caught.value.suggestions


def test_inquire() -> None:
    found = evaluate_run(
        graded({"q": "a1 c1 d1 e1", "p": "a1"}), run({"q": "abcd"}), ["INQUIRE_AP@3", "INQUIRE_nDCG@3"]
    )
    assert found.values["INQUIRE_AP@3"] == {"q": pytest.approx((1 + 2 / 3) / 3), "p": 0.0}
    assert found.mean("INQUIRE_nDCG@3") == pytest.approx(1.5 / (1 + 0.6309297536 + 0.5) / 2)
    assert found.missing == ("p",)


def test_inquire_is_told_the_ties_and_the_others_are_not() -> None:
    docs = tuple(Document(id=doc) for doc in "abcd")
    mine = Run([Ranking(Query(id="q"), docs, (0.9, 0.5, 0.5, 0.5))])
    found = evaluate_run(graded({"q": "a1 b1"}), mine, ["INQUIRE_AP@50", "AP", "INQUIRE_AP@2"]).summary()
    assert found == {"INQUIRE_AP@50": 0.75, "AP": 1.0, "INQUIRE_AP@2": 1.0}


def test_ties_at_the_cutoff_stand_as_given() -> None:
    """The provider sees stand-ins for ids, and must not put ties in their order."""
    docs = tuple(Document(id=doc) for doc in "dcba")
    mine = Run([Ranking(Query(id="q"), docs, (1.0,) * 4)])
    for place, doc in enumerate("dcba", 1):
        qrels = graded({"q": f"{doc}1"})
        assert evaluate_run(qrels, mine, ["T2Ranking_RR@4"]).overall["T2Ranking_RR@4"] == pytest.approx(1 / place)


def test_t2ranking_recall_is_micro_averaged_over_the_queries_of_the_run() -> None:
    found = evaluate_run(QRELS, RUN, ["T2Ranking_R(rel=2)@2", "R(rel=2)@2", "T2Ranking_R@50"])
    assert found.overall["T2Ranking_R(rel=2)@2"] == (1 + 1) / (3 + 1)
    assert found.overall["T2Ranking_R@50"] == (3 + 1) / (4 + 1)
    assert found.mean("R(rel=2)@2") == pytest.approx((1 / 3 + 1 + 0 + 0) / 4)


def test_t2ranking_mrr_is_divided_by_the_number_of_queries_in_the_run() -> None:
    found = evaluate_run(QRELS, RUN, ["T2Ranking_RR(rel=2)@10", "T2Ranking_RR@1", "RR(rel=2)@10"])
    assert found.overall == {"T2Ranking_RR(rel=2)@10": (1 + 1 / 2) / 5, "T2Ranking_RR@1": 1 / 5}
    assert found.mean("RR(rel=2)@10") == pytest.approx((1 + 1 / 2) / 4), "over q1, q2, q3, q5"
    assert (found.missing, found.unjudged) == (("q3",), ("q4", "q6"))


@pytest.mark.parametrize("nothing", [run({}), run({"q1": ""}), run({"q5": "b"})])
def test_a_run_that_found_nothing(nothing: Run) -> None:
    found = evaluate_run(QRELS, nothing, NAMES)
    assert set(found.summary().values()) == {0.0}


def test_queries_without_a_grade_of_0_or_more() -> None:
    found = evaluate_run(Qrels({"q": {"a": -1}, "r": {}, "s": {"a": 1}}), run({"q": "a", "r": "a", "s": "a"}), NAMES)
    assert list(found.summary().values()) == [pytest.approx(1 / 3), pytest.approx(1 / 3), 1.0, pytest.approx(1 / 3)]


def test_measures_of_the_whole_run_stand_beside_the_others() -> None:
    asked = ["T2Ranking_R@50", "nDCG@10"]
    found = evaluate_run(QRELS, RUN, asked)
    assert found.measures == tuple(found.summary()) == ("nDCG@10", "T2Ranking_R@50")
    assert list(found.values) == ["nDCG@10"]
    assert found.by_query()["q2"].keys() == {"nDCG@10"}
    (row,) = evaluation_report("q", [("r", found)], per_query=True)["runs"]
    assert row["scores"].keys() == {"nDCG@10", "T2Ranking_R@50"}
    assert row["per_query"]["q2"].keys() == {"nDCG@10"}
    assert table([("r", found)]).splitlines()[0].split()[-2:] == ["nDCG@10", "T2Ranking_R@50"]


def test_only_measures_of_the_whole_run() -> None:
    found = evaluate_run(QRELS, RUN, ["T2Ranking_R@50"])
    assert (found.queries, found.values) == (tuple(QRELS), {})
    (row,) = evaluation_report("q", [("r", found)])["runs"]
    assert (row["queries"], row["missing"], row["scores"]) == (4, 1, {"T2Ranking_R@50": 0.8})


def test_paired_tests_refuse_them_with_the_reason() -> None:
    runs = [RUN, run({"q1": "b"}, "other")]
    with raises(UsageError, "T2Ranking_R(rel=2)@50 has", "Use R(rel=2)@50"):
        compare_runs(QRELS, runs, "T2Ranking_Recall@50", relevant=2)
    scores = evaluate_runs(QRELS, runs, ["T2Ranking_R(rel=2)@50", "T2Ranking_RR@10", "AP"])
    with raises(UsageError, "T2Ranking_R(rel=2)@50 has", "Use R(rel=2)@50"):
        ScoreMatrix.from_scores(scores, "T2Ranking_R(rel=2)@50")
    with raises(UsageError, "T2Ranking_RR@10", "Use RR@10"):
        scores[0].mean("T2Ranking_RR@10")
    assert ScoreMatrix.from_scores(scores, "AP").systems == ("sys", "other")


def test_scores_of_the_whole_run_check_their_invariants() -> None:
    with raises(UsageError, "AP"):
        Scores(run="r", values={}, overall={"T2Ranking_R@5": 0.5}, queries=("q",)).by_measure("AP")
    for values, overall in (({}, {"T2Ranking_R@5": float("nan")}), ({"AP": {"q": 1.0}}, {"AP": 1.0})):
        with raises(DataError, "T2Ranking_R@5" if "T2Ranking_R@5" in overall else "AP"):
            Scores(run="r", values=values, overall=overall)
    with raises(DataError, "AP"):
        Scores(run="r", values={"AP": {"q": 1.0}}, queries=("q", "p"))


docs = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True).map("".join)
grades = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 3), min_size=1)


@given(st.dictionaries(st.sampled_from("pqr"), docs, min_size=1), st.fixed_dictionaries(dict.fromkeys("pqr", grades)))
def test_what_they_have_in_common_with_plain_measures(lists: dict[str, str], judged: dict[str, dict[str, int]]) -> None:
    names = ["INQUIRE_AP@3", "AP@3", "INQUIRE_nDCG@3", "nDCG(gains={2:1,3:1})@3", "R@3", "RR@3", "T2Ranking_R@3"]
    found = evaluate_run(Qrels(judged), run(lists), [*names, "T2Ranking_RR@3"])
    relevant = {query: sum(grade > 0 for grade in row.values()) for query, row in judged.items()}
    for query in lists:
        row = {name: found.values[name][query] for name in names[:6]}
        assert row["INQUIRE_AP@3"] * min(relevant[query], 3) == pytest.approx(row["AP@3"] * relevant[query])
        assert row["INQUIRE_nDCG@3"] == pytest.approx(row["nDCG(gains={2:1,3:1})@3"])
    hits = sum(found.values["R@3"][query] * relevant[query] for query in lists)
    assert found.overall["T2Ranking_R@3"] == pytest.approx(hits / (sum(relevant[query] for query in lists) or 1))
    assert found.overall["T2Ranking_RR@3"] == pytest.approx(sum(found.values["RR@3"].values()) / len(lists))


def test_ir_measures_computes_them_beside_its_own() -> None:
    asked = parse_measures([*NAMES, "nDCG@10"])
    qrels = {query: dict(judged) for query, judged in QRELS.items()}
    mine = {q: dict(zip(ranking.doc_ids, ranking.scores, strict=True)) for q, ranking in RUN.items()}
    found = ir_measures.calc_aggregate(asked, qrels, mine)
    expected = evaluate_run(QRELS, RUN, [*NAMES, "nDCG@10"]).summary()
    assert {str(measure): value for measure, value in found.items()} == pytest.approx(expected)


def test_they_are_known_once_and_only_when_measures_are_read() -> None:
    register_benchmark_measures()
    register_benchmark_measures()
    assert sum(isinstance(p, BenchmarkProvider) for p in ir_measures.DefaultPipeline.providers) == 1
    code = """
import sys, rerank, rerank.evaluation
print("ir_measures" in sys.modules)
import ir_measures
print("INQUIRE_AP" in ir_measures.measures.registry)
rerank.evaluation.parse_measures(["AP"])
print("INQUIRE_AP" in ir_measures.measures.registry)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]


def listed(grades: Sequence[int], scores: Sequence[float] = (), missed: Sequence[int] = ()) -> JudgedRanking:
    """A list of judged documents, scored 1/rank unless told otherwise, and the grades of those that it lacks."""
    return JudgedRanking(
        grades=np.array(grades, dtype=np.int64),
        scores=np.array(scores or [1 / rank for rank in range(1, len(grades) + 1)]),
        judged=np.array([*grades, *missed], dtype=np.int64),
    )


def test_inquire_ap_divides_by_what_the_cutoff_has_room_for() -> None:
    four = listed([1, 0, 1, 1], missed=[1])
    assert inquire_ap(four, 1, 3) == pytest.approx((1 + 2 / 3) / 3)
    assert inquire_ap(four, 1, 4) == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)
    assert inquire_ap(four, 1, 50) == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)


def test_inquire_ap_of_ties() -> None:
    """The three that tie stand at ranks 2 to 4 and share the precision at rank 4."""
    tied = [0.9, 0.5, 0.5, 0.5]
    assert inquire_ap(listed([1, 0, 1, 0], tied), 1, 50) == pytest.approx((1 + 2 / 4) / 2)
    assert inquire_ap(listed([1, 1, 0, 0], tied), 1, 50) == pytest.approx((1 + 2 / 4) / 2)
    assert inquire_ap(listed([1, 1, 0, 0], tied), 1, 2) == 1.0, "what is below the cutoff does not tie"


def test_inquire_ndcg() -> None:
    three = listed([0, 1, 1], missed=[1])
    best = 1 + 1 / math.log2(3) + 1 / 2
    assert inquire_ndcg(three, 1, 50) == pytest.approx((1 / math.log2(3) + 1 / 2) / best)
    assert inquire_ndcg(three, 1, 2) == pytest.approx(1 / math.log2(3) / (1 + 1 / math.log2(3)))


def test_inquire_ndcg_of_ties() -> None:
    """Each of the three that tie gains a third."""
    tied = listed([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.5])
    shared = (1 / math.log2(3) + 1 / 2 + 1 / math.log2(5)) / 3
    assert inquire_ndcg(tied, 1, 50) == pytest.approx((1 + shared) / (1 + 1 / math.log2(3)))


def test_shares() -> None:
    assert (RatioTerm(1, 4), RatioTerm(1, 4).part, RatioTerm(1, 4).whole) == (0.25, 1, 4)
    assert RatioTerm(0, 0) == 0.0
    found = t2ranking_recall(listed([2, 0, 3, 1], missed=[2]), 2, 2)
    assert (found.part, found.whole) == (1, 3)
    first = t2ranking_rr(listed([1, 0, 3]), 2, 10)
    assert (first, first.part, first.whole) == (1 / 3, 1 / 3, 1)
    assert t2ranking_rr(listed([1, 0, 3]), 2, 2) == 0.0


LISTS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=2, max_size=12)
MISSED = st.lists(st.integers(0, 3), max_size=6)


def sorted_list(rows: Sequence[tuple[int, float]], missed: Sequence[int]) -> JudgedRanking:
    ordered = sorted(rows, key=lambda row: -row[1])
    return listed([grade for grade, _ in ordered], [score for _, score in ordered], missed)


@given(LISTS, st.integers(1, 15), st.integers(1, 3))
def test_the_best_list_scores_1(rows: list[tuple[int, float]], cutoff: int, rel: int) -> None:
    best = listed(sorted((grade for grade, _ in rows), reverse=True))
    expected = pytest.approx(1.0 if best.positives(rel) else 0.0)
    assert inquire_ap(best, rel, cutoff) == inquire_ndcg(best, rel, cutoff) == expected


@given(LISTS, MISSED, st.integers(2, 12))
def test_scikit_learn_says_the_same(rows: list[tuple[int, float]], missed: list[int], cutoff: int) -> None:
    """As INQUIRE's scripts call it: with as many documents as the cutoff, so that the list ends there."""
    metrics = pytest.importorskip("sklearn.metrics")
    one = sorted_list(rows, missed)
    hits = (one.grades[:cutoff] >= 2).astype(int)
    scores, positives, length = one.scores[:cutoff], one.positives(2), len(hits)
    if not hits.any():
        return
    precision = metrics.average_precision_score(hits, scores) * hits.sum() / min(positives, length)
    assert inquire_ap(one, 2, length) == pytest.approx(precision)
    lacking = positives - hits.sum()
    whole = np.append(hits, np.ones(lacking)), np.append(scores, np.full(lacking, -100.0))
    assert inquire_ndcg(one, 2, length) == pytest.approx(metrics.ndcg_score([whole[0]], [whole[1]], k=length))
