"""What counts when a run is measured, and matrices of topics and systems."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import (
    DataError,
    MissingPrerequisiteError,
    MissingResourceError,
    RerankError,
    UnknownNameError,
    UsageError,
)
from rerank.evaluation import (
    ScoreMatrix,
    Scores,
    evaluate_run,
    evaluate_runs,
    evaluation_report,
    parse_measures,
    read_score_matrix,
    table_of_scores,
)
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.raising import raises

QRELS = Qrels({"q1": {"a": 2, "b": 0, "c": 1, "n": -1}, "q2": {"x": 1}, "q3": {"y": 0}}, name="small")


def ranking(query: str, *docs: str) -> Ranking:
    return Ranking.from_order(Query(id=query), [Document(id=doc) for doc in docs])


def run(*rankings: Ranking, name: str = "sys") -> Run:
    return Run(rankings, name=name)


def test_missing_queries_score_zero_and_are_counted() -> None:
    scores = evaluate_run(QRELS, run(ranking("q1", "a", "b")), ["RR", "P@1"])
    assert scores.values == {"RR": {"q1": 1.0, "q2": 0.0, "q3": 0.0}, "P@1": {"q1": 1.0, "q2": 0.0, "q3": 0.0}}
    assert scores.missing == ("q2", "q3")
    assert scores.unjudged == ()
    assert scores.mean("RR") == pytest.approx(1 / 3)


def test_unjudged_queries_do_not_count_and_are_named() -> None:
    more = evaluate_run(QRELS, run(ranking("q1", "a"), ranking("z", "a")), ["AP"])
    assert more.unjudged == ("z",)
    assert more.values == evaluate_run(QRELS, run(ranking("q1", "a")), ["AP"]).values


def test_no_shared_query() -> None:
    with raises(DataError, "'sys'", "'z'", "small", "'q1', 'q2', 'q3'"):
        evaluate_run(QRELS, run(ranking("z", "a")), ["AP"])
    with raises(DataError, "'a', 'b', 'c' ..."):
        evaluate_run(QRELS, run(*(ranking(query, "a") for query in "abcde")), ["AP"])


@pytest.mark.parametrize(
    "nothing",
    [
        run(),
        run(ranking("q1")),
        run(ranking("q1"), ranking("q2"), ranking("q3")),
        run(ranking("q2"), ranking("z", "a")),
    ],
)
def test_a_run_that_found_nothing_scores_zero(nothing: Run) -> None:
    scores = evaluate_run(
        QRELS, nothing, ["AP", "RR@10", "Judged@5", "P(judged_only=True)@2", "NumRet", "NumRel", "NumQ"]
    )
    assert scores.missing == ("q1", "q2", "q3")
    assert scores.unjudged == tuple(query for query in nothing if query == "z")
    found = dict.fromkeys(["AP", "RR@10", "Judged@5", "P(judged_only=True)@2", "NumRet"], 0.0)
    assert scores.summary() == {**found, "NumRel": 3.0, "NumQ": 3.0}


def test_no_judgments() -> None:
    with raises(DataError, "qrels"):
        evaluate_run(Qrels({}), run(ranking("q1", "a")), ["AP"])


def test_order_of_measures_is_the_order_asked() -> None:
    asked = ["P@5", "AP", "nDCG@10", "AP(rel=2)", "Judged@10", "RR@1"]
    scores = evaluate_run(QRELS, run(ranking("q1", "b", "a")), asked)
    assert list(scores.measures) == asked == list(scores.summary())


def test_a_level_of_relevance() -> None:
    scores = evaluate_run(QRELS, run(ranking("q1", "c", "a")), ["RR", "nDCG@1", "NumRel"], relevant=2)
    assert scores.values["RR(rel=2)"]["q1"] == 0.5
    assert scores.values["nDCG@1"]["q1"] == 0.5
    assert scores.values["NumRel(rel=2)"] == {"q1": 1.0, "q2": 0.0, "q3": 0.0}


def test_counts_are_totals_over_all_judged_queries() -> None:
    scores = evaluate_run(
        QRELS, run(ranking("q1", "a", "b", "u"), ranking("q3", "y")), ["num_q", "num_rel", "num_ret", "num_rel_ret"]
    )
    assert scores.summary() == {"NumQ": 3.0, "NumRel": 3.0, "NumRet": 4.0, "NumRet(rel=1)": 1.0}


def test_the_order_measured_is_the_rankings_own() -> None:
    """Equal scores, and scores that single precision cannot tell apart, must not let documents change places."""
    docs = (Document(id="low"), Document(id="a"), Document(id="z"))
    for values in ((1.0, 1.0, 1.0), (1.0 + 1e-12, 1.0 + 1e-13, 1.0), (1e300, 1e299, -1e300)):
        mine = Run([Ranking(Query(id="q"), docs, values)])
        for position, doc in enumerate(docs, 1):
            for measure in ("RR", "RR@10"):  # two programs compute these
                scores = evaluate_run(Qrels({"q": {doc.id: 1}}), mine, [measure])
                assert scores.mean(measure) == pytest.approx(1 / position)


def test_measures_do_not_disturb_each_other() -> None:
    asked = ["nDCG@10", "nDCG(gains={1:5,2:1})@10", "P(judged_only=True)@2"]
    asked += ["NumRet", "nDCG(judged_only=True)@10", "AP"]
    mine = run(ranking("q1", "u", "v", "c", "a", "b"))
    together = evaluate_run(QRELS, mine, asked)
    for measure in asked:
        (alone,) = evaluate_run(QRELS, mine, [measure]).values.values()
        assert together.values[measure] == alone


@pytest.mark.parametrize("judged", [{}, {"a": -1}, {"a": -1, "b": -9}, {"z": -2}])
def test_queries_without_a_grade_of_0_or_more(judged: dict[str, int]) -> None:
    """pytrec_eval reads foreign memory there, hangs or crashes when these measures are asked for together."""
    qrels = Qrels({"q": judged, "r": {"a": 1}})
    asked = ["AP", "P@5", "RR", "R@5", "Bpref", "infAP", "nDCG@5", "Rprec", "Judged@2", "SetF"]
    for _ in range(50):
        scores = evaluate_run(qrels, run(ranking("q", "a", "b"), ranking("r", "a")), asked)
    assert {row["q"] for measure, row in scores.values.items() if measure != "Judged@2"} == {0.0}
    assert scores.values["Judged@2"]["q"] == sum(judged.get(doc, -1) != -1 for doc in "ab") / 2
    assert scores.values["AP"]["r"] == 1.0


def test_pooled_documents_without_a_judgment_are_for_infap_only() -> None:
    """ir_measures counts rows of -1 as judged; trec_eval's infAP needs them: it estimates from pooled documents."""
    judged = {"d0": 1, "d3": 1, "d5": 0, "d7": 0}
    sampled = {**judged, "d1": -1, "d2": -1, "d8": -1}
    mine = run(ranking("q", *(f"d{n}" for n in range(10))))
    asked = ["infAP", "Judged@10", "nDCG(judged_only=True)@10", "P(judged_only=True)@3", "nDCG@10", "AP", "Bpref"]
    plain, pooled = (evaluate_run(Qrels({"q": rows}), mine, asked).values for rows in (judged, sampled))
    assert {name: row["q"] for name, row in pooled.items()} == {
        **{name: row["q"] for name, row in plain.items()},
        "infAP": pytest.approx(0.9999963),  # (1 + 1/4 + 3/4 * 3/3 * (1 + eps) / (1 + 2 eps)) / 2, eps = 0.00001
    }
    assert plain["infAP"]["q"] == pytest.approx(0.7499987)
    assert plain["Judged@10"]["q"] == 0.4


