"""The style sheet that all pages share."""

from __future__ import annotations

import re

import pytest

from rerank.io.reports import read_page_style

PAGES = {
    "rerank.leaderboard": "site.css",
    "rerank.adjudication": "report.css",
    "rerank.experiment": "demo_page.css",
    "rerank.serving": "playground/playground.css",
}


@pytest.mark.parametrize("package", PAGES)
def test_a_page_uses_the_shared_colours_and_loads_nothing(package: str) -> None:
    shared = read_page_style("rerank.io", "page.css")
    style = read_page_style(package, PAGES[package])
    assert style.startswith(shared[: len(shared) // 2])
    assert set(re.findall(r"var\((--\w+)\)", style)) <= set(re.findall(r"(--\w+):", style))
    own = style[len(shared) // 2 :].replace("@media print", "")
    assert not re.search(r"--(?:ink|soft|page|link): light-dark", own)
    assert not re.search(r"url\(|@import", style)
