from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker
from rerank.backends.fake import Fake
from rerank.collections import open_collection
from rerank.errors import DataError, MissingResourceError, PartialFailureError, UnknownNameError, UsageError
from rerank.judges.generate import Generate
from rerank.retrieval import open_first_stage
from rerank.retrieval.base.stages import RetrieverSource
from rerank.settings import RankerOptions
from rerank.tasks import Reply, Request
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises

TEXTS = ["first", "second", "third", "fourth"]
DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def reranker() -> Reranker:
    return Reranker.from_pretrained("fake:reversed")


def test_texts_come_back_best_first(reranker: Reranker) -> None:
    hits = reranker.rank("a question", TEXTS)
    assert [hit.text for hit in hits] == TEXTS[::-1]
    assert [hit.corpus_id for hit in hits] == [3, 2, 1, 0]
    assert [hit.document.id for hit in hits] == ["3", "2", "1", "0"]
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]
    assert [hit.rank_score for hit in hits] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert [hit.score for hit in hits] == [None] * 4  # the order was generated, without scores
    assert hits.windows == {"ok": 1, "repaired": 0, "partial": 0, "empty": 0, "refused": 0, "error": 0}


def test_the_model_did_reorder_and_did_not_lose_anything() -> None:
    reranker = Reranker.from_pretrained("fake:stutter,p=0.9", method="sliding,size=4,stride=2")
    texts = [f"text {n}" for n in range(15)]
    hits = reranker.rank("q", texts)
    assert [hit.text for hit in hits] != texts
    assert sorted(hit.text for hit in hits) == sorted(texts)
    assert [hit.text for hit in reranker.rank("q", texts)] == [hit.text for hit in hits]


def test_documents_of_every_kind(reranker: Reranker) -> None:
    given = ["plain", Document(id="own", text="of ours"), {"text": "mapped"}, {"id": "m", "text": "x", "title": "T"}]
    found = [hit.document for hit in reranker.rank("q", given)]
    assert found == [
        Document(id="m", text="x", title="T"),
        Document(id="2", text="mapped"),
        Document(id="own", text="of ours"),
        Document(id="0", text="plain"),
    ]


def test_equal_texts_are_two_documents(reranker: Reranker) -> None:
    hits = reranker.rank("q", ["same", "same"])
    assert [(hit.corpus_id, hit.text) for hit in hits] == [(1, "same"), (0, "same")]


@pytest.mark.parametrize(
    ("documents", "named"),
    [
        ([{"content": "x"}], ("Document 0", "['content']")),
        ([{"text": "fine"}, {"text": None}], ("Document 1", "text None")),
        ([{"text": "x", "title": 7}], ("Document 0", "title 7")),
        ([{"text": "x", "id": 1.5}], ("Document 0", "id 1.5")),
        ([{"text": "x", "id": True}], ("Document 0", "id True")),
        ([5, 6], ("Document 0", "5")),
        ([b"bytes"], ("Document 0", "b'bytes'")),
        ([Document(id="a", text=None)], ("Document 0", "text None")),  # type: ignore[arg-type]
    ],
)
def test_documents_that_are_wrong(reranker: Reranker, documents: Sequence[Document], named: tuple[str, ...]) -> None:
    with raises(DataError, *named):
        reranker.rank("q", documents)


@pytest.mark.parametrize("documents", ["ab", b"ab", {"text": "x"}, {"a": "x"}, Document(id="a", text="x"), None, 5])
def test_documents_that_are_no_list(reranker: Reranker, documents: Any) -> None:
    with raises(UsageError, "list"):
        reranker.rank("q", documents)