def test_ids_of_any_kind() -> None:
    """A program behind ir_measures cuts query ids at a dash and splits lines at white space."""
    qrels = Qrels({"PLAIN-2": {"doc one": 1, "d-2": 2}, "x 2": {"中": 1}})
    mine = run(ranking("PLAIN-2", "d-2", "doc one"), ranking("x 2", "u", "中"))
    scores = evaluate_run(qrels, mine, ["nDCG@10", "RR@10", "Judged@1"])
    assert scores.values["nDCG@10"]["PLAIN-2"] == 1.0
    assert scores.values["RR@10"] == {"PLAIN-2": 1.0, "x 2": 0.5}
    assert scores.values["Judged@1"] == {"PLAIN-2": 1.0, "x 2": 0.0}


def test_ids_that_programs_would_confuse_stay_different() -> None:
    ids = ["a b", "a\0b", "a\0c", "\ud800", "%", "%%", "%25", "a%20b", "a/b", "a/ b", "", " ", "none", "中", "a\n"]
    measures = ["AP", "nDCG@10", "RR@20", "Judged@20", "ERR@20"]
    for position, doc in enumerate(ids):
        scores = evaluate_run(Qrels({"q": {doc: 1}}), run(ranking("q", *ids)), measures)
        plain = evaluate_run(
            Qrels({"q": {f"d{position}": 1}}), run(ranking("q", *(f"d{n}" for n in range(15)))), measures
        )
        assert scores.values == plain.values


