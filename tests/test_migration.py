"""The code of other libraries in docs/migration.md; tests/test_docs.py runs ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.docs_scripts import DOCS
from tests.test_docs import blocks

#: The model of the page, which a test replaces.
MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"
#: RankZephyr needs vLLM and has 7 billion parameters, so only what reads and writes files is rank_llm's.
STAND_IN = """
from rank_llm.data import Result


class ZephyrReranker:
    def rerank_batch(self, requests):
        return [Result(query=one.query, candidates=one.candidates, invocations_history=[]) for one in requests]
"""


def run_other(title: str, **replaced: str) -> dict[str, Any]:
    """Run the block of the page with this title, which is the module of the library, and return its names."""
    pytest.importorskip(title)
    (block,) = (block for block in blocks((DOCS / "migration.md").read_text("utf-8")) if block.title == title)
    text = block.body
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    names: dict[str, Any] = {}
    exec(compile(text, title, "exec"), names)
    return names


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    pytest.importorskip("transformers")
    from tests.backends.pairs import save

    return save(tmp_path / "tiny")


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers(tiny: Path) -> None:
    assert run_other("sentence_transformers", **{MODEL: str(tiny)})["order"][0] in (0, 1)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_rerankers(tiny: Path) -> None:
    assert sorted(run_other("rerankers", **{MODEL: str(tiny)})["order"]) == ["a", "b"]


@pytest.mark.integrations
@pytest.mark.filterwarnings("ignore")
def test_pyterrier() -> None:
    assert run_other("pyterrier")["table"]["nDCG@10"].tolist() == pytest.approx([0.6309], abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_rank_llm_reads_the_lists_that_we_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    candidates = [{"docid": name, "score": 1.0, "doc": {"text": f"text {name}"}} for name in ("a", "b")]
    row = {"query": {"text": "sort a list", "qid": "1"}, "candidates": candidates}
    (tmp_path / "lists.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    run_other("rank_llm", **{"from rank_llm.rerank.listwise import ZephyrReranker\n": STAND_IN})
    written = [line.split()[2] for line in (tmp_path / "run.trec").read_text("utf-8").splitlines()]
    assert written == ["a", "b"]

    from rerank.collections import open_collection

    collection = open_collection(f"requests:{tmp_path / 'lists.jsonl'}")
    assert [doc.id for doc in collection.docs()] == written
