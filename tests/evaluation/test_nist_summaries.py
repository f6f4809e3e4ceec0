"""NIST's summaries of the 37 official passage runs of TREC 2019 Deep Learning, from the first 100 documents of each.

NIST measured lists of up to 1,000 documents; the files beside the checkout end at rank 100. What looks no further must
be equal in all four published decimals. What looks further must be equal for the runs that have nothing relevant below
rank 100, and must differ for all others. Which these are is read off NIST's own numbers.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from rerank.evaluation import Scores, evaluate_runs
from rerank.io.run_files import read_qrels, read_run
from rerank.types import Run

pytestmark = pytest.mark.shared

#: trec_eval's names of what the first 100 documents decide.
SHALLOW = ["ndcg_cut_10", "ndcg_cut_100", "P_10", "P_100", "recall_10", "recall_100"]
#: The rest of a summary; relevant documents below rank 100 change them. bpref looks at judged documents only, and only
#: at what stands above a relevant one.
DEEP = ["ndcg", "ndcg_cut_1000", "P_1000", "recall_1000", "map", "bpref"]
#: Section of a summary -> the lowest grade that its binary measures count.
LEVELS = {"passages-eval": 2, "trec_eval": 1}
#: Lowest grade -> runs with a query whose first relevant document stands below rank 100; our files do not hold it.
FIRST_HIT_BELOW_100 = {2: {"UNH_exDL_bm25", "bm25base_ax_p", "runid5"}, 1: {"UNH_exDL_bm25", "bm25base_ax_p"}}


@cache
def measured(shared: Path, relevant: int) -> list[Scores]:
    folder = shared / "data/trec_dl_runs/dl19/official"
    files = sorted(folder.glob("*.run.gz"))
    runs: list[Run] = [read_run(file, name=file.name.removesuffix(".run.gz")) for file in files]
    qrels = read_qrels(shared / "data/qrels/qrels.dl19-passage.txt")
    return evaluate_runs(qrels, runs, [*SHALLOW, *DEEP, "recip_rank"], relevant=relevant)


def differing(shared: Path, section: str, name: str) -> set[str]:
    """The runs of which NIST published another value."""
    published = json.loads((shared / "data/nist_summaries/dl2019.json").read_text(encoding="utf-8"))
    at = [*SHALLOW, *DEEP, "recip_rank"].index(name)
    found = {entry.run: list(entry.summary().values())[at] for entry in measured(shared, LEVELS[section])}
    assert len(found) == 37
    return {run for run, value in found.items() if f"{value:.4f}" != f"{published[run][section][name]:.4f}"}


def deeper(shared: Path, section: str) -> set[str]:
    """The runs that have something relevant below rank 100, by NIST's own recall."""
    published = json.loads((shared / "data/nist_summaries/dl2019.json").read_text(encoding="utf-8"))
    runs = {entry.run: published[entry.run][section] for entry in measured(shared, LEVELS[section])}
    return {run for run, nist in runs.items() if nist["recall_1000"] != nist["recall_100"]}


def test_what_was_measured(shared: Path) -> None:
    for level in LEVELS.values():
        for entry in measured(shared, level):
            assert (len(entry.queries), entry.missing) == (43, ())
    assert "AP(rel=2)" in measured(shared, 2)[0].measures


@pytest.mark.parametrize("section", LEVELS)
@pytest.mark.parametrize("name", SHALLOW)
def test_the_first_100_documents_decide(shared: Path, section: str, name: str) -> None:
    assert differing(shared, section, name) == set()


@pytest.mark.parametrize("section", LEVELS)
def test_reciprocal_rank(shared: Path, section: str) -> None:
    assert differing(shared, section, "recip_rank") == FIRST_HIT_BELOW_100[LEVELS[section]]


@pytest.mark.parametrize("section", LEVELS)
@pytest.mark.parametrize("name", DEEP)
def test_documents_below_rank_100_are_all_that_differs(shared: Path, section: str, name: str) -> None:
    graded = name.startswith("ndcg")  # every grade gains, whatever counts as relevant
    assert differing(shared, section, name) == deeper(shared, "trec_eval" if graded else section)
