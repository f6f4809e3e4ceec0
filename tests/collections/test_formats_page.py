"""The selectors that the documentation shows are opened as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rerank.collections import describe_collection, open_collection, open_collection_qrels

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/formats.md", "data/README.md")
SELECTOR = re.compile(r"`((?:beir|trec|jsonl|cranfield|requests):[^`\s]*data/[^`\s]*)`")


def shown() -> list[str]:
    return sorted({selector for page in PAGES for selector in SELECTOR.findall((ROOT / page).read_text("utf-8"))})


@pytest.mark.parametrize("selector", shown())
def test_selectors_on_the_page(selector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    told = describe_collection(open_collection(selector))
    assert told["documents"] + told["queries"] > 0


def test_every_sample_folder_is_shown_and_every_provider_described() -> None:
    folders = {path.name for path in (ROOT / "data").iterdir() if path.is_dir()}
    assert folders == {match for selector in shown() for match in re.findall(r"data/([a-z]+)", selector)}
    page = (ROOT / "docs/formats.md").read_text("utf-8")
    assert re.findall(r"^### `(\w+):`", page, re.M) == ["beir", "trec", "jsonl", "cranfield", "requests", "irds"]


def test_judgments_of_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert open_collection_qrels("cranfield:data/cranfield")[0]["1"] == {"1": 4, "2": 2, "4": 0}
