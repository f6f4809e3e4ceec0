"""Dense retrieval with an encoder that is no model: indexes, ties, texts, options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("faiss")

from rerank.collections.base import Corpus
from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.indexing.vector_index import FlatIndex, nearest_vectors
from rerank.retrieval import first_stages, open_first_stage
from rerank.retrieval.dense import Dense, DenseRetriever
from rerank.types import Document, Query, ranking_tie_sort_key
from tests.raising import raises
from tests.retrieval.conftest import MakeCorpus
from tests.retrieval.encoders import Fake, Floats

MANY = [f"document number {i}" for i in range(600)]


def search(corpus: Corpus, text: str, k: int = 5, *, encoder: Fake | None = None, **options: Any) -> list[str]:
    retriever = DenseRetriever(Dense(**options), corpus, encoder or Fake())
    return list(retriever.search([Query(id="q", text=text)], k)["q"].doc_ids)


def expected(texts: list[str], query: str) -> list[str]:
    fake = Fake()
    scores = {f"d{i}": float(fake.vector(text) @ fake.vector(query)) for i, text in enumerate(texts, 1)}
    return sorted(scores, key=lambda name: scores[name], reverse=True)


def test_flat_is_the_order_of_the_inner_products(make_corpus: MakeCorpus) -> None:
    assert search(make_corpus(*MANY), "a query", 20) == expected(MANY, "a query")[:20]


def test_a_text_is_nearest_to_itself_and_scores_are_cosines(make_corpus: MakeCorpus) -> None:
    retriever = DenseRetriever(Dense(), make_corpus(*MANY), Fake())
    ranking = retriever.search([Query(id="q", text=MANY[41])], 3)["q"]
    assert ranking.docs[0] == Document(id="d42", text=MANY[41])
    assert ranking.scores[0] == pytest.approx(1.0, abs=1e-6)
    assert ranking.scores[2] == pytest.approx(float(Fake().vector(MANY[41]) @ Fake().vector(ranking.docs[2].text)))


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"index": "hnsw"}, 0.95),
        ({"index": "ivfpq"}, 0.95),
        ({"index": "ivfpq", "nlist": 8, "pq": 8, "nprobe": 8, "rescore": 0}, 0.5),
        ({"index": "ivfpq", "nlist": 8, "nprobe": 1}, 0.1),
    ],
)
def test_what_approximate_indexes_find_of_the_exact_list(
    make_corpus: MakeCorpus, options: dict[str, Any], least: float
) -> None:
    corpus = make_corpus(*MANY)
    queries = [Query(id=f"q{i}", text=f"query {i}") for i in range(40)]
    exact = DenseRetriever(Dense(), corpus, Fake()).search(queries, 10)
    found = DenseRetriever(Dense(**options), corpus, Fake()).search(queries, 10)
    shares = [len({*exact[q.id].doc_ids} & {*found[q.id].doc_ids}) / 10 for q in queries]
    assert least <= sum(shares) / len(shares) <= 1
    if options.get("rescore") != 0:
        for query in queries:
            scores = dict(zip(exact[query.id].doc_ids, exact[query.id].scores, strict=True))
            both = [(s, scores[d]) for d, s in zip(*_pair(found[query.id]), strict=True) if d in scores]
            assert [a for a, _ in both] == pytest.approx([b for _, b in both], abs=1e-6)


def _pair(ranking: Any) -> tuple[tuple[str, ...], tuple[float, ...]]:
    return ranking.doc_ids, ranking.scores


@pytest.mark.parametrize("index", ["flat", "hnsw", "ivfpq"])
def test_lists_depend_neither_on_other_queries_nor_on_depth(make_corpus: MakeCorpus, index: Any) -> None:
    retriever = DenseRetriever(Dense(index=index), make_corpus(*MANY), Fake())
    queries = [Query(id=f"q{i}", text=f"query {i}") for i in range(40)]
    together = retriever.search(queries, 12)
    for query in queries[::7]:
        assert _pair(retriever.search([query], 12)[query.id]) == _pair(together[query.id])
        for k in (1, 5, 11):
            assert _pair(retriever.search([query], k)[query.id]) == _pair(together[query.id].top(k))


@pytest.mark.parametrize("index", ["flat", "hnsw", "ivfpq"])
def test_ties_at_the_cut_are_decided_by_id(make_corpus: MakeCorpus, index: Any) -> None:
    same = [Document(id=str(i), text="the same") for i in range(30)]
    corpus = make_corpus(*same, *MANY)
    ids = sorted((doc.id for doc in same), reverse=True)
    for k in (1, 4, 29, 30):
        assert search(corpus, "the same", k, index=index) == ids[:k]


@given(
    scores=st.lists(st.sampled_from([0.0, 0.5, 1.0, -1.0]), min_size=1, max_size=40),
    k=st.integers(1, 45),
    data=st.data(),
)
def test_nearest_is_the_tie_rule(scores: list[float], k: int, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text(max_size=3), min_size=len(scores), max_size=len(scores), unique=True))
    ranks = np.array([sorted(names).index(name) for name in names], dtype=np.int64)
    row = np.array(scores, dtype=np.float32)
    arbitrary = data.draw(st.permutations(range(len(scores))))

    def top(queries: Floats, depth: int) -> tuple[Floats, Any]:
        order = np.array(sorted(arbitrary, key=lambda at: -scores[at])[:depth])
        return np.tile(row[order], (len(queries), 1)), np.tile(order, (len(queries), 1))

    found = list(nearest_vectors(top, np.zeros((18, 2), dtype=np.float32), k, ranks))
    wanted = sorted(range(len(scores)), key=lambda at: ranking_tie_sort_key(scores[at], names[at]), reverse=True)[:k]
    assert [positions.tolist() for positions, _ in found] == [wanted] * 18


@given(
    rows=st.lists(st.sampled_from([(0.6, 0.8), (0.8, 0.6), (-0.6, 0.8), (1.0, 0.0)]), min_size=1, max_size=40),
    shard=st.integers(1, 45),
    k=st.integers(1, 45),
)
def test_flat_shards_give_the_results_of_one_matrix(rows: list[tuple[float, float]], shard: int, k: int) -> None:
    matrix, ranks = np.array(rows, dtype=np.float32), np.random.default_rng(0).permutation(len(rows))
    queries = np.random.default_rng(1).standard_normal((33, 2)).astype(np.float32)
    whole, parts = (
        [
            (positions.tobytes(), scores.tobytes())
            for positions, scores in nearest_vectors(FlatIndex(size).read(matrix, Path()), queries, k, ranks)
        ]
        for size in (1000, shard)
    )
    assert whole == parts


def test_places_that_an_index_leaves_empty_are_no_documents() -> None:
    def top(queries: Floats, depth: int) -> tuple[Floats, Any]:
        return np.array([[0.5, -np.inf, -np.inf]], dtype=np.float32), np.array([[1, -1, -1]])

    ((positions, scores),) = nearest_vectors(top, np.zeros((1, 2), dtype=np.float32), 2, np.arange(9))
    assert (positions.tolist(), scores.tolist()) == ([1], [0.5])


def test_empty_queries_and_more_than_there_is(make_corpus: MakeCorpus) -> None:
    retriever = DenseRetriever(Dense(), make_corpus("one", "two", ""), Fake())
    run = retriever.search([Query(id="b", text="one"), Query(id="a", text=" \n"), Query(id="c", text="")], 50)
    assert (list(run), run.name) == (["b", "a", "c"], "dense")
    assert [len(ranking) for ranking in run.values()] == [3, 0, 0]
    assert len(retriever.search([], 3)) == 0


def test_odd_ids_and_texts(make_corpus: MakeCorpus) -> None:
    docs = [Document(id=i, text=f"text {i}") for i in ("a/b", "..", "ü 漢", "\t", '"', "\ud800", "x" * 300)]
    for doc in docs:
        assert search(make_corpus(*docs), doc.text, 1) == [doc.id]


def test_titles_are_embedded_unless_left_out(make_corpus: MakeCorpus) -> None:
    corpus, both, body = make_corpus(Document(id="x", title="Wings", text="They fly.")), Fake(), Fake()
    search(corpus, "q", encoder=both)
    search(corpus, "q", encoder=body, fields="text")
    assert (both.batches, body.batches) == ([["Wings\nThey fly."]], [["They fly."]])


def test_batches_are_sorted_by_length(make_corpus: MakeCorpus) -> None:
    fake = Fake()
    search(make_corpus("aa", "a", "aaaa", "bb", "aaa"), "q", encoder=fake, batch_size=2)
    assert fake.batches == [["aaaa", "aaa"], ["aa", "bb"], ["a"]]


def test_progress_is_told_now_and_then(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search(make_corpus("silent"), "q")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("rerank.progress._INTERVAL", 0.0)
    search(make_corpus("a", "b", "c"), "q", batch_size=2)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("embedding documents: 2 of 3, ")  # and the remaining time
    assert last == "embedding documents: 3 of 3"


def test_progress_is_a_bar_on_a_terminal(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    search(make_corpus("a", "b", "c"), "q", batch_size=2)
    assert "embedding documents" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": "ivfpq"}, r"over 2 documents.*at least 256.*index=flat"),
        ({"index": "ivfpq", "nlist": 1000}, r"1000 cells.*at least 1000"),
    ],
)
def test_too_few_documents_for_cells(make_corpus: MakeCorpus, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        search(make_corpus("wing", "water"), "q", **options)


def test_codes_that_do_not_divide_the_dimensions(make_corpus: MakeCorpus) -> None:
    with raises(UsageError, "5", "16"):
        search(make_corpus(*MANY), "q", index="ivfpq", pq=5)


@pytest.mark.parametrize(
    ("selector", "error", "message"),
    [
        ("dense,index=lsh", UsageError, "index='lsh'.*flat, hnsw, ivfpq"),
        ("dense,batch_size=0", UsageError, "batch_size=0.*at least 1"),
        ("dense,dim=-1", UsageError, "dim=-1.*at least 0"),
        ("dense,m=1", UsageError, "m=1.*at least 2"),
        ("dense,dtype=int8", UsageError, "dtype='int8'"),
        ("dense,k=3", UnknownNameError, "'k'"),
        ("dense:smollm2-135m", UsageError, "language model.*all-minilm-l6-v2"),
        ("dense:all-minilm-l6", UnknownNameError, "Did you mean 'all-minilm-l6-v2'"),
    ],
)
def test_bad_options(make_corpus: MakeCorpus, selector: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_first_stage(selector, make_corpus("wing"))


@pytest.mark.parametrize("module", ["faiss", "sentence_transformers"])
def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, module, None)
    with raises(MissingPrerequisiteError, "[dense]'"):
        Dense().check_prerequisites()


def test_looking_at_the_options_imports_nothing_heavy() -> None:
    code = """
import sys
from rerank.retrieval import first_stages
first_stages.names(), first_stages.get("dense")("some/model", index="hnsw")
heavy = ("torch", "transformers", "faiss", "sentence_transformers", "numpy")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), "dense" in first_stages.names()) == ("[]", True)
