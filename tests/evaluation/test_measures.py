"""Names of measures in both forms, what is wrong with bad ones, and notes on how measures read grades."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import UnknownNameError, UsageError
from rerank.evaluation import compare_runs
from rerank.evaluation.measures import (
    describe_grade_use,
    evaluation_overlap_note,
    is_summed_measure,
    measure_grade_note,
    parse_measures,
    relevance_threshold_note,
)
from rerank.types import Document, Qrels, Query, Ranking, Run
from tests.raising import raises


def names(*written: str, relevant: int = 1) -> list[str]:
    return [str(measure) for measure in parse_measures(written, relevant=relevant)]


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("nDCG@10", ["nDCG@10"]),
        (" nDCG@10 ", ["nDCG@10"]),
        ("NDCG@10", ["nDCG@10"]),
        ("ndcg@10", ["nDCG@10"]),
        ("mrr@10", ["RR@10"]),
        ("MAP", ["AP"]),
        ("AP(rel=2)", ["AP(rel=2)"]),
        ("AP(rel=1)", ["AP"]),
        ("P(rel=2)@5", ["P(rel=2)@5"]),
        ("P(cutoff=5)", ["P@5"]),
        ("IPrec@0", ["IPrec@0.0"]),
        ("RBP(p=0.5,rel=1)", ["RBP(p=0.5,rel=1)"]),
        ("nDCG(gains={1:1,2:3})@10", ["nDCG(gains={2:3})@10"]),
        ("nDCG(dcg='exp-log2')@10", ["nDCG(dcg='exp-log2')@10"]),
        ("ndcg", ["nDCG"]),
        ("ndcg_cut_10", ["nDCG@10"]),
        ("ndcg_cut.10,100", ["nDCG@10", "nDCG@100"]),
        ("map", ["AP"]),
        ("map_cut_100", ["AP@100"]),
        ("recip_rank", ["RR"]),
        ("P_10", ["P@10"]),
        ("recall_100", ["R@100"]),
        ("Rprec", ["Rprec"]),
        ("bpref", ["Bpref"]),
        ("success_1", ["Success@1"]),
        ("infAP", ["infAP"]),
        ("iprec_at_recall_0.10", ["IPrec@0.1"]),
        ("iprec_at_recall_.25", ["IPrec@0.25"]),
        ("num_q", ["NumQ"]),
        ("num_rel", ["NumRel"]),
        ("num_rel_ret", ["NumRet(rel=1)"]),
        ("num_ret", ["NumRet"]),
        ("set_P", ["SetP"]),
        ("set_F", ["SetF"]),
        ("set_map", ["SetAP"]),
        ("set_recall", ["SetR"]),
        ("set_relative_P", ["SetP(relative=True)"]),
    ],
)
def test_names_in_both_forms(written: str, printed: list[str]) -> None:
    assert names(written) == printed


def test_order_is_kept_and_doubles_count_once() -> None:
    assert names("P_10", "nDCG@10", "P@10", "ndcg_cut_10", "AP") == ["P@10", "nDCG@10", "AP"]


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("AP", "AP(rel=2)"),
        ("map", "AP(rel=2)"),
        ("P_10", "P(rel=2)@10"),
        ("AP(rel=1)", "AP"),
        ("AP(rel=3)", "AP(rel=3)"),
        ("nDCG@10", "nDCG@10"),
        ("NumRel", "NumRel(rel=2)"),
        ("num_ret", "NumRet"),
        ("num_rel_ret", "NumRet(rel=2)"),
        ("RBP", "RBP"),
        ("Judged@10", "Judged@10"),
    ],
)
def test_a_level_of_relevance_shows_in_the_names_of_binary_measures(written: str, printed: str) -> None:
    assert names(written, relevant=2) == [printed]


@pytest.mark.parametrize(
    ("written", "suggestion"),
    [("ndgc@10", "ndcg"), ("nDGC@10", "nDCG"), ("ndcg_cutt_10", "ndcg_cut"), ("Recal@5", "Recall")],
)
def test_unknown_names_get_a_suggestion(written: str, suggestion: str) -> None:
    with raises(UnknownNameError, "measure") as caught:
        names(written)
    assert suggestion in caught.value.suggestions


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("", ("nDCG@10",)),
        ("nDCG@", ("nDCG@10",)),
        ("nDCG@10@20", ("nDCG@10",)),
        ("nDCG(10)", ("nDCG@10",)),
        ("nDCG(x=y)@10", ("nDCG@10",)),
        ("nDCG(**{})@10", ("'**'",)),
        ("__import__('os')", ("nDCG@10",)),
        ("(lambda: 1)()", ("nDCG@10",)),
        ("nDCG@x", ("nDCG@10",)),
        ("nDCG; AP", ("nDCG@10",)),
        ("(" * 5000, ("nDCG@10",)),
        ("P", ("P@10",)),
        ("SDCG@10", ("max_rel",)),
        ("P_x", ("P_x",)),
        ("map_5", ("map_5",)),
        ("ndcg_cut", ("ndcg_cut",)),
        ("P@0", ("cutoff=0",)),
        ("P@-1", ("cutoff=-1",)),
        ("P@1.5", ("cutoff=1.5",)),
        ("P@True", ("cutoff=True",)),
        ("AP(rel=0)", ("rel=0",)),
        ("AP(rel='2')", ("rel='2'",)),
        ("AP(level=2)", ("level", "cutoff, judged_only, rel")),
        ("NumQ(rel=1)", ("rel", "none")),
        ("IPrec@1.5", ("recall=1.5",)),
        ("IPrec@0.123", ("recall=0.123",)),
        ("nDCG(dcg='log3')@10", ("dcg='log3'",)),
        ("nDCG(gains={1:-1})@10", ("gains",)),
        ("nDCG(gains={1:1.5})@10", ("gains",)),
    ],
)
def test_bad_measures(written: str, named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        names(written)


def test_nothing_asked_for() -> None:
    with raises(UsageError, "nDCG@10"):
        names()
    with raises(UsageError, "relevant is 0"):
        names("AP", relevant=0)


@given(st.text(alphabet="nDCGAPRel@(){}=_.,:'0123456789 \t", max_size=20))
def test_any_text_is_a_measure_or_a_usage_error(written: str) -> None:
    try:
        printed = names(written)
    except UsageError:
        return
    assert names(*printed) == printed, "a printed name is itself a name"


def test_counts_are_totals() -> None:
    assert all(is_summed_measure(name) for name in ("NumQ", "NumRel(rel=2)", "NumRet"))
    assert not any(is_summed_measure(name) for name in ("nDCG@10", "NumRetort"))


GRADED = Qrels({"q": {"a": 3, "b": 1}, "p": {"a": 0, "b": 2}})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("AP", "relevant: grade >= 1"),
        ("AP(rel=2)", "relevant: grade >= 2"),
        ("NumRet(rel=1)", "relevant: grade >= 1"),
        ("INQUIRE_nDCG@50", "relevant: grade >= 1"),
        ("T2Ranking_R(rel=2)@50", "relevant: grade >= 2"),
        ("nDCG@10", "gain: grade, discount: log2(rank + 1)"),
        ("nDCG(gains={3:7,2:3})", "gain: grade (2 counts 3, 3 counts 7), discount: log2(rank + 1)"),
        ("nDCG(dcg='exp-log2')@10", "gain: 2^grade - 1, discount: log2(rank + 1)"),
        ("Judged@10", ""),
        ("NumRet", ""),
        ("ERR@20", ""),
    ],
)
def test_reading(name: str, words: str) -> None:
    assert describe_grade_use(name) == words


def test_note() -> None:
    assert measure_grade_note(GRADED, ["AP", "nDCG@10", "P(rel=2)@5", "R@5"]) == (
        "AP, R@5: grades from 1 count as relevant, and these judgments have grades up to 3. "
        "TREC Deep Learning counts from 2: AP(rel=2)."
    )


def test_nothing_to_beware_of() -> None:
    assert measure_grade_note(GRADED, ["nDCG@10", "AP(rel=2)", "NumRet"]) == ""
    assert measure_grade_note(Qrels({"q": {"a": 1}}), ["AP"]) == ""
    assert measure_grade_note(Qrels({}), ["AP"]) == ""


def test_a_threshold_above_all_grades() -> None:
    assert "grade 4" in relevance_threshold_note(GRADED, ["AP", "P(rel=4)@5"])
    assert "grade 4" in relevance_threshold_note(GRADED, ["nDCG@10"], 4)
    assert relevance_threshold_note(GRADED, ["AP(rel=3)", "nDCG@10", "NumRet"], 3) == ""
    assert "grade 1" in relevance_threshold_note(Qrels({"q": {"a": 0, "b": -1}}), ["nDCG@10"])


def test_compare_tells() -> None:
    runs = [Run([Ranking.from_order(Query(id="q"), [Document(id=doc)])], name=doc) for doc in "ab"]
    assert any("grades from 1 count" in note for note in compare_runs(GRADED, runs, "AP").notes)
    assert not any("grades from" in note for note in compare_runs(GRADED, runs, "AP", relevant=2).notes)


def test_judgments_of_another_collection() -> None:
    run = Run(
        [Ranking.from_order(Query(id="1", text=""), [Document(id="a", text=""), Document(id="b", text="")])], name="r"
    )
    assert "No document of run 'r' is judged in other" in evaluation_overlap_note(
        Qrels({"1": {"x": 1}, "2": {"a": 1}}, name="other"), run
    )
    assert evaluation_overlap_note(Qrels({"1": {"b": 0}}), run) == ""  # judged, and not relevant
    assert evaluation_overlap_note(Qrels({"2": {"x": 1}}), run) == ""  # no query in common, an error of its own
