"""Lucene's options, checks and lists, and the search for Java. test_lucene_real.py runs the real thing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from rerank.errors import MissingPrerequisiteError, MissingResourceError, RerankError, UnknownNameError, UsageError
from rerank.retrieval import first_stages, lucene, open_first_stage
from rerank.retrieval.base import HasPrerequisites
from rerank.retrieval.lucene import Lucene, LuceneRetriever, find_java, index
from rerank.retrieval.lucene.index import analyzer_code
from rerank.selector import build_from_selector
from rerank.types import Document, Query
from tests.raising import raises
from tests.retrieval.conftest import MakeCorpus


@pytest.mark.parametrize(
    ("selector", "error", "message"),
    [
        ("lucene,k1=-1", UsageError, "BM25 has k1=-1.0"),
        ("lucene,k1=inf", UsageError, "k1 .*is inf"),
        ("lucene,b=1.1", UsageError, "BM25 has b=1.1"),
        ("lucene,fb_docs=3,fb_terms=2", UsageError, "fb_docs=3, fb_terms=2 are given without RM3.*rm3=true"),
        ("lucene,rm3=true,fb_docs=0", UsageError, "RM3 has fb_docs=0.*at least 1"),
        ("lucene,rm3=true,fb_terms=0", UsageError, "RM3 has fb_terms=0"),
        ("lucene,rm3=true,original_weight=nan", UsageError, "original_weight .*is nan"),
        ("lucene,rm3=perhaps", UsageError, "rm3='perhaps'"),
        ("lucene:index,fields=text", UsageError, "fields=text is given with the existing index index"),
        ("lucene,fields=title", UsageError, r"one of: title\+text, text"),
        ("lucene,k=9", UnknownNameError, "option of 'lucene'.*Did you mean 'k1'"),
    ],
)
def test_options_that_do_not_fit(selector: str, error: type[RerankError], message: str) -> None:
    with pytest.raises(error, match=message):
        build_from_selector(first_stages, selector)


def test_feedback() -> None:
    assert Lucene().scoring["feedback"] is None
    assert Lucene(rm3=True).scoring["feedback"] == (10, 10, 0.5)
    made = build_from_selector(first_stages, "lucene:ix,rm3=true,fb-docs=3,fb-terms=20,original-weight=0")
    assert made == Lucene("ix", rm3=True, fb_docs=3, fb_terms=20, original_weight=0.0)
    assert made.scoring["feedback"] == (3, 20, 0.0)
    assert isinstance(made, HasPrerequisites)


@pytest.mark.parametrize("selector", ["lucene", "lucene:index", "hybrid:bm25+lucene"])
def test_missing_pyserini_is_said_before_any_work(
    make_corpus: MakeCorpus, cache: Path, monkeypatch: pytest.MonkeyPatch, selector: str
) -> None:
    monkeypatch.setattr(lucene, "find_spec", lambda name: None)
    message = r"pyserini and jnius.*pip install .*\[lucene\]'.*openjdk-21-jdk-headless"
    with pytest.raises(MissingPrerequisiteError, match=message):
        open_first_stage(selector, make_corpus("wing"))
    assert not cache.exists()


def test_missing_java_is_said_before_any_work(
    make_corpus: MakeCorpus, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lucene, "find_spec", lambda name: name)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with raises(MissingPrerequisiteError, "JAVA_HOME", "openjdk-21-jdk-headless"):
        open_first_stage("lucene", make_corpus("wing"))
    assert not cache.exists()


def test_languages() -> None:
    assert [analyzer_code(code) for code in ("en", "EN-us", "zh-TW", "nn", "yue", "eo", "und")] == [
        "en",
        "en",
        "zh",
        "no",
        "zh",
        "*",
        "*",
    ]


def test_ties_at_the_cut_are_settled_by_the_collections_ids() -> None:
    ids = {"0": "b", "1": "a", "2": "c", "3": "d"}
    asked: list[set[str]] = []

    def texts(inner: Iterable[str]) -> Mapping[str, Document]:
        asked.append(set(inner))
        return {key: Document(id=ids[key], text=ids[key].upper()) for key in asked[-1]}

    def find(text: str, k: int) -> list[tuple[str, float]]:
        return [("3", 2.0), ("0", 1.0), ("1", 1.0), ("2", 1.0)] if text else []

    queries = [Query(id="x", text="t"), Query(id="e"), Query(id="y", text="t")]
    run = LuceneRetriever(find, ids.__getitem__, texts).search(queries, 3)
    assert {query_id: ranking.doc_ids for query_id, ranking in run.items()} == {
        "x": ("d", "c", "b"),
        "e": (),
        "y": ("d", "c", "b"),
    }
    assert (run["x"].scores, run["x"].docs[0].text, run.name) == ((2.0, 1.0, 1.0), "D", "lucene")
    assert asked == [{"3", "2", "0"}]  # what is cut off is not read
    with raises(UsageError, "0"):
        LuceneRetriever(find, ids.__getitem__, texts).search(queries, 0)


@pytest.fixture
def pyserini(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Modules in place of Pyserini's; the names that were downloaded."""
    downloaded: list[str] = []

    def download(name: str, *, verbose: bool) -> str:
        sys.stdout.write("Downloading")
        downloaded.append(name)
        if name == "unreachable":
            raise ValueError("Unable to download prebuilt index at any known URLs.")
        return f"/kept/{name}"

    package, info, util = (ModuleType(f"pyserini{name}") for name in ("", ".prebuilt_index_info", ".util"))
    info.__dict__["TF_INDEX_INFO"] = {"msmarco-v1-passage": {}, "unreachable": {}}
    util.__dict__["download_prebuilt_index"] = download
    for module in (package, info, util):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return downloaded


