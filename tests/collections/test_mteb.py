"""Tasks of mteb as collections, over real task classes with local data."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from rerank.collections.base import Collection, SupportsCandidates, SupportsLookup
from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError, UnknownNameError, UsageError
from rerank.types import Document, Query

mteb = pytest.importorskip("mteb")

from datasets import concatenate_datasets  # noqa: E402

from rerank.collections import mteb as mteb_package  # noqa: E402
from rerank.collections import open_collection  # noqa: E402
from rerank.collections.mteb import Mteb, TaskSplit, escape_id, top_candidates  # noqa: E402  # noqa: E402
from tests.mmteb import tasks  # noqa: E402
from tests.raising import raises  # noqa: E402


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_reranking_task() -> None:
    found = Mteb.from_task(tasks.filled(tasks.LocalReranking()))
    assert isinstance(found, Collection)
    assert isinstance(found, SupportsCandidates)
    assert isinstance(found, SupportsLookup)
    assert (found.name, found.language, found.relevant, found.drop_self) == ("LocalReranking/test", "en", 1, False)
    assert [doc.id for doc in found.docs()] == list(tasks.DOCS)
    assert found.lookup(["d4", "d99"]) == {"d4": Document(id="d4", text=tasks.DOCS["d4"])}
    assert found.queries() == [Query(id=key, text=text) for key, text in tasks.QUERIES.items()]
    assert {query: dict(judged) for query, judged in found.qrels().items()} == tasks.RELEVANT
    assert {query: list(one.doc_ids) for query, one in found.candidates().items()} == tasks.LISTS
    assert found.candidates()["q1"].docs[0].text == tasks.DOCS["d3"]


def test_titles_instructions_conversations_are_put_together_as_mteb_does() -> None:
    corpus = tasks.rows({"a": " body ", "b": "alone"}, title={"a": "Title", "b": ""})
    plain = tasks.rows({"q": "find it", "r": "or this"}, instruction={"q": "Only new pages.", "r": None})
    talk = tasks.rows(
        {"q": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes?"}]},
        instruction={"q": "Help."},
    )
    turns = tasks.rows({"q": ["first", "second"]})
    from mteb._create_dataloaders import _retrieval_texts
    from mteb.types import PromptType

    for queries in (plain, talk, turns):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mteb says that it took every turn for the user's
            theirs = _retrieval_texts(queries, PromptType.query)
        part = TaskSplit(tasks.LocalRetrieval.metadata, "default", "test", {"corpus": corpus, "queries": queries})
        assert [query.text for query in part.queries()] == list(theirs)
    assert list(part.docs()) == [Document(id="a", title="Title", text="body"), Document(id="b", text="alone")]


def test_queries_without_judgments_are_left_out_and_documents_of_one_id_are_one() -> None:
    data = tasks.part(relevant={"q1": {"d3": 1}, "q2": {}})
    data["corpus"] = concatenate_datasets([data["corpus"], tasks.rows({"d1": "newer"}, title={})])
    found = Mteb.from_task(tasks.filled(tasks.LocalRetrieval(), default=data))
    assert [query.id for query in found.queries()] == ["q1"]
    assert list(found.qrels()) == ["q1"]
    assert len(list(found.docs())) == len(tasks.DOCS)
    assert found.lookup(["d1"])["d1"].text == "newer"


def test_ids_that_run_files_cannot_hold_are_written_otherwise() -> None:
    data = tasks.part({"a b": "one", "50%": "two", '{"x': "three"}, {"my query": "x"}, {"my query": {"a b": 1}})
    found = Mteb.from_task(tasks.filled(tasks.LocalRetrieval(), default=data))
    assert [doc.id for doc in found.docs()] == ["a%20b", "50%25", '%7B"x']
    assert dict(found.qrels()["my%20query"]) == {"a%20b": 1}
    assert len({escape_id(one) for one in ("a b", "a%20b", "a%2520b", "a\tb")}) == 4


def test_subsets_and_splits_must_be_named_where_there_are_several() -> None:
    task = tasks.filled(tasks.LocalSubsets(), en=tasks.part(), zh=tasks.part(), en_ar=tasks.part())
    with raises(UsageError, "3", "subset=en"):
        Mteb.from_task(task)
    with raises(UnknownNameError, "'eng'"):
        Mteb.from_task(task, subset="eng")
    found = [Mteb.from_task(task, subset=name) for name in ("en", "zh", "en-ar")]
    assert [(one.name, one.language) for one in found] == [
        ("LocalSubsets/en/test", "en"),
        ("LocalSubsets/zh/test", "zh"),
        ("LocalSubsets/en-ar/test", "mul"),
    ]
    assert len({one.fingerprint for one in found}) == 3


@pytest.mark.parametrize(("code", "language"), [("acm-Arab", "und"), ("zul-Latn", "zu"), ("cmn-Hant", "zh")])
def test_languages(code: str, language: str) -> None:
    metadata = tasks.metadata("Local", "Retrieval", eval_langs=[code])
    assert mteb_package.language_of_subset(metadata, "default") == language


def test_fingerprints_follow_the_texts_or_the_published_commit() -> None:
    def mark(revision: str, **more: Any) -> str:
        metadata = tasks.metadata("Local", "Retrieval", dataset={"path": "some/where", "revision": revision})
        return TaskSplit(metadata, "default", "test", tasks.part(**more)).fingerprint

    other = {**tasks.DOCS, "d1": "changed"}
    assert mark("1") == mark("1")
    assert len({mark("1"), mark("2"), mark("1", docs=other), mark("1", queries={"q1": "why"})}) == 4
    commit = "0" * 40
    assert mark(commit) == mark(commit, docs=other)  # not read: a commit stands for what is in it
    assert mark(commit) != mark(commit, lists=tasks.LISTS)


def test_predictions_of_a_first_stage_are_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.filled(tasks.LocalRetrieval())
    monkeypatch.setattr(mteb, "get_task", lambda name: task)
    saved = {"mteb_model_meta": {}, "default": {"test": {"q1": {"d1": 0.5, "d3": 0.75, "d2": 0.5}, "q2": {"d2": 1}}}}
    (tmp_path / "LocalRetrieval_predictions.json").write_text(json.dumps(saved))
    found: Any = open_collection(f"mteb:LocalRetrieval,predictions={tmp_path},top_k=2")
    assert {query: one.doc_ids for query, one in found.candidates().items()} == {
        "q1": ("d3", "d1"),
        "q2": ("d2",),
        "q3": (),
    }
    for text, message in (("{", "invalid JSON"), (json.dumps({"default": {}}), "no predictions for the subset")):
        (tmp_path / "LocalRetrieval_predictions.json").write_text(text)
        found = open_collection(f"mteb:LocalRetrieval,predictions={tmp_path}")
        with pytest.raises(DataError, match=message):
            found.candidates()
    (tmp_path / "LocalRetrieval_predictions.json").unlink()
    with pytest.raises(MissingResourceError):
        open_collection(f"mteb:LocalRetrieval,predictions={tmp_path}")
    with raises(UsageError, "top_k=0"):
        top_candidates({}, 0)


def test_lists_that_name_documents_the_corpus_lacks() -> None:
    found = Mteb.from_task(tasks.filled(tasks.LocalReranking(), default=tasks.part(lists={"q1": ["d1", "gone"]})))
    with raises(DataError, "'q1'", "'gone'"):
        found.candidates()


def test_names_of_mteb() -> None:
    with raises(UnknownNameError, "'T2Reranking'"):
        open_collection("mteb:T2Rerankin")
    with pytest.raises(UsageError):
        open_collection("mteb:STS12")
    assert open_collection("mteb:T2Reranking").language == "zh"


def test_data_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.LocalRetrieval()

    def fail(**given: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(task, "load_data", fail)
    with pytest.raises(MissingResourceError):
        Mteb.from_task(task).queries()


def test_without_mteb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with raises(MissingPrerequisiteError, "[mteb]'"):
        open_collection("mteb:T2Reranking")


def test_lists_of_a_retrieval_task_say_what_is_excluded() -> None:
    """mteb gives BRIGHT's queries lists of the whole corpus without their excluded ids."""
    every = list(tasks.DOCS)
    lists = {query: [doc for doc in every if query != "q1" or doc not in ("d1", "d4")] for query in tasks.QUERIES}
    found = Mteb.from_task(tasks.filled(tasks.LocalRetrieval(), default=tasks.part(lists=lists)))
    assert found.excluded() == {"q1": frozenset({"d1", "d4"})}
    assert not found.candidates()
    reranking = Mteb.from_task(tasks.filled(tasks.LocalReranking()))
    assert not reranking.excluded()
    assert reranking.candidates()
