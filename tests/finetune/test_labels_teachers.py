"""Teachers: what each says, how several are joined, and what becomes a list. The first part runs over all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.experiment import run_experiment
from rerank.experiment.spec import Execution, RunSpec
from rerank.finetune.labels.labelling import LabellingPlan, LabellingResult, make_labels, prepare_labelling
from rerank.finetune.labels.teachers import TeacherRanking, open_teacher, teachers
from rerank.finetune.labels.teachers.base import rank_by_list, rank_by_scores
from rerank.finetune.labels.teachers.built_in import Dense, Method, scores_of_run
from rerank.store import RunFolder
from rerank.types import Document, Query, Ranking
from tests.raising import raises
from tests.retrieval.encoders import Fake

Spec = Callable[..., RunSpec]
TWO = LabellingPlan(teachers=("x", "y"))
every = pytest.mark.parametrize("name", teachers.names())


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rerank.indexing.text_encoder.load_text_encoder", lambda name, options: Fake(8))
    monkeypatch.setattr("rerank.retrieval.base.model_folders.locate_retrieval_model", lambda name: name)


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """Three lists of six documents, judged, and a fourth query with a blank text."""
    rows, grades = [], []
    for q in range(4):
        docs = [{"docid": f"d{q}-{n}", "doc": f"text number {n} of list {q}", "score": 9 - n} for n in range(6)]
        rows.append({"query": {"qid": f"q{q}", "text": f"question number {q}" if q < 3 else " "}, "candidates": docs})
        grades += [f"q{q} 0 d{q}-{n} {n % 3}" for n in range(6) if q < 2]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (tmp_path / "qrels.txt").write_text("\n".join(grades), "utf-8")

    def make(**more: Any) -> RunSpec:
        values = {"collection": "requests:lists.jsonl", "first_stage": "candidates", "model": "fake:reversed"}
        return RunSpec.make({**values, **more})

    return make


def labelled(spec: RunSpec, *names: str, execution: Execution | None = None, **more: Any) -> LabellingResult:
    return make_labels(
        prepare_labelling(spec, execution or Execution(), LabellingPlan(teachers=names or ("method",), **more))
    )


def ids(made: LabellingResult, query: str = "q0") -> list[str]:
    """A query's label, the documents by their numbers."""
    (one,) = (label for label in made.labels if label.qid == query)
    return [name.partition("-")[2] for name in one.final]


def selector(name: str, folder: Path) -> str:
    if name == "run":
        lines = [f"q{q} Q0 d{q}-{n} 0 {n} x" for q in range(3) for n in range(6)]
        (folder / "a.trec").write_text("\n".join(lines), "utf-8")
    return {"run": f"run:{folder / 'a.trec'}", "search": "search:(bm25,k1=1.2)"}.get(name, name)


@every
def test_it_orders_all_candidates_of_every_query(name: str, spec: Spec, tmp_path: Path) -> None:
    ready = prepare_labelling(spec(qrels="qrels.txt"), Execution(), LabellingPlan(teachers=(selector(name, tmp_path),)))
    (teacher,) = ready.teachers.values()
    opinions, told = teacher.label(ready.task)
    json.dumps(told)
    assert list(opinions) == list(ready.task.candidates)
    for query, opinion in opinions.items():
        candidates = ready.task.candidates[query].doc_ids
        assert sorted(opinion.order) == sorted(candidates)
        assert set(opinion.scores) <= set(candidates)
        assert opinion.unranked <= set(candidates)
        known = [opinion.scores[one] for one in opinion.order if one in opinion.scores]
        assert known == sorted(known, reverse=True)
    made = make_labels(ready)
    assert made.report["queries"] == len(ready.task.candidates)
    assert made.report["written"] + sum(made.report["left_out"].values()) == made.report["queries"]


@every
def test_it_says_what_it_is(name: str) -> None:
    made = teachers.get(name)
    assert made.__doc__
    assert isinstance(made.runs, bool)


