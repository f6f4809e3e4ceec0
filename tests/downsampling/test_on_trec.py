"""Choosing on TREC's runs: the whole is what reference/evaluation.md computed, and what was found stays found."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank.downsampling import Goal, choose_fewest_queries, choose_smallest_pool
from rerank.evaluation import read_score_matrix
from rerank.io.run_files import read_qrels, read_run

pytestmark = pytest.mark.shared
BOTH = Goal(tau=0.9, recall=0.9, precision=0.9)


def test_queries_of_trec_8(shared: Path) -> None:
    matrix = read_score_matrix(shared / "data/trec_adhoc_scores/adhoc8_ap.csv")
    found = choose_fewest_queries(matrix, Goal(tau=0.9), sizes=[28, 37], seeds=20)
    assert (found.whole["pairs"], found.whole["significant"]) == (8256, 5801)
    (_, more, fewer) = found.steps
    assert fewer.figures["tau"] == pytest.approx(0.898, abs=0.005)
    assert fewer.figures["recall"] == pytest.approx(0.837, abs=0.01)
    assert more.figures["recall"] == pytest.approx(0.912, abs=0.01)


def test_pools_of_trec_deep_learning_2019(shared: Path) -> None:
    folder = shared / "data/trec_dl_runs/dl19/official"
    runs = [read_run(path, name=path.name.removesuffix(".run.gz")) for path in sorted(folder.iterdir())]
    qrels = read_qrels(shared / "data/qrels/qrels.dl19-passage.txt")
    found = choose_smallest_pool(runs, qrels, BOTH, makers=["bm25base_p"])
    assert (found.whole["pairs"], found.whole["significant"]) == (666, 465)
    assert found.chosen is not None
    assert (found.chosen.size, found.chosen.more["documents"]) == (30, 4756)
    fates = {fate: len(pairs) for fate, pairs in found.pairs.items()}
    assert fates == {"kept": 445, "lost": 20, "new": 36, "reversed": 0}
    deepest = found.steps[0]
    assert (deepest.size, deepest.figures["AA"]) == (100, 452)
