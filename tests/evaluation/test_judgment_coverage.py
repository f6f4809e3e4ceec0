"""Judged fractions of runs, and bounds of measures against all completions of the judgments."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

from rerank.evaluation import cover_runs_by_judgments, evaluate_run, evaluate_runs
from rerank.evaluation.judgment_coverage import bound_measures
from rerank.io.run_files import read_qrels, read_run
from rerank.types import Qrels, Run
from tests.ranked import run_of

QRELS = Qrels({"q": {"a": 2, "b": 0, "c": -1}, "r": {"a": 1, "b": 1}})
FULL = run_of("full", q="ab", r="ba")
THIN = run_of("thin", q="axc", r="ba")


def test_judged_fractions_are_those_of_ir_measures() -> None:
    (full, thin), shown = cover_runs_by_judgments(QRELS, [FULL, THIN], ["P@3", "AP", "P@1", "NumRet", "Judged@3"])
    assert full.judged == {"P@3": 1.0, "AP": 1.0, "P@1": 1.0}
    assert thin.judged["P@3"] == evaluate_run(QRELS, THIN, ["Judged@3"]).mean("Judged@3") == pytest.approx(2 / 3)
    assert shown == ["P@3", "AP"]
    assert full.columns(shown) == {"judged@3": "1.0000", "judged@10": "1.0000", "P@3 bounds": "[0.5000, 0.5000]"}
    assert thin.columns(shown) == {"judged@3": "0.6667", "judged@10": "0.6667", "P@3 bounds": "[0.5000, 0.8333]"}


def test_bounds_of_all_measures_or_none() -> None:
    (full,), shown = cover_runs_by_judgments(QRELS, [FULL], ["P@1"], bounds=True)
    assert (shown, full.bounds) == (["P@1"], {"P@1": (1.0, 1.0)})
    (thin,), shown = cover_runs_by_judgments(QRELS, [THIN], ["P@3"], bounds=False)
    assert (shown, thin.bounds, thin.columns(shown)) == ([], {}, {})


def test_queries_without_documents_are_not_unjudged() -> None:
    (partial,), shown = cover_runs_by_judgments(QRELS, [run_of("partial", q="ab")], ["P@2"])
    assert (partial.judged, shown) == ({"P@2": 1.0}, [])


MEASURES = ["P@3", "Success@3", "RR@3", "R@3", "AP@3", "nDCG@3", "AP@4", "nDCG@4"]


def one_list(*docs: str) -> Run:
    return run_of("run", q=docs)


@pytest.mark.parametrize("seed", range(12))
def test_bounds_are_the_extremes_of_all_completions(seed: int) -> None:
    chance = np.random.default_rng(seed)
    run = one_list(*(f"d{rank}" for rank in range(5)))
    judged = {f"d{n}": int(chance.integers(0, 4)) for n in chance.permutation(9)[:5]} | {"other": 3}
    for cutoff in (3, 4):
        asked = [name for name in MEASURES if name.endswith(str(cutoff))]
        holes = [f"d{rank}" for rank in range(cutoff) if f"d{rank}" not in judged]
        values = [
            evaluate_run(Qrels({"q": {**judged, **dict(zip(holes, grades, strict=True))}}), run, asked, relevant=2)
            for grades in product(range(4), repeat=len(holes))
        ]
        bounds = bound_measures(Qrels({"q": judged}), run, asked, relevant=2)
        assert list(bounds) == list(values[0].values)
        for name, found in bounds.items():
            reached = [entry.values[name]["q"] for entry in values]
            assert found["q"] == pytest.approx((min(reached), max(reached))), (name, judged)


def test_rbp_has_the_residual_of_moffat_and_zobel() -> None:
    # ranks 2 and 4 are unjudged; p = 0.5: known .5, unknown .25 + .0625
    qrels = Qrels({"q": {"a": 1, "c": 0, "b": -1}})
    assert bound_measures(qrels, one_list("a", "b", "c", "d"), ["RBP(p=0.5,rel=1)"]) == {
        "RBP(p=0.5,rel=1)": {"q": (0.5, 0.8125)}
    }


def test_deep_cutoffs_and_large_grades_need_no_large_arrays() -> None:
    qrels = Qrels({"q": {"a": 2**30, "z": 1}})
    bounds = bound_measures(qrels, one_list("x", "a"), ["nDCG@2147483647", "AP@2147483647"])
    second = 1 / np.log2(3)
    assert [row["q"] for row in bounds.values()] == [
        pytest.approx((2**30 * second / (2**30 + second), 1)),
        pytest.approx((1 / 4, 2 / 3)),
    ]


def test_measures_without_bounds_are_omitted() -> None:
    asked = ["nDCG", "AP", "RR", "Bpref", "RBP", "Judged@3", "nDCG(judged_only=True)@3", "nDCG(gains={1:2})@3", "P@1"]
    assert list(bound_measures(Qrels({"q": {"a": 1}}), one_list("a"), asked)) == ["P@1"]


def test_queries_without_documents_or_relevant_documents() -> None:
    qrels = Qrels({"q": {"a": 0}, "r": {"a": 2}})
    bounds = bound_measures(qrels, one_list("a", "b"), ["nDCG@2", "AP@2", "R@2", "RR@2"])
    assert {row["r"] for row in bounds.values()} == {(0.0, 0.0)}
    found = {name: row["q"] for name, row in bounds.items()}
    assert found == {"nDCG@2": pytest.approx((0, 1 / np.log2(3))), "AP@2": (0, 0.5), "R@2": (0, 1), "RR@2": (0, 0.5)}


def test_unjudged_documents_do_not_exceed_the_highest_grade() -> None:
    """With grades up to 2, no document may become relevant from grade 3 on."""
    asked = ["AP(rel=3)@3", "P(rel=3)@3", "R(rel=3)@3", "RR(rel=3)@3", "Success(rel=3)@3", "RBP(p=0.5,rel=3)"]
    bounds = bound_measures(Qrels({"q": {"a": 2, "z": 1}}), one_list("x", "a", "y"), asked)
    assert [row["q"] for row in bounds.values()] == [(0, 0)] * 6


@pytest.mark.shared
def test_bounds_of_two_runs_do_not_decide_their_order(shared: Path) -> None:
    """The figures of docs/measures.md: pairs of later runs of DL 2019 whose order judgments can turn."""
    files = sorted((shared / "data/trec_dl_runs/dl19/extra").glob("*.gz"))
    qrels = read_qrels(shared / "data/qrels/qrels.dl19-passage.txt")
    runs = [read_run(file, name=file.name) for file in files]
    unjudged = [
        {q: {doc.id for doc in run[q].docs[:10]} - judged.keys() for q, judged in qrels.items() if q in run}
        for run in runs
    ]
    bounds = [bound_measures(qrels, run, ["nDCG@10"])["nDCG@10"].values() for run in runs]
    lowest, highest = (np.array([[pair[end] for pair in each] for each in bounds]).mean(axis=1) for end in (0, 1))

    def means(completed: Qrels, chosen: list[Run]) -> list[float]:
        return [scores.mean("nDCG@10") for scores in evaluate_runs(completed, chosen, ["nDCG@10"])]

    def can_turn(low: int, high: int) -> bool:
        for others in ({}, unjudged[high]):  # all unjudged documents of the lower run are relevant, or only its own
            docs = {q: unjudged[low].get(q, set()) - others.get(q, set()) for q in qrels}
            completed = Qrels({q: {**judged, **dict.fromkeys(docs[q], 3)} for q, judged in qrels.items()})
            below, above = means(completed, [runs[low], runs[high]])
            if below > above:
                return True
        return False

    order = np.argsort(means(qrels, runs), kind="stable")
    pairs = [(int(low), int(high)) for low, high in combinations(order, 2)]
    overlapping = [pair for pair in pairs if highest[pair[0]] >= lowest[pair[1]]]
    turned = [pair for pair in pairs if can_turn(*pair)]
    assert (len(pairs), len(overlapping)) == (276, 162)
    assert (len(set(turned) & set(overlapping)), len(set(turned) - set(overlapping))) == (157, 32)
