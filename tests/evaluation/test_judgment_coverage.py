"""Judged fractions and bounds of runs."""

from __future__ import annotations

import pytest

from rerank.evaluation import cover_runs_by_judgments, evaluate_run
from rerank.types import Document, Qrels, Query, Ranking, Run


def run_of(name: str, **lists: str) -> Run:
    rankings = [
        Ranking.from_scores(Query(id=q, text=""), [(Document(id=d, text=""), -float(n)) for n, d in enumerate(docs)])
        for q, docs in lists.items()
    ]
    return Run(rankings, name=name)


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
