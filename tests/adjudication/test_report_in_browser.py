"""The report of a study as a reader sees it: drawn, switched and pointed at in Chromium."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank.adjudication.conclusions import cross_significance_procedures
from rerank.adjudication.studies import StudyDesign, run_study
from rerank.adjudication.study_report import write_study_report
from rerank.adjudication.walks import AdjudicationBudget
from tests.adjudication.test_studies import made

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study's page."""
    runs, qrels = made()
    design = StudyDesign(
        methods=("depth", "mtf", "rrf"),
        budgets=tuple(AdjudicationBudget.parse(text) for text in ("10%", "30%", "60%")),
        measures=("nDCG@10", "AP(rel=2)"),
        procedures=cross_significance_procedures(["t", "wilcoxon"], ["bh"]),
        relevant=2,
        seeds=3,
    )
    return write_study_report(run_study(runs, qrels, design), tmp_path_factory.mktemp("study") / "report.html")


@pytest.fixture
def page(report: Path) -> Iterator[Any]:
    """The page, opened; what its script complains about fails the test, and so does any request to elsewhere."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "Chromium is not installed: apt-get install chromium"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        wrong: list[str] = []
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        opened.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith("file:") else None)
        opened.goto(report.as_uri())
        yield opened
        browser.close()
        assert wrong == []


def test_curves_follow_what_is_chosen(page: Any) -> None:
    assert page.locator("figure svg").count() == 6
    first = page.locator('[data-curve="recall"] circle')
    assert first.count() == 9  # three methods at three budgets
    before = page.locator('[data-curve="tau"]').inner_html()
    page.select_option("#measure", "AP(rel=2)")
    assert page.locator('[data-curve="tau"]').inner_html() != before
    page.get_by_role("button", name="mtf").click()
    assert page.locator('[data-curve="recall"] circle').count() == 6


def test_the_categories_sum_to_the_pairs(page: Any) -> None:
    rows = page.locator("#categories tbody tr")
    assert rows.count() == 9
    cells = rows.first.locator("td").all_inner_texts()
    assert sum(map(float, cells[3:11])) == 15


def test_a_column_is_sorted_by_its_head(page: Any) -> None:
    def column(number: int) -> list[str]:
        texts: list[str] = page.locator(f"#categories tbody td:nth-child({number})").all_inner_texts()
        return texts

    page.locator("#categories th button", has_text="recall").click()
    assert column(13) == sorted(column(13), reverse=True)
    page.locator("#categories th button", has_text="recall").click()
    assert column(13) == sorted(column(13))
    assert page.locator("#categories th[aria-sort=ascending]").inner_text().startswith("recall")
    page.locator("#categories th button", has_text="budget").click()
    assert column(2) == sorted(column(2))


def test_axes_are_named_and_files_are_linked(page: Any) -> None:
    texts = page.locator('[data-curve="tau_ap"] text').all_text_contents()
    assert {"tau_AP", "judged fraction of the pool"} <= set(texts)
    links = {link.get_attribute("href") for link in page.locator("a").all()}
    assert links == {"study.json", "study.csv", "systems.csv"}


def test_at_most_eight_curves_at_first(page: Any, tmp_path: Path) -> None:
    runs, qrels = made()
    methods = ("docid", "depth", "ntcir", "borda", "rrf", "dcg", "rbp-a", "hedge", "mm", "mtf")
    design = StudyDesign(methods=methods, budgets=(AdjudicationBudget.parse("30%"),), relevant=2, seeds=2, resamples=20)
    page.goto(write_study_report(run_study(runs, qrels, design), tmp_path / "report.html").as_uri())
    assert page.locator(".legend button").count() == 10
    assert page.locator('.legend button[aria-pressed="true"]').count() == 8
    assert page.locator('[data-curve="recall"] circle').count() == 8
    assert "No significant difference" in page.locator("main").inner_text()


def test_a_pair_that_is_pointed_at_is_named(page: Any) -> None:
    page.locator("#map").hover(position={"x": 500, "y": 60})
    assert re.match(r"<s\d> and <s\d>: ", page.locator("#pair").inner_text())
    assert page.locator("#fairness .bar").count() == 6
    assert page.locator("#key li").count() == 8


def test_it_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