def test_a_method_is_a_run_that_can_be_gone_on_with(spec: Spec) -> None:
    execution = Execution(out=Path("folder"))
    made = labelled(spec(method="sliding,size=4,stride=2"), execution=execution)
    assert ids(made) == ["4", "5", "1", "0", "3", "2"]  # windows 2-5 and 0-3 of 0 1 2 3 4 5, each turned round
    told = made.report["teachers"]["sliding,size=4,stride=2 fake:reversed"]
    assert (told["windows"]["ok"], told["reused_calls"]) == (6, 0)
    again = labelled(spec(method="sliding,size=4,stride=2"), execution=execution)
    assert again.labels == made.labels
    assert again.report["teachers"]["sliding,size=4,stride=2 fake:reversed"]["reused_calls"] == 6


def test_a_full_list_reversed(spec: Spec) -> None:
    made = labelled(spec())
    assert ids(made) == ["5", "4", "3", "2", "1", "0"]
    assert made.labels[0].teacher == "fullrank fake:reversed"
    assert made.labels[0].query == "question number 0"
    assert not made.labels[0].scores
    assert made.report["left_out"] == {"the query is blank": 1}
    assert made.report["failed"] == [{"query": "q3", "why": "the query is blank"}]


def test_lists_with_a_failed_window_are_left_out_and_counted(spec: Spec) -> None:
    for seed in range(40):  # until one of two lists fails
        model = f"fake:fail,rate=0.3,seed={seed}"
        asked = spec(model=model, method="sliding,size=4,stride=2", max_queries=2, qrels="qrels.txt")
        made = labelled(asked)
        if (lost := made.report["left_out"].get("a window failed")) == 1:
            break
    (windows,) = (told["windows"] for told in made.report["teachers"].values())
    assert (lost, len(made.labels)) == (1, 1)
    assert windows["error"] >= 1
    kept = labelled(asked, keep_failed=True, execution=Execution(resume=True))
    assert (len(kept.labels), kept.report["failed_lists"]) == (2, 1)


def test_nothing_left_says_why(spec: Spec) -> None:
    made = labelled(spec(model="fake:fail", max_queries=2))
    assert not made.labels
    with raises(DataError, "2 lists", "2: a window failed", "--keep-failed"):
        made.check()


def test_methods_that_score_documents_hand_their_scores_on(spec: Spec) -> None:
    made = labelled(spec(method="pointwise", model="fake:perfect", qrels="qrels.txt", max_queries=2))
    assert made.labels[0].scores == pytest.approx((0, 1, 2, 0, 1, 2))
    assert ids(made) == ["2", "5", "1", "4", "0", "3"]
    assert Method().scored(spec(method="cross-encoder"))
    assert Method().scored(spec(method="qlm,first_stage=0"))
    assert not Method().scored(spec(method="qlm,first_stage=0.5"))
    assert not Method().scored(spec(method="sliding"))
    assert not Method().scored(spec(method="icr"))


def test_cross_encoders_scores_are_those_of_the_whole_list(spec: Spec) -> None:
    made = labelled(spec(method="full:relate", model="fake:reversed", max_queries=1))
    assert ids(made) == ["5", "4", "3", "2", "1", "0"]
    assert made.labels[0].scores == pytest.approx((-5, -4, -3, -2, -1, 0))
    folder = RunFolder(made.report["teachers"]["full:relate fake:reversed"]["folder"])
    assert list(scores_of_run(folder)) == ["q0"]


def test_scores_that_do_not_explain_the_order_are_not_handed_on(spec: Spec) -> None:
    summary = run_experiment(spec(method="full:relate", max_queries=1))
    folder = RunFolder(summary["folder"])
    (folder.path / "run.trec").write_text("".join(f"q0 Q0 d0-{n} {n} {9 - n} x\n" for n in range(6)), "utf-8")
    assert scores_of_run(folder) == {}


