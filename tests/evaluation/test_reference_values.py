"""Published numbers, reproduced from the data beside the checkout: candidates, and counts of significant pairs.

The means that NIST published are in `test_nist_summaries`.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from rerank.collections import SupportsCandidates, open_collection
from rerank.evaluation import Scores, compare_evaluated_runs, evaluate_runs
from rerank.io.run_files import read_qrels

pytestmark = pytest.mark.shared


def test_the_bm25_candidates_of_dl19(shared: Path) -> None:
    qrels = read_qrels(shared / "data/qrels/qrels.dl19-passage.txt")
    lists = open_collection(f"requests:{shared}/data/msmarco_candidates/BM25/retrieve_results_dl19.json.gz")
    assert isinstance(lists, SupportsCandidates)
    (scores,) = evaluate_runs(qrels, [lists.candidates()], ["nDCG@10"])
    assert len(scores.queries) == 43
    assert scores.missing == scores.unjudged == ()
    assert f"{scores.mean('nDCG@10'):.4f}" == "0.5058"


@pytest.mark.parametrize(
    ("file", "pairs", "t", "t_holm", "wilcoxon", "wilcoxon_holm"),
    [("adhoc5_ap", 1830, 1164, 470, 1260, 594), ("adhoc8_ap", 8256, 5981, 3084, 6055, 3222)],
)
def test_counts_of_significant_pairs_of_trec_5_and_8(
    shared: Path, file: str, pairs: int, t: int, t_holm: int, wilcoxon: int, wilcoxon_holm: int
) -> None:
    with (shared / f"data/trec_adhoc_scores/{file}.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    runs = [Scores(run=run, values={"AP": {str(n): float(row[run]) for n, row in enumerate(rows)}}) for run in rows[0]]
    found = compare_evaluated_runs(runs, "AP").pairs
    assert len(found) == pairs
    assert sum((pair.p or 1) <= 0.05 for pair in found) == t
    assert sum(pair.significant for pair in found) == t_holm
    assert sum(pair.p_wilcoxon <= 0.05 for pair in found) == wilcoxon
    # SciPy on raw differences gives 3221 for TREC-8: 0.3 - 0.2 and 0.2 - 0.1 differ in their last bit, so what is a
    # tie in four decimals gets two ranks there; rounded differences give one pair more
    assert sum(pair.p_wilcoxon_adjusted <= 0.05 for pair in found) == wilcoxon_holm
