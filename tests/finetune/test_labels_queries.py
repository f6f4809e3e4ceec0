"""Queries out of documents: what is cut, what a model is asked, and the way there and back."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerank.collections import Collection, open_collection
from rerank.errors import DataError, UnknownNameError, UsageError
from rerank.finetune.labels.checking import probe_form
from rerank.finetune.labels.lists import TrainingList
from rerank.finetune.labels.queries import (
    QueryOptions,
    QueryWriter,
    extract_first_sentence,
    extract_title,
    make_synthetic_queries,
    open_query_prompt,
    parse_written_query,
)
from rerank.prompts import load_prompt
from rerank.tasks import ContinuationTask, GenerationTask, Reply, Request
from rerank.types import Document, Query
from tests.judges.scripted import Scripted
from tests.raising import raises

WORDS = (
    *("apple", "banana", "cherry", "damson", "elder", "fig", "grape", "hazel"),
    *("iris", "juniper", "kiwi", "lemon", "mango", "nutmeg", "olive", "plum"),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Fourteen documents that begin with their titles, two with the same title, and one that is nothing else."""
    rows = []
    for at in range(14):
        one, two, three = WORDS[at], WORDS[at + 1], WORDS[at + 2]
        title = f"Growing {one} and {two}" if at != 5 else "Growing apple and banana"
        body = f"{title}. The {one} needs sun. It is a plant of {three} kind, as growing {one} shows."
        rows.append({"id": f"d{at}", "title": title, "text": body})
    rows.append({"id": "bare", "title": "Growing nothing at all", "text": "Growing nothing at all"})
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return open_collection(f"jsonl:docs={tmp_path / 'docs.jsonl'}")


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("title", "text", "left"),
    [
        ("On Fleas", "on fleas -- They live.", "They live."),
        ("On Fleas", "On fleas they live.", "they live."),
        ("On Fleas", "Fleas on dogs.", "Fleas on dogs."),
        ("On Fleas", "On", "On"),
        ("", " As it is. ", "As it is."),
        ("?!", "?! x", "?! x"),
    ],
)
def test_titles_are_cut_from_the_body_too(title: str, text: str, left: str) -> None:
    query, rest = extract_title(Document(id="1", title=title, text=text))
    assert (query, rest.title, rest.text) == (title, "", left)


@pytest.mark.parametrize(
    ("text", "query", "left"),
    [
        ("What are fleas? They live.", "What are fleas?", "They live."),
        ("It costs 3.50 today. Or more", "It costs 3.50 today.", "Or more"),
        ('He said "no." Then he left.', 'He said "no."', "Then he left."),
        ("No end\nof line", "No end of line", ""),
        ("第一句。第二句。", "第一句。", "第二句。"),
    ],
)
def test_first_sentences(text: str, query: str, left: str) -> None:
    found, rest = extract_first_sentence(Document(id="1", title="T", text=text))
    assert (found, rest.title, rest.text) == (query, "T", left)


def test_titles_become_queries_that_find_their_documents(collection: Collection, tmp_path: Path) -> None:
    folder = tmp_path / "queries"
    report = make_synthetic_queries(collection, QueryOptions(source="title", within=5), folder)
    assert report["documents"] == 14
    assert report["dropped"]["documents of which nothing is left"] == 1
    assert report["dropped"]["queries that several documents give"] == 2
    assert report["queries"] + sum(report["dropped"].values()) == 15
    made = open_collection(f"jsonl:{folder}")
    assert report["queries"] == len(made.queries()) > 0
    docs = {doc.id: doc for doc in made.docs()}
    titles = {doc.id: doc.title for doc in collection.docs()}
    for doc in docs.values():  # every document, not those of the queries alone
        assert not doc.title
        assert not doc.text.startswith("Growing")
    for query in made.queries():
        (source,) = made.qrels()[query.id]
        assert query.text == titles[source]
        assert query.id == f"{source}#1"


def test_its_lists_do_not_give_themselves_away(collection: Collection, tmp_path: Path) -> None:
    make_synthetic_queries(collection, QueryOptions(source="title", within=0), tmp_path / "queries")
    made = open_collection(f"jsonl:{tmp_path / 'queries'}")
    docs = list(made.docs())
    lists = []
    for query in made.queries():
        (source,) = made.qrels()[query.id]
        shown = tuple(sorted(docs, key=lambda doc: doc.id != source))
        order = tuple(range(len(shown)))
        scores = tuple(float(doc.id == source) for doc in shown)
        lists.append(TrainingList(query=query, docs=shown, order=order, scores=scores))
    assert not probe_form(lists).warns


def test_the_draw_depends_on_the_seed_alone(collection: Collection, tmp_path: Path) -> None:
    def drawn(seed: int) -> list[str]:
        folder = tmp_path / f"drawn{seed}"
        make_synthetic_queries(collection, QueryOptions(source="first-sentence", count=5, seed=seed, within=0), folder)
        return [row["id"] for row in jsonl(folder / "queries.jsonl")]

    first = drawn(0)
    assert 3 <= len(first) <= 5  # the first sentences of two documents are the same, and are no query
    shutil.rmtree(tmp_path / "drawn0")
    assert drawn(0) == first != drawn(1)


def test_lengths_and_an_empty_result(collection: Collection, tmp_path: Path) -> None:
    wanted = QueryOptions(source="title", min_words=9)
    with raises(DataError, "'docs'", "14 queries too short or too long", "--within"):
        make_synthetic_queries(collection, wanted, tmp_path / "queries")
    make_synthetic_queries(
        collection, QueryOptions(source="title"), tmp_path / "queries"
    )  # its own folder, though nothing came of it


