"""How many pairs of real systems differ: known counts on the runs of two years of TREC."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank.evaluation import compare_all_runs, read_score_matrix

pytestmark = pytest.mark.shared

COUNTS = {
    "adhoc5_ap": {
        "t": {"none": 1164, "bonferroni": 457, "holm": 470, "bh": 1111, "by": 814},
        "wilcoxon": {"none": 1260, "bonferroni": 574, "holm": 594, "bh": 1213, "by": 958},
        "tukey-anova": {"none": 537},
    },
    "adhoc8_ap": {
        "t": {"none": 5981, "bonferroni": 2982, "holm": 3084, "bh": 5801, "by": 4784},
        "wilcoxon": {"none": 6055, "bonferroni": 3117, "holm": 3221, "bh": 5909, "by": 4881},
        "tukey-anova": {"none": 3423},
    },
}


@pytest.mark.parametrize("name", COUNTS)
def test_eleven_columns(shared: Path, name: str) -> None:
    matrix = read_score_matrix(shared / f"data/trec_adhoc_scores/{name}.csv")
    for test, columns in COUNTS[name].items():
        found = {
            correction: int(compare_all_runs(matrix, test, correction).significant.sum()) for correction in columns
        }
        assert found == columns, test


@pytest.mark.parametrize(("name", "count"), [("adhoc5_ap", 425), ("adhoc8_ap", 2680)])
def test_randomised_tukey_is_within_five_percent(shared: Path, name: str, count: int) -> None:
    matrix = read_score_matrix(shared / f"data/trec_adhoc_scores/{name}.csv")
    for seed in range(3):
        found = compare_all_runs(matrix, f"tukey-randomised,permutations=2000,seed={seed}").significant.sum()
        assert found == pytest.approx(count, rel=0.05)