MEASURES_WITH_CUTOFF = [
    *("P@3", "P(rel=2)@3", "RR@3", "AP@3", "nDCG@3", "nDCG(dcg='exp-log2')@3", "R@3", "Judged@3", "Success@3", "ERR@3"),
    *("P(judged_only=True)@3", "nDCG(judged_only=True)@3", "nDCG(gains={1:3})@3"),
]


def test_documents_below_all_cutoffs_change_nothing() -> None:
    """They are not passed on, unless unjudged documents are to be skipped: the values are those of the library."""
    qrels = {"1": {"a": 2, "b": 0, "c": 1, "d": 1, "e": 2}, "2": {"a": 1}}
    docs = {"1": ["u", "c", "v", "b", "a", "w", "e"], "2": ["x", "y", "z", "a"]}
    mine = run(*(ranking(query, *found) for query, found in docs.items()))
    whole = {query: {doc: 9.0 - rank for rank, doc in enumerate(found)} for query, found in docs.items()}
    for name in MEASURES_WITH_CUTOFF:
        (measure,) = parse_measures([name])
        expected = {metric.query_id: metric.value for metric in ir_measures.iter_calc([measure], qrels, whole)}
        assert evaluate_run(Qrels(qrels), mine, [name]).values[name] == expected, name
    together = evaluate_run(Qrels(qrels), mine, [*MEASURES_WITH_CUTOFF, "R@5"])
    assert together.values["R@5"] == {"1": 0.5, "2": 1.0}


@pytest.mark.parametrize("measure", ["RBP(rel=1)", "alpha_nDCG@10", "Accuracy", "ERR_IA@20"])
def test_what_cannot_be_computed_here(measure: str) -> None:
    with raises(MissingPrerequisiteError, measure, "cwl-eval"):
        evaluate_run(QRELS, run(ranking("q1", "a")), [measure])


def test_scores_check_their_invariants() -> None:
    with raises(DataError, "AP", "nan", "'q'"):
        Scores(run="r", values={"AP": {"q": math.nan}})
    with raises(DataError, "RR"):
        Scores(run="r", values={"AP": {"q": 1.0}, "RR": {"p": 1.0}})
    with raises(DataError, "AP"):
        Scores(run="r", values={"AP": {}})
    with raises(UsageError, "nDCG@10"):
        evaluate_run(QRELS, run(ranking("q1", "a")), [])


