"""Published numbers, reproduced from the data beside the checkout: NIST's means and counts of significant pairs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from rerank.collections import SupportsCandidates, open_collection
from rerank.evaluation import Scores, compare_scores, evaluate_all
from rerank.formats import read_qrels, read_run
from rerank.types import Run

pytestmark = pytest.mark.shared

EXACT = ["ndcg_cut_10", "ndcg_cut_100", "P_10", "P_100"]

#: The lists that we have end at rank 100. Runs with a query whose first relevant document stands below that have
#: another reciprocal rank than NIST, who had 1000 documents; MAP, bpref and recall at 1000 need those everywhere.
FIRST_HIT_BELOW_100 = {"UNH_exDL_bm25", "bm25base_ax_p", "runid5"}


def official_runs(shared: Path) -> list[Run]:
    files = sorted((shared / "data/trec_dl_runs/dl19/official").glob("*.run.gz"))
    return [read_run(file, name=file.name.removesuffix(".run.gz")) for file in files]


@pytest.mark.parametrize(("section", "relevant"), [("passages-eval", 2), ("trec_eval", 1)])
def test_all_37_official_runs_of_dl19_score_what_nist_published(shared: Path, section: str, relevant: int) -> None:
    published = json.loads((shared / "data/nist_summaries/dl2019.json").read_text(encoding="utf-8"))
    qrels = read_qrels(shared / "data/qrels/qrels.dl19-passage.txt")
    scores = evaluate_all(qrels, official_runs(shared), [*EXACT, "recip_rank"], relevant=relevant)
    assert len(scores) == 37
    differing = set()
    for entry in scores:
        assert len(entry.queries) == 43
        nist = published[entry.run][section]
        *exact, reciprocal = (f"{value:.4f}" for value in entry.summary().values())
        assert exact == [f"{nist[name]:.4f}" for name in EXACT], entry.run
        if reciprocal != f"{nist['recip_rank']:.4f}":
            differing.add(entry.run)
    assert differing <= FIRST_HIT_BELOW_100


def test_the_bm25_candidates_of_dl19(shared: Path) -> None:
    qrels = read_qrels(shared / "data/qrels/qrels.dl19-passage.txt")
    lists = open_collection(f"requests:{shared}/data/msmarco_candidates/BM25/retrieve_results_dl19.json.gz")
    assert isinstance(lists, SupportsCandidates)
    (scores,) = evaluate_all(qrels, [lists.candidates()], ["nDCG@10"])
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
    found = compare_scores(runs, "AP").pairs
    assert len(found) == pairs
    assert sum(pair.p <= 0.05 for pair in found) == t
    assert sum(pair.significant for pair in found) == t_holm
    assert sum(pair.p_wilcoxon <= 0.05 for pair in found) == wilcoxon
    # SciPy on raw differences gives 3221 for TREC-8: 0.3 - 0.2 and 0.2 - 0.1 differ in their last bit, so what is a
    # tie in four decimals gets two ranks there; rounded differences give one pair more
    assert sum(pair.p_wilcoxon_adjusted <= 0.05 for pair in found) == wilcoxon_holm
