"""The reader of docstrings, on small made-up libraries."""

from __future__ import annotations

import inspect
import tempfile
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank.collections.pydoc._extract import read_docstring_documents
from rerank.errors import DataError, MissingResourceError
from rerank.types import Document
from tests.raising import raises


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
