"""The demo collection on the running interpreter's library: documents, questions, judgments."""

from __future__ import annotations

import gc
import inspect
import pathlib
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.collections import Collection, SupportsLookup, fetch_documents, open_collection
from rerank.collections.pydoc import DEMO_SAMPLE, Pydoc
from rerank.collections.pydoc._extract import read_docstring_documents
from rerank.errors import DataError, MissingResourceError
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


def _library(folder: Path, files: dict[str, str]) -> dict[str, Document]:
    """Write a library (``textwrap.py`` always there) and read it."""
    for name, source in {"textwrap.py": "", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source), encoding="utf-8")
    return {doc.id: doc for doc in read_docstring_documents(folder)}


def test_members_signatures_and_constructors(tmp_path: Path) -> None:
    found = _library(
        tmp_path,
        {
            "shop.py": '''
            """Selling things."""
            if True:
                def sell(item, /, *, price=1):
                    """Sell."""
            try:
                async def order(*items, **options):
                    """Order."""
            except ImportError:
                def order():
                    """Never reached, and second."""
            class Till:
                """A till."""
                def __init__(self, cash=0):
                    """Starts with some cash."""
                def add(self, /, cash):
                    """Add."""
                @staticmethod
                def rate(day):
                    """Rate."""
                @property
                def total(self):
                    """Total."""
                def _secret(self):
                    """Hidden."""
                def bare(self): ...
                class Drawer:
                    def open(self):
                        """Open."""
            class _Hidden:
                """Hidden."""
                def seen(self):
                    """Hidden too."""
            '''
        },
    )
    assert {doc.title: doc.text for doc in found.values()} == {
        "shop": "Selling things.",
        "shop.Till(cash=0)": "A till.\n\nStarts with some cash.",
        "shop.Till.Drawer.open()": "Open.",
        "shop.Till.add(cash)": "Add.",
        "shop.Till.rate(day)": "Rate.",
        "shop.Till.total": "Total.",
        "shop.order(*items, **options)": "Order.",
        "shop.sell(item, /, *, price=1)": "Sell.",
    }


def test_re_exports_count_once_under_the_public_name(tmp_path: Path) -> None:
    source = 'def {0}():\n    """Doc of {0}."""\n'
    found = _library(
        tmp_path,
        {
            "_star.py": '__all__ = ["a"]\n' + source.format("a") + source.format("b"),
            "star.py": "try:\n    from _star import *\nexcept ImportError:\n    pass\n",
            "_plain.py": source.format("c") + source.format("_d"),
            "plain.py": "from _plain import *\n",
            "_listed.py": source.format("e") + source.format("f"),
            "listed.py": '__all__ = ["g"]\n__all__ += ["f"]\nfrom _listed import e, f\n',
            "later.py": '__all__ = ["f"]\nfrom _listed import f\n',
            "pack/__init__.py": "from ._inner import h as renamed\n",
            "pack/_inner.py": source.format("h"),
            "pack/open.py": source.format("i"),
            "user.py": "from pack.open import i\nfrom pack._inner import h\n",
            "_whole.py": source.format("j"),
            "whole.py": "import sys\nimport _whole\nsys.modules[__name__] = _whole\n",
            "_named.py": source.format("k"),
            "keeper.py": "import sys\nimport _named\nsys.modules['keeper.sub'] = _named\n",
        },
    )
    assert sorted(found) == [
        *("keeper.sub.k", "later.f", "pack.open.i", "pack.renamed", "plain.c", "star.a", "whole.j")
    ]


def test_a_public_definition_wins_over_a_private_one(tmp_path: Path) -> None:
    files = {
        "_fast.py": 'def run():\n    """Private."""\n',
        "run.py": 'from _fast import *\ndef run():\n    """Public."""\n',
    }
    assert _library(tmp_path, files)["run.run"].text == "Public."


def test_skips_folders_and_names_that_are_no_part_of_the_library(tmp_path: Path) -> None:
    text = '"""Doc."""\n'
    names = ["test/__init__.py", "site-packages/other.py", "pack/tests/__init__.py", "pack/__main__.py", "tkinter.py"]
    names += ["no_package/module.py", "cgi.py", "not-a-name.py", "sitecustomize.py"]
    assert _library(tmp_path, dict.fromkeys([*names, "pack/__init__.py", "kept.py"], text)).keys() == {"kept", "pack"}


def test_odd_sources_are_read_as_python_reads_them(tmp_path: Path) -> None:
    (tmp_path / "textwrap.py").write_text("")
    (tmp_path / "old.py").write_bytes('# coding: latin-1\n"""Gr\u00fc\u00dfe."""\npattern = "\\d"\n'.encode("latin-1"))
    assert [doc.text for doc in read_docstring_documents(tmp_path)] == ["Gr\u00fc\u00dfe."]


@pytest.mark.parametrize("name", ["python313.zip", "empty"])
def test_a_library_without_sources_is_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "python313.zip").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        MissingResourceError, match=rf"There are no Python sources in .*{name}.*textwrap\.py.*not in a zip"
    ):
        read_docstring_documents(tmp_path / name)


def test_a_broken_source_is_named(tmp_path: Path) -> None:
    with raises(DataError, "broken.py"):
        _library(tmp_path, {"broken.py": "print 'hello'\n"})
    with raises(DataError, "zero.py"):
        _library(tmp_path, {"broken.py": "", "zero.py": "\0"})


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True)
        .filter(lambda name: name.isidentifier())
        .map("doc_{}".format),
        st.text(st.characters(exclude_categories=["Cs"])),
    )
)
def test_any_docstring_is_kept_as_inspect_cleans_it(texts: dict[str, str]) -> None:
    source = "".join(f"def {name}():\n    {text!r}\n" for name, text in texts.items())
    with tempfile.TemporaryDirectory() as folder:
        found = _library(Path(folder), {"any.py": source})
    expected = {f"any.{name}": inspect.cleandoc(text) for name, text in texts.items()}
    assert {doc_id: doc.text for doc_id, doc in found.items()} == {
        name: text for name, text in expected.items() if text
    }