def test_report_is_the_contract() -> None:
    scores = evaluate_runs(QRELS, [run(ranking("q1", "a")), run(ranking("q2", "x"), ranking("w", "x"))], ["RR"])
    report = evaluation_report("my.qrels", zip(["a.run", "b.run"], scores, strict=True))
    third = pytest.approx(1 / 3)
    assert report == {
        "qrels": "my.qrels",
        "grades": {"RR": "relevant: grade >= 1"},
        "runs": [
            {"run": "a.run", "queries": 3, "missing": 2, "unjudged": 0, "scores": {"RR": third}},
            {"run": "b.run", "queries": 3, "missing": 2, "unjudged": 1, "scores": {"RR": third}},
        ],
    }
    full = evaluation_report("my.qrels", [("a.run", scores[0])], per_query=True)
    assert full["runs"][0]["per_query"] == {"q1": {"RR": 1.0}, "q2": {"RR": 0.0}, "q3": {"RR": 0.0}}


def test_table() -> None:
    scores = evaluate_runs(QRELS, [run(ranking("q1", "a")), run(ranking("q2", "x"))], ["RR", "num_ret"])
    pairs = [("a|b", scores[0]), ("中文", scores[1])]
    assert table_of_scores(pairs) == (
        "run   queries  missing      RR  NumRet\n"
        "a|b         3        2  0.3333  1.0000\n"
        "中文        3        2  0.3333  1.0000"
    )
    assert table_of_scores(pairs, markdown=True, digits=2).splitlines()[:3] == [
        "| run | queries | missing | RR | NumRet |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| a\\|b | 3 | 2 | 0.33 | 1.00 |",
    ]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Qrels, Run]:
    docs = [f"d{n}" for n in range(8)]
    grades = st.dictionaries(st.sampled_from(docs), st.integers(-1, 3), min_size=1)
    qrels = Qrels(draw(st.dictionaries(st.sampled_from("pqr"), grades, min_size=1)))
    queries = draw(st.lists(st.sampled_from(sorted(qrels)), min_size=1, unique=True))
    lists = {query: draw(st.lists(st.sampled_from(docs), min_size=1, unique=True)) for query in queries}
    return qrels, run(*(ranking(query, *found) for query, found in lists.items()))


BOUNDED = ["nDCG@10", "nDCG", "AP", "RR", "RR@3", "P@5", "R@3", "Rprec", "Success@2", "Judged@5", "Bpref", "SetF"]


@given(cases())
def test_bounds(case: tuple[Qrels, Run]) -> None:
    scores = evaluate_run(*case, BOUNDED)
    for row in scores.values.values():
        assert all(0 <= value <= 1 + 1e-9 for value in row.values())
    assert all(0 <= scores.mean(measure) <= 1 + 1e-9 for measure in BOUNDED)


@given(cases(), st.integers(0, 7))
def test_a_relevant_document_on_top_never_hurts(case: tuple[Qrels, Run], number: int) -> None:
    qrels, before = case
    query = next(iter(before))
    relevant = [doc for doc, grade in qrels[query].items() if grade == max(qrels[query].values()) and grade > 0]
    if not relevant:
        return
    best = relevant[number % len(relevant)]
    others = [doc for doc in before[query].doc_ids if doc != best]
    after = run(ranking(query, best, *others), *(before[q] for q in before if q != query))
    measures = ["nDCG@10", "AP", "RR", "P@5", "R@3", "Success@2"]
    old, new = evaluate_run(qrels, before, measures), evaluate_run(qrels, after, measures)
    assert all(new.mean(measure) >= old.mean(measure) - 1e-9 for measure in measures)
    assert new.values["RR"][query] == 1.0


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "matrix.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_topic_ids_topics_are_numbered(tmp_path: Path) -> None:
    matrix = read_score_matrix(written(tmp_path, "a,b\n0.5,1\n\n0.25,0\n"))
    assert (matrix.systems, matrix.topics, matrix.measure) == (("a", "b"), ("1", "2"), "")
    assert matrix.values.tolist() == [[0.5, 1.0], [0.25, 0.0]]


