"""Lucene over real indexes, by real Java: needs the extra ``lucene`` and a JDK."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from ir_measures import AP, R, nDCG

from rerank.collections import open_collection
from rerank.collections.base import Corpus
from rerank.errors import BackendError, DataError, MissingPrerequisiteError
from rerank.retrieval import open_first_stage
from rerank.retrieval.lucene import Lucene
from rerank.types import Document, Query
from tests.raising import raises
from tests.retrieval.conftest import MakeCorpus

pytestmark = pytest.mark.lucene


@pytest.fixture(autouse=True)
def ready() -> None:
    try:
        Lucene().check_prerequisites()
    except MissingPrerequisiteError as error:
        pytest.skip(str(error))


def ids(corpus: Corpus, text: str, *, k: int = 10, selector: str = "lucene") -> tuple[str, ...]:
    return open_first_stage(selector, corpus).search([Query(id="q", text=text)], k)["q"].doc_ids


def test_builds_once_and_shares_the_index_between_options(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus = make_corpus("the wing of a plane", "boiling water", "flying with two wings", "", "  \u00a0")
    assert set(ids(corpus, "wings")) == {"d1", "d3"}
    (folder,) = cache.glob("indexes/*/lucene-*")
    built = folder.stat().st_mtime_ns
    assert ids(corpus, "the boiled water", selector="lucene,k1=2,b=0") == ("d2",)
    assert set(ids(corpus, "wing", selector="lucene,rm3=true,fb-docs=2,original_weight=0.9")) == {"d1", "d3"}
    assert [path.stat().st_mtime_ns for path in cache.glob("indexes/*/lucene-*")] == [built]
    assert vars(corpus)["passes"] == 1
    assert not list(cache.glob("indexes/*/.building-*"))
    assert ids(corpus, "wing", selector="lucene,fields=text")
    assert len(list(cache.glob("indexes/*/lucene-*"))) == 2


def test_ties_at_the_cut_are_decided_by_id(make_corpus: MakeCorpus) -> None:
    many = [Document(id=str(i), text="wing") for i in range(40)]
    corpus = make_corpus(*many, "wing wing")
    expected = ("d41", *sorted((doc.id for doc in many), reverse=True))
    for k in (1, 2, 15, 41):
        assert ids(corpus, "wing", k=k) == expected[:k]
    assert ids(corpus, "wing", k=3, selector="lucene,rm3=true") == expected[:3]


@pytest.mark.parametrize("selector", ["lucene", "lucene,rm3=true"])
@pytest.mark.parametrize("text", ["", "the of and", "unheard", "?!", "\ud83d"])
def test_queries_that_match_nothing_get_an_empty_list(make_corpus: MakeCorpus, text: str, selector: str) -> None:
    assert ids(make_corpus("wing", "water"), text, selector=selector) == ()


def test_a_query_as_long_as_a_document(make_corpus: MakeCorpus) -> None:
    words = " ".join(f"word{i}" for i in range(3000))
    assert ids(make_corpus(words, "water"), words) == ("d1",)


def test_half_a_surrogate_pair_and_odd_ids(make_corpus: MakeCorpus) -> None:
    doc = Document(id="a b/\u00e9", text="wing \ud83d", title="x")
    ranking = open_first_stage("lucene", make_corpus(doc)).search([Query(id="q", text="wing \ud83d")], 3)["q"]
    assert ranking.docs == (doc,)


@pytest.mark.parametrize(
    ("language", "texts", "query"),
    [
        ("de", ("Die H\u00e4user am Fluss", "Ein Baum"), "Haus"),
        (
            "zh",
            ("\u5317\u4eac\u662f\u4e2d\u56fd\u7684\u9996\u90fd", "\u4e0a\u6d77\u5728\u4e1c\u6d77\u8fb9"),
            "\u9996\u90fd",
        ),
        ("ja", ("\u6771\u4eac\u90fd\u306b\u4f4f\u3080", "\u732b\u304c\u597d\u304d"), "\u6771\u4eac"),
        ("nb", ("mange biler her", "et hus"), "bil"),
        ("pl", ("stare domy", "psy i koty"), "dom"),
        ("eo", ("La hundo kuras", "kato"), "hundo"),
    ],
)
def test_the_analyzer_is_the_languages(
    make_corpus: MakeCorpus, language: str, texts: tuple[str, str], query: str
) -> None:
    corpus = make_corpus(*texts, language=language)
    assert ids(corpus, query) == ("d1",)
    assert ids(corpus, query, selector="lucene,rm3=true")[0] == "d1"


def test_without_an_analyzer_nothing_is_stopped_or_stemmed(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus("the wings", "water", language="eo")
    assert ids(corpus, "the") == ("d1",)
    assert ids(corpus, "wing") == ()


def test_no_text_at_all(make_corpus: MakeCorpus) -> None:
    with raises(DataError, "2"):
        open_first_stage("lucene", make_corpus("", " \t"))


def test_indexer_that_fails(make_corpus: MakeCorpus, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.retrieval.lucene.index._INDEXER", "pyserini.no.such.module")
    with raises(BackendError, "1"):
        open_first_stage("lucene", make_corpus("wing"))
    assert [path.name.split("-")[0] for path in cache.glob("indexes/*/*")] == ["documents"]


def test_damaged_index_is_made_anew(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus = make_corpus("wing", "water")
    ids(corpus, "wing")
    (segments,) = cache.glob("indexes/*/lucene-*/segments_*")
    segments.write_bytes(b"x" * segments.stat().st_size)
    with pytest.warns(UserWarning, match="is damaged"):
        assert ids(corpus, "wing") == ("d1",)


@pytest.fixture
def anserini(tmp_path: Path) -> Callable[..., Path]:
    """An index as people make it by Pyserini's own command."""

    def make(*options: str) -> Path:
        source, index = tmp_path / "source", tmp_path / "index"
        source.mkdir()
        docs = [{"id": "d1", "contents": "wing"}, {"id": "d2", "contents": "wing"}, {"id": "d3", "contents": "water"}]
        (source / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        command = [sys.executable, "-m", "pyserini.index.lucene", "--collection", "JsonCollection", "--threads", "1"]
        command += ["--generator", "DefaultLuceneDocumentGenerator", "--input", str(source), "--index", str(index)]
        subprocess.run([*command, *options], check=True, capture_output=True)
        return index

    return make


def test_an_index_that_is_there(make_corpus: MakeCorpus, anserini: Callable[..., Path], cache: Path) -> None:
    index = anserini("--storeRaw")
    corpus = make_corpus("one", "two", "three")
    run = open_first_stage(f"lucene:{index}", corpus).search([Query(id="q", text="wings")], 5)
    assert [doc.text for doc in run["q"].docs] == ["two", "one"]
    assert not cache.exists()
    with pytest.raises(DataError):
        open_first_stage(f"lucene:{index},rm3=true", corpus)
    with raises(DataError, "'tiny'", "'d2'"):
        open_first_stage(f"lucene:{index}", make_corpus("one")).search([Query(id="q", text="wings")], 5)


def test_a_folder_that_is_no_index(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        open_first_stage(f"lucene:{tmp_path}", make_corpus("one"))


def test_scores_are_those_of_pyserinis_searcher(make_corpus: MakeCorpus, cache: Path) -> None:
    from pyserini.pyclass import autoclass

    corpus = make_corpus(
        "wing and flow", "flow of water over a wing", "boundary layer flow", "heat of water", "wing wing"
    )
    for rm3 in ("", ",rm3=true,fb_docs=2"):
        ours = open_first_stage(f"lucene,k1=1.2,b=0.5{rm3}", corpus).search([Query(id="q", text="wing flow")], 9)["q"]
        (folder,) = cache.glob("indexes/*/lucene-*")
        searcher: Any = autoclass("io.anserini.search.SimpleSearcher")(str(folder))
        searcher.set_bm25(1.2, 0.5)
        if rm3:
            searcher.set_rm3(None, 10, 2, 0.5, False, True)
        theirs = {f"d{int(hit.docid) + 1}": hit.score for hit in searcher.search("wing flow", 9)}
        assert dict(zip(ours.doc_ids, ours.scores, strict=True)) == pytest.approx(theirs, abs=2e-4)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("lucene,fields=text", {"nDCG@10": 0.3416, "AP@100": 0.2722, "R@100": 0.7206}),
        ("lucene,fields=text,rm3=true", {"nDCG@10": 0.3605, "AP@100": 0.3068, "R@100": 0.7321}),
    ],
)
def test_cranfield(shared: Path, selector: str, expected: dict[str, float]) -> None:
    collection = open_collection(f"cranfield:{shared / 'data/cranfield'}")
    run = open_first_stage(selector, collection).search(collection.queries(), 100)
    scored = [
        ir_measures.ScoredDoc(query, doc.id, score)
        for query, ranking in run.items()
        for doc, score in zip(ranking.docs, ranking.scores, strict=True)
    ]
    qrels = {query: dict(judged) for query, judged in collection.qrels().items()}
    found = ir_measures.calc_aggregate([nDCG @ 10, AP @ 100, R @ 100], qrels, scored)
    assert {str(measure): value for measure, value in found.items()} == pytest.approx(expected, abs=0.0006)