def test_judgments_fall_by_grade_and_ties_keep_their_order(spec: Spec) -> None:
    made = labelled(spec(qrels="qrels.txt"), "qrels")
    assert ids(made) == ["2", "5", "1", "4", "0", "3"]
    assert made.labels[0].scores == pytest.approx((0, 1, 2, 0, 1, 2))
    assert made.report["queries"] == 2  # only judged queries take part
    assert made.report["teachers"] == {"qrels": {"unjudged": 0}}


def test_lists_that_judgments_do_not_tell_apart_are_no_labels(spec: Spec, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("q0 0 d0-3 2\nq1 0 elsewhere 1\n", "utf-8")
    made = labelled(spec(qrels="one.txt"), "qrels")
    assert ids(made) == ["3", "0", "1", "2", "4", "5"]
    assert made.report["left_out"] == {"all candidates have the same grade": 1}
    assert made.report["teachers"]["qrels"]["unjudged"] == 11
    other = labelled(spec(qrels="qrels.txt"), "qrels:one.txt")  # another set of judgments than the collection's
    assert ids(other) == ids(made)
    with raises(DataError, "--qrels"):
        labelled(spec(), "qrels")


def test_what_a_run_lacks_comes_last_and_is_counted(spec: Spec, tmp_path: Path) -> None:
    (tmp_path / "a.trec").write_text("q0 Q0 d0-4 1 9 x\nq0 Q0 other 2 8 x\nq0 Q0 d0-1 3 7 x\nq2 Q0 z 1 1 x\n", "utf-8")
    made = labelled(spec(max_queries=3), "run:a.trec")
    assert ids(made) == ["4", "1", "0", "2", "3", "5"]
    assert not made.labels[0].scores  # not all have one
    assert made.report["silent"] == 4
    assert made.report["left_out"] == {"the run has no list for the query": 1, "the run has none of the candidates": 1}


def test_embeddings_score_the_candidates_alone(spec: Spec) -> None:
    made = labelled(spec(max_queries=2), "dense")
    fake = Fake(8)
    wanted = [float(fake.vector("question number 0") @ fake.vector(f"text number {n} of list 0")) for n in range(6)]
    assert made.labels[0].scores == pytest.approx(wanted, abs=1e-6)
    assert ids(made) == [str(n) for n in np.argsort(-np.array(wanted), kind="stable")]
    assert made.report["teachers"] == {"dense": {"embedded": 12}}


def test_embeddings_are_kept(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    first = labelled(spec(), "dense")
    fake = Fake(8)
    monkeypatch.setattr("rerank.indexing.text_encoder.load_text_encoder", lambda name, options: fake)
    assert labelled(spec(), "dense").labels == first.labels
    assert fake.batches == []
    assert first.report["left_out"] == {"the query is blank": 1}


def test_a_search_is_a_teacher_under_its_own_name(spec: Spec) -> None:
    plain, named = (labelled(spec(max_queries=3), name) for name in ("bm25,k1=1.2", "search:(bm25,k1=1.2)"))
    assert [one.final for one in plain.labels] == [one.final for one in named.labels]
    assert plain.labels[0].teacher == "bm25,k1=1.2"


def test_names_that_are_none() -> None:
    with raises(UnknownNameError, "'method'"):
        open_teacher("methud")
    with raises(UnknownNameError, "'k1'"):
        open_teacher("bm25,k=1")
    with raises(UsageError, "index="):
        Dense(index="hnsw")
    with raises(UsageError, "--teacher bm25", "--weights"):
        LabellingPlan(teachers=("bm25", "bm25"))
    with raises(UsageError, "--weights is '1', but there are 2 teachers"):
        LabellingPlan(teachers=("bm25", "qrels"), weights="1")


def ranking(names: str) -> Ranking:
    return Ranking.from_order(Query(id="q", text="w"), [Document(id=name) for name in names])


def test_opinions_from_rankings_and_scores() -> None:
    assert rank_by_list(ranking("abcd"), ["d", "x", "b"]) == TeacherRanking(
        order=tuple("dbac"), unranked=frozenset("ac")
    )
    found = rank_by_scores(ranking("abcd"), {"d": 1.0, "b": 1.0, "a": 2.0, "z": 5.0})
    assert found.order == tuple("abdc")
    assert (found.scores, found.unranked) == ({"a": 2.0, "b": 1.0, "d": 1.0}, frozenset("c"))


def test_fusion_by_ranks() -> None:
    opinions = {"x": rank_by_list(ranking("abc"), "cab"), "y": rank_by_list(ranking("abc"), "ca")}
    fused = TWO.fuse_rankings(ranking("abc"), opinions)
    assert fused.order == tuple("cab")
    assert fused.scores == pytest.approx({"c": 2 / 61, "a": 2 / 62, "b": 1 / 63})
    weighted = replace(TWO, weights="0+1").fuse_rankings(ranking("abc"), opinions)
    assert weighted.scores == pytest.approx({"c": 1 / 61, "a": 1 / 62, "b": 0})
    silent = TWO.fuse_rankings(ranking("abcd"), {name: rank_by_list(ranking("abcd"), "c") for name in "xy"})
    assert (silent.order, silent.unranked) == (tuple("cabd"), frozenset("abd"))


def test_fusion_by_scores() -> None:
    opinions = {
        "x": rank_by_scores(ranking("abc"), {"a": 0.0, "b": 1.0, "c": 2.0}),
        "y": rank_by_scores(ranking("abc"), {"a": 30.0, "b": 20.0}),
    }
    z = 1.5**0.5  # (2 - 1) / the deviation of 0, 1, 2
    fused = replace(TWO, fuse="z-score").fuse_rankings(ranking("abc"), opinions)
    assert fused.scores == pytest.approx({"a": -z + 1, "b": 0 - 1, "c": z - 1})  # y's lowest is what c gets from it
    assert fused.order == tuple("cab")
    assert replace(TWO, fuse="min-max").fuse_rankings(ranking("abc"), opinions).scores == pytest.approx(
        {"a": 1, "b": 0.5, "c": 1}
    )


def test_a_failed_teacher_fails_the_whole() -> None:
    opinions = {"x": rank_by_list(ranking("ab"), "ba"), "y": TeacherRanking(order=("a", "b"), failed="no list")}
    assert TWO.fuse_rankings(ranking("ab"), opinions).failed == "y: no list"


def test_scores_are_asked_for_before_anything_is_run(spec: Spec) -> None:
    plan = LabellingPlan(teachers=("method", "bm25"), fuse="z-score")
    with raises(UsageError, "'method'", "--fuse rrf"):
        prepare_labelling(spec(), Execution(), plan)
    prepare_labelling(
        spec(), Execution(), LabellingPlan(teachers=("method",), fuse="z-score")
    )  # alone nothing is joined
    with raises(UnknownNameError, "z-score"):
        LabellingPlan(fuse="zscore")


def test_several_teachers(spec: Spec) -> None:
    made = labelled(spec(qrels="qrels.txt"), "method", "qrels")
    assert made.labels[0].teacher == "fullrank fake:reversed + qrels"
    reversed_, judged = "543210", "251403"
    sums = {n: 1 / (61 + reversed_.index(n)) + 1 / (61 + judged.index(n)) for n in "012345"}
    assert ids(made) == sorted("012345", key=lambda n: -sums[n])


def test_what_it_would_take(spec: Spec) -> None:
    assert prepare_labelling(spec(), Execution(), LabellingPlan()).estimate()["calls"] == 4
    assert prepare_labelling(spec(), Execution(), LabellingPlan(teachers=("bm25",))).estimate()["calls"] == 0


def test_short_lists_are_left_out(spec: Spec) -> None:
    made = labelled(spec(depth=1))
    assert made.report["left_out"] == {"too few candidates": 4}
    assert len(labelled(spec(depth=1, max_queries=2), min_docs=1).labels) == 2