@pytest.mark.parametrize("head", ["topic", "Query", "qid", ""])
def test_with_topic_ids(tmp_path: Path, head: str) -> None:
    matrix = read_score_matrix(written(tmp_path, f'{head},"x, y", b \n401, 0.5,1\n402,0.25,0\n'))
    assert (matrix.systems, matrix.topics) == (("x, y", "b"), ("401", "402"))


def test_tabs_a_byte_order_mark_and_gzip(tmp_path: Path) -> None:
    path = tmp_path / "matrix.tsv.gz"
    path.write_bytes(gzip.compress("\ufefftopic\ta\tb\r\nt1\t1\t2\r\nt2\t3\t4\r\n".encode()))
    matrix = read_score_matrix(path)
    assert (matrix.systems, matrix.topics) == (("a", "b"), ("t1", "t2"))
    assert matrix.values.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "matrix.csv"),
        ("a,b\n1,2\n1,2,3\n", "line 3 has 3 columns"),
        ("a,b\n1,2\n\n1\n", "line 4 has 1 columns"),
        ("a,b\n1,2\n,\n", "line 3 contains ''"),
        ("a,b\n1,2\nx,1\n", "line 3 contains 'x'"),
        ("a,b\n1,2\nnan,1\n", "System 'a' scores nan on topic '2'"),
        ("topic,a,b\n7,1,2\n8,1,inf\n", "System 'b' scores inf on topic '8'"),
        ("a,b\n1,2\n", "contains 1 topic;"),
        ("a,b\n", "contains 0 topics"),
        ("a\n1\n2\n", "contains 1 system;"),
        ("a,b,a\n1,2,3\n1,2,3\n", "named 'a'"),
        ("topic,a,b\n7,1,2\n7,1,2\n", "named '7'"),
        ("0.1,0.2\n0.3,0.4\n", "'0.1'"),
        ('a,b\n1,"2\n3,4\n', "CSV"),
    ],
)
def test_invalid_files(tmp_path: Path, text: str, named: str) -> None:
    with raises(DataError, named):
        read_score_matrix(written(tmp_path, text))


def test_no_file(tmp_path: Path) -> None:
    with raises(MissingResourceError, "none.csv"):
        read_score_matrix(tmp_path / "none.csv")


def scores(name: str, *values: float, measure: str = "AP") -> Scores:
    return Scores(run=name, values={measure: {f"q{n}": value for n, value in enumerate(values)}})


def test_from_scores() -> None:
    matrix = ScoreMatrix.from_scores([scores("a", 1, 2, 3), scores("b", 3, 2, 1)], "AP")
    assert (matrix.measure, matrix.systems, matrix.topics) == ("AP", ("a", "b"), ("q0", "q1", "q2"))
    assert matrix.values.T.tolist() == [[1, 2, 3], [3, 2, 1]]
    assert matrix.deltas("a", "b").tolist() == [-2, 0, 2]
    with raises(UnknownNameError, "c"):
        matrix.deltas("a", "c")


@pytest.mark.parametrize(
    ("scores", "error", "named"),
    [
        ([], DataError, ("0 system",)),
        ([scores("a", 1, 2)], DataError, ("1 system",)),
        ([scores("a", 1, 2), scores("b", 1, 2, measure="RR")], UsageError, ("'b'", "AP", "RR")),
        ([scores("a", 1, 2), scores("b", 1, 2, 3)], DataError, ("'a'", "'b'")),
        ([scores("a", 1), scores("b", 1)], DataError, ("1 judged query",)),
    ],
)
def test_scores_that_make_no_matrix(scores: list[Scores], error: type[RerankError], named: tuple[str, ...]) -> None:
    with raises(error, *named):
        ScoreMatrix.from_scores(scores, "AP")


def test_values_of_another_shape() -> None:
    with raises(DataError, (2, 3), "(2, 2)"):
        ScoreMatrix(measure="", topics=("1", "2"), systems=("a", "b"), values=np.zeros((2, 3)))
