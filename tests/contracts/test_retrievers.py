"""The contract of first stages, checked for every registered one.

The test module of a first stage with required options has a function ``make_selector``, which returns a selector.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from rerank.errors import MissingPrerequisiteError, UsageError
from rerank.retrieval import first_stages, open_first_stage, retriever_index_bytes
from rerank.retrieval.base.document_stores import Qdrant
from rerank.retrieval.base.stages import RetrieverSource
from rerank.types import Document, Query, Ranking, Run
from tests.raising import raises
from tests.retrieval.encoders import Floats, save_encoder, save_multi_vector, save_splade
from tests.retrieval.stores import SearchEngine, fill_postgres, fill_qdrant, run_postgres, run_search_engine

#: First stages over document stores, which hold the documents of the tests.
STORES = {"pgvector", "qdrant", "opensearch", "elasticsearch"}
WORDS = ["wing", "water", "air", "flow", "heat"]
DOCS = {
    f"d{i}": Document(id=f"d{i}", title=f"Title {i}", text=f"{WORDS[i % 5]} {WORDS[i % 3]} {WORDS[i % 2]} 搜索引擎")
    for i in range(20)
}
QUERIES = [
    Query(id="q2", text="wing flow"),
    Query(id="q1", text="the water"),
    Query(id="q3", text="搜索"),
    Query(id="q4", text=""),
]


class Corpus:
    name, language, fingerprint = "contract", "en", "c0" * 32

    def docs(self) -> Iterator[Document]:
        return iter(DOCS.values())

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        return {doc_id: DOCS[doc_id] for doc_id in ids if doc_id in DOCS}

    def candidates(self) -> Run:
        return Run((Ranking.from_order(query, DOCS.values()) for query in QUERIES[:3]), name="own")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of embeddings with random weights."""
    pytest.importorskip("sentence_transformers")
    return save_encoder(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of sparse vectors with random weights."""
    pytest.importorskip("sentence_transformers")
    return save_splade(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def multi_vector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of token vectors with random weights."""
    pytest.importorskip("sentence_transformers")
    return save_multi_vector(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def ready(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of pictures with random weights, and ready embeddings of the documents."""
    pytest.importorskip("transformers")
    import numpy as np

    from tests.backends.seeing import make_clip

    folder = make_clip(tmp_path_factory.mktemp("models") / "clip")
    np.save(folder / "rows.npy", np.random.default_rng(0).standard_normal((len(DOCS), 12)).astype(np.float32))
    (folder / "ids.txt").write_text("\n".join(DOCS))
    return f"{folder},embeddings={folder / 'rows.npy'},ids={folder / 'ids.txt'}"


@pytest.fixture(scope="session")
def vectors(encoder: Path) -> Floats:
    pytest.importorskip("sentence_transformers")
    from rerank.indexing.text_encoder import load_text_encoder

    loaded = load_text_encoder(encoder, Qdrant("docs", model=str(encoder), device="cpu"))
    return loaded.passages([doc.full_text for doc in DOCS.values()])


@pytest.fixture
def filled_qdrant(tmp_path: Path, encoder: Path, vectors: Floats) -> str:
    pytest.importorskip("qdrant_client")
    fill_qdrant(tmp_path / "qdrant", DOCS.values(), vectors)
    return f"qdrant:docs,path={tmp_path / 'qdrant'},id=doc,title=title,model={encoder},device=cpu"


@pytest.fixture
def filled_pgvector(
    socket_enabled: None, encoder: Path, vectors: Floats, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    pytest.importorskip("psycopg")
    with run_postgres() as address:
        fill_postgres(address, DOCS.values(), vectors)
        monkeypatch.setenv("DATABASE_URL", address)
        yield f"pgvector:docs,title=title,model={encoder},device=cpu"


@pytest.fixture
def filled_elasticsearch(socket_enabled: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("elasticsearch")
    rows = {doc.id: {"title": doc.title, "text": doc.text} for doc in DOCS.values()}
    with run_search_engine(SearchEngine(rows, 16)) as address:
        monkeypatch.setenv("ELASTICSEARCH_URL", address)
        yield "elasticsearch:docs,title=title"


@pytest.fixture
def filled_opensearch(
    socket_enabled: None, encoder: Path, vectors: Floats, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    pytest.importorskip("opensearchpy")
    rows = {
        doc.id: {"title": doc.title, "text": doc.text, "embedding": vector.tolist()}
        for doc, vector in zip(DOCS.values(), vectors, strict=True)
    }
    with run_search_engine(SearchEngine(rows, vectors.shape[1])) as address:
        monkeypatch.setenv("OPENSEARCH_URL", address)
        yield f"opensearch:docs,title=title,vector=embedding,model={encoder},device=cpu"


def selector_of(name: str) -> str:
    """Return the selector of a first stage: its name, or what its test module's ``make_selector`` returns."""
    required = [p for p in inspect.signature(first_stages.get(name)).parameters.values() if p.default is p.empty]
    if not required:
        return name
    selector: str = importlib.import_module(f"tests.retrieval.test_{name}").make_selector()
    return selector


@pytest.fixture(params=first_stages.names())
def retriever(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RetrieverSource:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "run.trec"
    rows = [f"{query.id} Q0 {doc_id} 0 {20 - i} tag\n" for query in QUERIES[:3] for i, doc_id in enumerate(DOCS)]
    file.write_text("".join(rows))
    if request.param == "dense":
        pytest.importorskip("faiss")
        return open_first_stage(f"dense:{request.getfixturevalue('encoder')},device=cpu", Corpus())
    if request.param == "images":
        pytest.importorskip("faiss")
        pytest.importorskip("PIL")
        return open_first_stage(f"images:{request.getfixturevalue('ready')},device=cpu", Corpus())
    if request.param == "sparse":
        return open_first_stage(f"sparse:{request.getfixturevalue('splade')},device=cpu", Corpus())
    if request.param in STORES:
        return open_first_stage(request.getfixturevalue(f"filled_{request.param}"), Corpus())
    if request.param == "late_interaction":
        return open_first_stage(f"late-interaction:{request.getfixturevalue('multi_vector')},device=cpu", Corpus())
    try:
        selectors = {"run": f"run:{file}", "hybrid": "hybrid:bm25+candidates"}
        return open_first_stage(selectors.get(request.param) or selector_of(request.param), Corpus())
    except MissingPrerequisiteError as error:
        pytest.skip(str(error))


def as_lists(run: Run) -> list[tuple[str, tuple[str, ...], tuple[float, ...]]]:
    return [(query_id, ranking.doc_ids, ranking.scores) for query_id, ranking in run.items()]


@pytest.mark.parametrize("k", [1, 3, 1000])
def test_at_most_k_documents_and_at_least_one(retriever: RetrieverSource, k: int) -> None:
    run = retriever.search(QUERIES, k)
    for query in QUERIES[:3]:  # English and Chinese
        assert 1 <= len(run[query.id]) <= min(k, len(DOCS)), query.text


def test_documents_are_the_collections_own_and_come_once(retriever: RetrieverSource) -> None:
    for ranking in retriever.search(QUERIES, 50).values():
        assert ranking.docs == tuple(DOCS[doc_id] for doc_id in ranking.doc_ids)
        assert len(set(ranking.doc_ids)) == len(ranking)


def test_queries_come_back_as_asked_and_in_order(retriever: RetrieverSource) -> None:
    found = [ranking.query for ranking in retriever.search(QUERIES, 3).values()]
    assert found == [query for query in QUERIES if query in found]
    assert found[:3] == QUERIES[:3]


def test_empty_query_finds_nothing(retriever: RetrieverSource) -> None:
    assert len(retriever.search(QUERIES, 3).get("q4", ())) == 0


def test_no_queries(retriever: RetrieverSource) -> None:
    assert len(retriever.search([], 3)) == 0


def test_same_again_alone_and_together(retriever: RetrieverSource) -> None:
    together = retriever.search(QUERIES, 5)
    assert as_lists(retriever.search(QUERIES, 5)) == as_lists(together)
    alone = [row for query in QUERIES[:3] for row in as_lists(retriever.search([query], 5))]
    assert alone == as_lists(together)[:3]


def test_shorter_lists_are_the_beginning_of_longer_ones(retriever: RetrieverSource) -> None:
    longer = retriever.search(QUERIES, 12)
    for k in range(1, 12):
        assert as_lists(retriever.search(QUERIES, k)) == as_lists(longer.top(k))


def test_depth_below_one_is_refused(retriever: RetrieverSource) -> None:
    with raises(UsageError, "1"):
        retriever.search(QUERIES, 0)


def test_the_size_of_the_index_is_told(retriever: RetrieverSource, tmp_path: Path) -> None:
    built = [path for path in (tmp_path / "cache").glob("listrank/indexes/*/*") if path.is_dir()]
    files = [file for path in built if not path.name.startswith("documents-") for file in path.rglob("*")]
    assert retriever_index_bytes(retriever) == sum(file.stat().st_size for file in files if file.is_file())