def test_a_folder_is_taken_before_a_name(tmp_path: Path, pyserini: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msmarco-v1-passage").mkdir()
    assert index.locate_index("msmarco-v1-passage") == Path("msmarco-v1-passage")
    assert pyserini == []


def test_a_name_is_downloaded_and_nothing_printed(pyserini: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert index.locate_index("msmarco-v1-passage") == Path("/kept/msmarco-v1-passage")
    assert pyserini == ["msmarco-v1-passage"]
    assert capsys.readouterr().out == ""


def test_indexes_that_are_not_there(tmp_path: Path, pyserini: list[str]) -> None:
    with pytest.raises(MissingResourceError):
        index.locate_index(str(tmp_path / "gone"))
    with raises(UnknownNameError, "'msmarco-passage'"):
        index.locate_index("msmarco-passage")
    assert pyserini == []
    with raises(MissingResourceError, "'unreachable'"):
        index.locate_index("unreachable")


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("JAVA_HOME", "JDK_HOME", "JRE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))


def jdk(home: Path, version: str) -> Path:
    (home / "bin").mkdir(parents=True)
    (home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    javac = home / "bin" / "javac"
    javac.write_text("#!/bin/sh\n")
    javac.chmod(0o755)
    return home


def test_by_the_variable_that_pyjnius_looks_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDK_HOME", str(jdk(tmp_path / "other", "25")))
    monkeypatch.setenv("JAVA_HOME", str(jdk(tmp_path / "jdk", "21.0.5")))
    assert find_java() == (tmp_path / "jdk", "21.0.5")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk" / "bin"))
    assert find_java() == (tmp_path / "jdk", "21.0.5")


def test_by_javac_on_the_path(tmp_path: Path) -> None:
    home = jdk(tmp_path / "jdk", "22")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "javac").symlink_to(home / "bin" / "javac")
    assert find_java() == (home, "22")


def test_a_home_without_a_release_file_is_asked_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\" 2023' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java() == (tmp_path, "21.0.1")


@pytest.mark.parametrize(("version", "shown"), [("17.0.9", "17.0.9"), ("1.8.0_392", "8.0_392")])
def test_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, shown: str) -> None:
    monkeypatch.setenv("JAVA_HOME", str(jdk(tmp_path / "jdk", version)))
    with pytest.raises(
        MissingPrerequisiteError, match=f"Java {shown} in .*expected 21 or newer.*openjdk-21-jdk-headless"
    ):
        find_java()


def test_none_at_all_and_a_variable_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raises(MissingPrerequisiteError, "openjdk-21-jdk-headless"):
        find_java()
    monkeypatch.setenv("JRE_HOME", str(tmp_path / "gone"))
    with raises(MissingPrerequisiteError, "JRE_HOME"):
        find_java()
