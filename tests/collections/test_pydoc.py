"""The demo collection on the running interpreter's library: documents, questions, judgments."""

from __future__ import annotations

import gc
import inspect
import pathlib
import subprocess
import sys
import textwrap

import pytest

from rerank.collections import Collection, SupportsLookup, fetch_documents, open_collection
from rerank.collections.pydoc import DEMO_SAMPLE, Pydoc
from rerank.errors import DataError
from rerank.types import Document
from tests.raising import raises

_IMPORTS_NOTHING = """
import sys
import sysconfig
from rerank.collections.pydoc import Pydoc
sysconfig.get_path("stdlib")  # which loads a module of its own
before = set(sys.modules)
documents = list(Pydoc().docs())
assert len(documents) > 3000, len(documents)
print(sorted(set(sys.modules) - before))
"""


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    return {doc.id: doc for doc in Pydoc().docs()}


# The collection.


def test_is_found_by_name_and_fits_the_protocols() -> None:
    collection = open_collection("pydoc")
    assert isinstance(collection, Pydoc)
    assert isinstance(collection, Collection)
    assert isinstance(collection, SupportsLookup)
    assert (collection.name, collection.language, collection.drop_self, collection.relevant) == (
        "pydoc",
        "en",
        False,
        1,
    )


def test_ids_are_unique_sorted_and_public(documents: dict[str, Document]) -> None:
    ids = [doc.id for doc in Pydoc().docs()]
    assert len(set(ids)) == len(ids) > 3000
    assert ids == sorted(ids)
    assert not [doc_id for doc_id in ids if any(part.startswith("_") for part in doc_id.split("."))]
    assert not [doc.id for doc in documents.values() if not doc.text.strip() or not doc.title.startswith(doc.id)]


def test_leaves_out_what_is_not_the_library(documents: dict[str, Document]) -> None:
    tops = {doc_id.partition(".")[0] for doc_id in documents}
    assert not tops & {"test", "idlelib", "lib2to3", "turtledemo", "tkinter", "distutils", "sitecustomize", "pip"}


@pytest.mark.parametrize(
    ("doc_id", "title", "thing"),
    [
        ("textwrap", "textwrap", textwrap),
        ("textwrap.dedent", "textwrap.dedent(text)", textwrap.dedent),
        ("textwrap.indent", "textwrap.indent(text, prefix, predicate=None)", textwrap.indent),
        ("pathlib.Path.iterdir", "pathlib.Path.iterdir()", pathlib.Path.iterdir),
        ("pathlib.PurePath.name", "pathlib.PurePath.name", pathlib.PurePath.name),
        ("subprocess.Popen.wait", "subprocess.Popen.wait(timeout=None)", subprocess.Popen.wait),
    ],
)
def test_title_and_text(documents: dict[str, Document], doc_id: str, title: str, thing: object) -> None:
    assert documents[doc_id].title == title
    assert documents[doc_id].text == inspect.cleandoc(thing.__doc__ or "")


def test_private_implementations_go_by_their_public_names(documents: dict[str, Document]) -> None:
    wanted = {"datetime.date.weekday", "decimal.Decimal.quantize", "tomllib.load", "concurrent.futures.Future.result"}
    assert wanted <= documents.keys()
    assert "asyncio.tasks.gather" in documents
    assert "asyncio.gather" not in documents


def test_reading_imports_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTS_NOTHING], capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout.strip()) == ("", "[]")


def test_docs_can_be_read_again_and_the_collector_is_back(documents: dict[str, Document]) -> None:
    assert list(Pydoc().docs()) == list(documents.values())
    assert gc.isenabled()


def test_lookup_leaves_out_unknown_ids(documents: dict[str, Document]) -> None:
    assert Pydoc().lookup(["textwrap.dedent", "no.such"]) == {"textwrap.dedent": documents["textwrap.dedent"]}
    with raises(DataError, "'no.such'"):
        fetch_documents(Pydoc(), ["textwrap.dedent", "no.such"])


def test_fingerprint_is_stable() -> None:
    first, second = Pydoc().fingerprint, Pydoc().fingerprint
    assert first == second
    assert len(first) == 64
    assert int(first, 16) >= 0


# Questions and judgments.


def test_questions_are_plain_and_distinct() -> None:
    queries = Pydoc().queries()
    assert len(queries) >= 70
    assert len({query.id for query in queries}) == len({query.text for query in queries}) == len(queries)
    assert all(query.text == " ".join(query.text.split()) and len(query.text) > 20 for query in queries)
    assert (queries[0].id, queries[-1].id) == ("q01", f"q{len(queries)}")


def test_every_judged_document_exists_here(documents: dict[str, Document]) -> None:
    judged = {(query_id, doc_id) for query_id, grades in Pydoc().qrels().items() for doc_id in grades}
    assert sorted(pair for pair in judged if pair[1] not in documents) == []


def test_every_question_is_judged_well() -> None:
    qrels = Pydoc().qrels()
    assert list(qrels) == [query.id for query in Pydoc().queries()]
    for query_id, grades in qrels.items():
        values = sorted(grades.values(), reverse=True)
        assert set(values) <= {0, 1, 2, 3}, query_id
        assert values[0] == 3, query_id
        assert values[1] >= 1, query_id
        assert values.count(0) >= 5, query_id


def test_literal_judgments() -> None:
    qrels = Pydoc().qrels()
    assert qrels["q01"]["textwrap.dedent"] == 3
    assert qrels["q01"]["textwrap.indent"] == 0
    assert qrels["q63"]["tracemalloc.take_snapshot"] == 3
    assert qrels["q24"]["functools.singledispatchmethod"] == 2


def test_the_demo_sample_is_part_of_the_questions() -> None:
    assert len(set(DEMO_SAMPLE)) == len(DEMO_SAMPLE) == 12
    assert set(DEMO_SAMPLE) <= {query.id for query in Pydoc().queries()}