@pytest.mark.parametrize(
    ("lists", "named"),
    [
        (None, ("lists are None",)),
        ("ab", ("List 0 is 'a'", "a pair (query, documents)")),
        ([("q", TEXTS), "xy"], ("List 1 is 'xy'", "a pair (query, documents)")),
        ([("q", TEXTS, 5)], ("List 0 is ('q'", "a pair (query, documents)")),
        ([{"query": "q", "documents": TEXTS}], ("List 0 is {'query'", "a pair (query, documents)")),
    ],
)
def test_lists_that_are_no_pairs(reranker: Reranker, lists: Any, named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        list(reranker.rank_many(lists))


def test_given_ids_may_collide_and_come_back(reranker: Reranker) -> None:
    own = Document(id="1", text="c")
    hits = reranker.rank("q", [{"id": "1", "text": "a"}, "b", own, {"id": None, "text": "d", "title": None}])
    assert [(hit.corpus_id, hit.document.id, hit.text) for hit in hits] == [
        (3, "3", "d"),
        (2, "1", "c"),
        (1, "1", "b"),
        (0, "1", "a"),
    ]
    assert hits[1].document is own
    assert reranker.rank("q", [{"id": 7, "text": "a"}])[0].document.id == "7"


@pytest.mark.parametrize("query", [None, 5, ["a"], Query(id="q", text=None)])  # type: ignore[arg-type]
def test_a_query_that_is_wrong(reranker: Reranker, query: Any) -> None:
    with raises(UsageError, "Query"):
        reranker.rank(query, TEXTS)


@pytest.mark.parametrize("k", [-1, 2.5, "3"])
def test_top_k_that_makes_no_sense_asks_nothing(k: Any) -> None:
    backend = Fake("reversed")
    reranker = Reranker.from_backend(backend)
    with raises(UsageError, "top_k", repr(k)):
        reranker.rank("q", TEXTS, top_k=k)
    assert backend.served == []
    with raises(UsageError, "k is", repr(k)):
        reranker.rank("q", TEXTS).top_k(k)


def test_top_k(reranker: Reranker) -> None:
    for k, expected in ((1, [3]), (2, [3, 2]), (0, []), (9, [3, 2, 1, 0]), (None, [3, 2, 1, 0])):
        hits = reranker.rank("q", TEXTS, top_k=k)
        assert [hit.corpus_id for hit in hits] == expected
        assert hits.windows["ok"] == (k != 0)  # to return nothing, nothing is asked
    whole = reranker.rank("q", TEXTS)
    assert whole.top_k(2) == whole[:2]
    assert whole.top_k(2).windows == whole.windows


@pytest.mark.parametrize("documents", [[], ["alone"]])
def test_nothing_to_order_asks_nothing(documents: list[str]) -> None:
    backend = Fake("fail")
    hits = Reranker.from_backend(backend).rank("q", documents)
    assert [hit.text for hit in hits] == documents
    assert backend.served == []
    assert sum(hits.windows.values()) == 0


def test_a_single_document_gets_a_score_that_does_not_depend_on_others() -> None:
    reranker = Reranker.from_backend(Fake("reversed"), method="pointwise")
    (hit,) = reranker.rank("question", ["one text"])
    assert hit.score is not None
    assert [hits[0].score for hits in reranker.rank_many([("question", ["one text"])])] == [hit.score]
    assert hit.score == {h.corpus_id: h.score for h in reranker.rank("question", ["other", "one text"])}[1]


def test_a_single_document_is_not_judged_for_its_order() -> None:
    reranker = Reranker.from_backend(Fake("reversed"), method="fullrank")
    assert reranker.rank("question", ["one text"]).usage.calls == 0
    pointwise = Reranker.from_backend(Fake("reversed"), method="pointwise")
    assert pointwise.rank(" ", ["one text"]).usage.calls == 0


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_keeps_the_order(query: str) -> None:
    backend = Fake("reversed")
    assert [hit.text for hit in Reranker.from_backend(backend).rank(query, TEXTS)] == TEXTS
    assert backend.served == []


def test_a_query_with_an_id(reranker: Reranker) -> None:
    assert len(reranker.rank(Query(id="q7", text="a question"), TEXTS)) == 4


@pytest.mark.parametrize(
    ("model", "method", "prompt", "error"),
    [
        ("fake:revesed", "fullrank", "auto", UnknownNameError),
        ("fake:reversed", "fulrank", "auto", UnknownNameError),
        ("fake:reversed", "fullrank", "listwize", UnknownNameError),
        ("fake:reversed", "sliding,sise=3", "auto", UnknownNameError),
        ("fake:reversed", "sliding,size=0", "auto", UsageError),
        ("./no-such-folder", "fullrank", "auto", MissingResourceError),
    ],
)
def test_names_that_are_wrong(model: str, method: str, prompt: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        Reranker.from_pretrained(model, method=method, prompt=prompt)


def test_options_reach_the_backend_and_the_budget() -> None:
    small = Reranker.from_pretrained("fake:reversed", context_size=60, batch_size=3)
    assert isinstance(small.judge, Generate)
    assert small.judge.backend.batch_size == 3
    with raises(UsageError, "context"):
        small.rank("q", TEXTS * 5)
    limits: RankerOptions = {"max_passage_tokens": 1, "min_passage_tokens": 1}
    backend = _Prompts()
    Reranker.from_backend(backend, **limits).rank("q", ["one two three", "four five six"])
    assert "two" not in backend.prompts[0]


def test_several_methods_share_one_backend() -> None:
    backend = Fake("reversed")
    full = Reranker.from_backend(backend)
    sliding = Reranker.from_backend(backend, method="sliding,size=2,stride=1")
    pair = Reranker.from_backend(backend, method="sliding:generate")
    assert (full.name, sliding.name, pair.name) == ("fullrank", "sliding", "sliding-generate")
    full.rank("q", TEXTS)
    sliding.rank("q", TEXTS)
    assert len(backend.served) == 1 + 3


def test_a_failed_window_is_logged_once_without_texts(caplog: pytest.LogCaptureFixture) -> None:
    reranker = Reranker.from_pretrained("fake:fail")
    hits = reranker.rank("a secret question", TEXTS)
    assert [hit.text for hit in hits] == TEXTS
    assert hits.windows["error"] == 1
    assert "1 error of 1" in hits.notes[0]
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("rerank.reranker", "WARNING")
    assert "fake:fail does not answer" in record.getMessage()
    assert not any(text in record.getMessage() for text in ["a secret question", *TEXTS])
    with raises(PartialFailureError, "1 error of 1"):
        reranker.rank("q", TEXTS, on_failure="raise")


def run_of(*queries: str) -> Run:
    docs = [Document(id=str(n), text=text) for n, text in enumerate(TEXTS)]
    return Run((Ranking.from_order(Query(id=q, text=q), docs) for q in queries), name="first")


def test_transform_reranks_every_list(reranker: Reranker) -> None:
    first = run_of("a", "b", " ")
    result = reranker.transform(first)
    assert result.name == "fullrank"
    assert [r.doc_ids for r in result.values()] == [("3", "2", "1", "0")] * 2 + [("0", "1", "2", "3")]
    assert first == run_of("a", "b", " ")


def test_a_pipeline_of_stages(reranker: Reranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    collection = open_collection(f"jsonl:{DATA / 'jsonl'}")
    retriever = open_first_stage("bm25", collection)
    first = RetrieverSource(retriever)(collection.queries())
    assert [len(ranking) for ranking in first.values()] == [2, 1, 1]
    source = retriever if isinstance(retriever, RetrieverSource) else RetrieverSource(retriever)
    run = (source % 3 >> reranker % 1)(collection.queries())
    assert run["q1"].doc_ids == first["q1"].doc_ids[::-1][:1]
    assert run["q1"].docs[0].text
    assert all(len(ranking) == 1 for ranking in run.values())
    twice = (source % 3 >> reranker >> reranker)(collection.queries())
    assert twice["q1"].doc_ids == first["q1"].doc_ids


@dataclass
class _Slow(Fake):
    """Notes how many threads are inside at once."""

    inside: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.02)
        with self.lock:
            self.inside -= 1
        return Fake.generate(self, requests)


@dataclass
class _Prompts(Fake):
    kind: str = "reversed"
    prompts: list[str] = field(default_factory=list)

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        self.prompts += [request.prompt[-1].content for request in requests]
        return Fake.generate(self, requests)


def test_async_gives_the_same_and_keeps_the_loop_free() -> None:
    backend = _Slow("reversed")
    reranker = Reranker.from_backend(backend)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    async def many() -> list[list[str]]:
        ticking = asyncio.create_task(tick())
        answers = await asyncio.gather(*(reranker.arank(f"q{n}", TEXTS[: n + 1], top_k=2) for n in range(4)))
        ticking.cancel()
        return [[hit.text for hit in hits] for hits in answers]

    assert asyncio.run(many()) == [TEXTS[n::-1][:2] for n in range(4)]
    assert backend.most == 1  # threads take turns at the model
    assert ticks > 5


def test_an_error_in_a_thread_is_raised_where_it_is_awaited(reranker: Reranker) -> None:
    with pytest.raises(DataError):
        asyncio.run(reranker.arank("q", [{"no": "text"}]))
    assert len(reranker.rank("q", TEXTS)) == 4  # the turn was given back


def test_an_instruction_reaches_prompts_with_a_place_for_it(tmp_path: Path) -> None:
    prompt = tmp_path / "instructed.yaml"
    prompt.write_text(
        "method: listwise\nprefix: '{instruction}: {query}'\nbody: '[{rank}] {candidate}'\nsuffix: Order.\n"
    )
    asked: list[str] = []

    class Recorded(Fake):
        def generate(self, requests: Sequence[Request]) -> list[Reply]:
            asked.extend(request.prompt[-1].content for request in requests)
            return super().generate(requests)

    backend = Recorded("reversed")
    with_place = Reranker.from_backend(backend, prompt=str(prompt))
    hits = with_place.rank("q", TEXTS, instruction="Prefer  recent\ntexts")
    assert asked[0].startswith("Prefer recent texts: q\n")
    assert hits.notes == ()
    without = Reranker.from_backend(backend).rank("q", TEXTS, instruction="Prefer recent texts")
    assert "no place for an instruction" in without.notes[0]


def test_an_empty_query_is_in_the_notes() -> None:
    hits = Reranker.from_pretrained("fake:reversed").rank(" ", TEXTS)
    assert [hit.corpus_id for hit in hits] == list(range(len(TEXTS)))
    assert hits.notes == ("The query is empty, so the documents keep their order",)


def test_cut_passages_are_counted() -> None:
    hits = Reranker.from_pretrained("fake:reversed", max_passage_tokens=40).rank(
        "q", ["word " * 100, "short", "a " * 50]
    )
    assert (hits.cut.passages, hits.cut.tokens) == (2, 60 + 10)
    assert Reranker.from_pretrained("fake:reversed").rank("q", TEXTS).cut.passages == 0


def test_a_limit_on_tokens_wins_over_longer_passages(caplog: pytest.LogCaptureFixture) -> None:
    Reranker.from_pretrained("fake:reversed", passages="max,size=100", max_passage_tokens=64)
    assert "Passages of 100 words are truncated to 64 tokens" in caplog.text


def test_replies_are_cached_and_tokens_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend = Fake("reversed")
    with Reranker.from_backend(backend).with_log() as cached:
        assert [hit.text for hit in cached.rank("q", TEXTS)] == TEXTS[::-1]
    with Reranker.from_backend(backend).with_log() as reopened:
        again = reopened.rank("q", TEXTS)
    assert [hit.text for hit in again] == TEXTS[::-1]
    assert len(backend.served) == 1
    assert (again.usage.calls, again.usage.reused_calls, again.usage.tokens_in) == (1, 1, 0)  # nothing was paid twice
    capped = Reranker.from_backend(backend).with_log(cache=False, max_total_tokens=10)
    assert "--max-total-tokens" in capped.rank("q", TEXTS).notes[0]
    assert len(backend.served) == 1
