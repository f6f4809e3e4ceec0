"""The page of results repeats committed figures: the log's, and those that the scores of the boards give."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs_scripts import load_docs_script

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ("first_stage", "ndcg10", "low", "high", "p", "corrected")


@pytest.fixture(scope="module")
def results() -> ModuleType:
    return load_docs_script("results")


def entries_of_log() -> dict[str, str]:
    """Return the entries of the log by anchor, with numbers without the zero before the point."""
    parts = re.split(r"^## (.+)$", (ROOT / "docs/log.md").read_text("utf-8"), flags=re.M)
    anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in parts[1::2]]
    return dict(zip(anchors, [re.sub(r"(?<!\d)0\.", ".", text) for text in parts[2::2]], strict=True))


def test_the_page_is_what_the_script_writes(results: ModuleType) -> None:
    assert (ROOT / "docs/results.md").read_text("utf-8") == results.render_results_page(), "run: python docs/results.py"


def test_every_figure_of_a_row_stands_in_its_entry_of_the_log(results: ModuleType) -> None:
    entries = entries_of_log()
    for row in results.read_result_rows():
        text = entries[row["entry"]]
        for figure in (row[key].strip("< ") for key in FIGURES if not row[key].startswith(">")):
            assert figure in text, (row["method"], figure)


def test_differences_are_those_of_the_means(results: ModuleType) -> None:
    for row in results.read_result_rows():
        difference = float(row["ndcg10"]) - float(row["first_stage"])
        assert float(row["difference"]) == pytest.approx(difference, abs=1.1e-4), row["method"]  # rounded means
        if row["low"]:
            assert float(row["low"]) < float(row["difference"]) < float(row["high"])