def test_a_strange_folder_is_left_alone(collection: Collection, tmp_path: Path) -> None:
    before = (tmp_path / "docs.jsonl").read_bytes()
    with raises(UsageError, tmp_path, "--output"):
        make_synthetic_queries(collection, QueryOptions(source="title"), tmp_path)
    assert (tmp_path / "docs.jsonl").read_bytes() == before


def test_what_is_asked_for_is_checked() -> None:
    with raises(UnknownNameError, "'title'"):
        QueryOptions(source="titel")
    with raises(UsageError, "--from llm", "--count"):
        QueryOptions(source="llm")
    with raises(UsageError, "--min-words is 5", "--max-words is 3"):
        QueryOptions(source="title", min_words=5, max_words=3)


REPLIES = [
    ("how long do fleas live", "how long do fleas live"),
    ('Query: "how long do fleas live?"\nIt is about fleas.', "how long do fleas live?"),
    ("<think>a passage on fleas</think>\n**Search query:** flea life span", "flea life span"),
    ("Sure, here is a query:\n1. flea life span", "flea life span"),
    ("- flea life span", "flea life span"),
    ("3 ways to kill fleas", "3 ways to kill fleas"),
    ("The passage is about fleas.", ""),
    ("I'm sorry, I cannot write that.", ""),
    ("...", ""),
    ("", ""),
]


@pytest.mark.parametrize(("reply", "query"), REPLIES)
def test_replies_as_models_write_them(reply: str, query: str) -> None:
    assert parse_written_query(reply) == query


def echo(request: Request) -> Reply:
    """A query from the passage's own last word but one."""
    (doc,) = request.window.docs
    return Reply(
        text=f"Query: where does {doc.title.split()[1]} grow {request.sampling.seed}", tokens_in=3, tokens_out=4
    )


def writer(say: Callable[[Request], Reply] = echo, **more: Any) -> tuple[QueryWriter, Scripted]:
    scripted = Scripted(say, GenerationTask)
    return QueryWriter(backend=scripted, template=open_query_prompt(None), **more), scripted


def test_a_model_is_shown_the_passage_and_no_query() -> None:
    made, _ = writer(each=2, temperature=0.5, seed=7)
    first, second = made.requests([Document(id="a", title="T", text="body of it")])
    assert "Title: T Content: body of it" in first.prompt[-1].content
    assert (first.sampling.seed, second.sampling.seed) == (7, 8)
    assert first.window.query.id == "a"
    dropped: Counter[str] = Counter()
    docs = [Document(id=name, title=f"On {name}", text="x") for name in "ab"]
    assert [(doc, query.id, query.text) for doc, query in made.write(docs, dropped)] == [
        ("a", "a#1", "where does a grow 7"),
        ("a", "a#2", "where does a grow 8"),
        ("b", "b#1", "where does b grow 7"),
        ("b", "b#2", "where does b grow 8"),
    ]


def test_models_that_cannot_and_numbers_that_do_not_fit() -> None:
    with raises(UsageError, "listwise", "--prompt"):
        QueryWriter(backend=Scripted(echo, GenerationTask), template=load_prompt("listwise"))
    with raises(UsageError, "model"):
        QueryWriter(backend=Scripted(echo, ContinuationTask), template=open_query_prompt(None))
    with raises(UsageError, "2 queries", "temperature 0", "--temperature"):
        writer(each=2)
    assert open_query_prompt("pointwise").name == "pointwise"
    assert open_query_prompt(None).name == "query_writing"


def test_a_models_queries_are_kept_and_not_asked_for_again(collection: Collection, tmp_path: Path) -> None:
    wanted = QueryOptions(source="llm", count=6, within=0)

    def flaky(request: Request) -> Reply:
        if request.window.query.id in ("d2", "d3"):
            return Reply(finish="error", error="no server")
        return echo(request)

    made, first = writer(flaky)
    report = make_synthetic_queries(collection, wanted, tmp_path / "llm", writer=made)
    asked = {request.window.query.id for request in first.asked}
    assert len(asked) == 6
    lost = len(asked & {"d2", "d3"})
    assert report["dropped"].get("no reply", 0) == lost
    made, second = writer()
    again = make_synthetic_queries(collection, wanted, tmp_path / "llm", writer=made)
    assert len(second.asked) == lost  # only what had no reply
    assert again["queries"] + sum(again["dropped"].values()) == 6
    assert (tmp_path / "llm" / "docs.jsonl").read_text("utf-8").count("title") == 15  # nothing is cut
    with raises(UsageError, "llm"):
        make_synthetic_queries(collection, wanted, tmp_path / "llm")


def test_the_way_back_is_tried(collection: Collection, tmp_path: Path) -> None:
    def lost(request: Request) -> Reply:
        right = request.window.query.id != "d1"
        return Reply(text=request.window.docs[0].title if right else "nothing of that kind here")

    made, _ = writer(lost)
    report = make_synthetic_queries(
        collection, QueryOptions(source="llm", count=15, within=3), tmp_path / "llm", writer=made
    )
    assert report["dropped"]["queries that do not find their document again"] >= 1
    assert "d1#1" not in {row["id"] for row in jsonl(tmp_path / "llm" / "queries.jsonl")}
    assert Query(id="d9#1", text="Growing juniper and kiwi") in open_collection(f"jsonl:{tmp_path / 'llm'}").queries()
