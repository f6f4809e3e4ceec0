"""Learned sparse retrieval: against dense matrix products, cut off and gone on with, and with tiny real models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from rerank.collections.base import Corpus
from rerank.errors import BackendError, MissingPrerequisiteError, StorageError, UsageError
from rerank.retrieval import first_stages, open_first_stage
from rerank.retrieval.sparse import Sparse, SparseRetriever
from rerank.retrieval.sparse.vectors import _block_edges, _concatenate_ranges, _Rows
from rerank.types import Document, Query, ranking_tie_sort_key
from tests.raising import raises
from tests.retrieval.encoders import FakeSparse

MakeCorpus = Callable[..., Corpus]
WORDS = [f"w{n}" for n in range(40)]
MANY = [" ".join(WORDS[(n * step) % 40] for step in range(1, 2 + n % 9)) for n in range(300)]
OPTIONS = Sparse("fake")


def retriever_of(corpus: Corpus, encoder: FakeSparse | None = None, **options: Any) -> SparseRetriever:
    return SparseRetriever(Sparse("fake", **options), corpus, encoder or FakeSparse())


def expected(texts: list[str], query: str, k: int) -> list[tuple[str, float]]:
    fake = FakeSparse()
    products = fake.dense(texts) @ fake.dense([query])[0]
    found = [(f"d{n}", float(product)) for n, product in enumerate(products, 1) if product > 0]
    return sorted(found, key=lambda item: ranking_tie_sort_key(item[1], item[0]), reverse=True)[:k]


def folders(cache: Path) -> list[Path]:
    return sorted(path for path in cache.glob("indexes/*/sparse-*") if path.is_dir())


@pytest.mark.parametrize("documents", [1 << 15, 7])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_lists_are_those_of_a_dense_product(
    make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch, documents: int, k: int
) -> None:
    monkeypatch.setattr("rerank.retrieval.sparse.vectors._DOCUMENTS", documents)
    retriever = retriever_of(make_corpus(*MANY))
    queries = [Query(id=text, text=text) for text in MANY[:20]]
    for query, ranking in retriever.search(queries, k).items():
        assert list(zip(ranking.doc_ids, ranking.scores, strict=True)) == expected(MANY, query, k)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=30), documents=st.integers(1, 9), weights=st.integers(1, 12)
)
def test_blocks_cover_every_document_and_keep_to_their_bounds(counts: list[int], documents: int, weights: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rerank.retrieval.sparse.vectors._DOCUMENTS", documents)
        patch.setattr("rerank.retrieval.sparse.vectors._WEIGHTS", weights)
        edges = _block_edges(np.array(counts)).tolist()
    assert (edges[0], edges[-1]) == (0, len(counts))
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        assert 0 < end - start <= documents
        assert sum(counts[start:end]) <= weights or end - start == 1


def test_ranges() -> None:
    assert _concatenate_ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert _concatenate_ranges(np.array([], np.int64), np.array([], np.int64)).tolist() == []


def test_ties_by_id_empty_queries_and_documents(make_corpus: MakeCorpus) -> None:
    docs = [*(Document(id=str(n), text="w1 w2") for n in range(30)), Document(id="empty"), Document(id="o", text="w9")]
    retriever = retriever_of(make_corpus(*docs))
    queries = [Query(id="a", text="w1"), Query(id="b", text=" "), Query(id="c", text="")]
    run = retriever.search(queries, 4)
    assert run["a"].doc_ids == tuple(sorted(map(str, range(30)), reverse=True)[:4])
    assert (len(run["b"]), len(run["c"]), list(run), run.name) == (0, 0, ["a", "b", "c"], "sparse")
    assert len(retriever.search(queries, 99)["a"]) == 30
    assert len(retriever.search([], 3)) == 0
    with raises(UsageError, "1"):
        retriever.search(queries, 0)


def test_a_collection_without_any_dimension(make_corpus: MakeCorpus) -> None:
    retriever = retriever_of(make_corpus("", " "))
    assert len(retriever.search([Query(id="q", text="w1")], 3)["q"]) == 0


def test_title_is_encoded_unless_left_out(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus, both, body = make_corpus(Document(id="x", title="w1", text="w2")), FakeSparse(), FakeSparse()
    retriever_of(corpus, both)
    retriever_of(corpus, body, fields="text")
    assert (both.batches, body.batches) == ([["w1\nw2"]], [["w2"]])
    assert len(folders(cache)) == 2


@pytest.mark.parametrize(
    ("encoder", "options", "made"),
    [
        (FakeSparse(), {}, 1),
        (FakeSparse(), {"batch_size": 3}, 1),
        (FakeSparse(query_prompt="query: "), {}, 1),
        (FakeSparse(identity={"weights": "other"}), {}, 2),
    ],
)
def test_what_makes_new_vectors(
    make_corpus: MakeCorpus, cache: Path, encoder: FakeSparse, options: dict[str, Any], made: int
) -> None:
    corpus = make_corpus(*MANY)
    first = retriever_of(corpus)
    second = retriever_of(corpus, encoder, **options)
    assert len(folders(cache)) == made
    assert sum(map(len, encoder.batches)) == (len(MANY) if made == 2 else 0)
    assert (first.identity == second.identity) is (
        encoder.identity == {"weights": "fake"} and not encoder.query_identity["query_prompt"]
    )
    assert second.folders[0].is_dir()


def test_a_changed_document_makes_new_vectors(make_corpus: MakeCorpus, cache: Path) -> None:
    retriever_of(make_corpus(*MANY))
    retriever_of(make_corpus(*MANY[:-1], "changed"))
    assert len(folders(cache)) == 2


DYING = """
    import os, signal, sys
    from rerank.retrieval.sparse import Sparse, SparseRetriever
    from rerank.types import Document
    from tests.retrieval.encoders import FakeSparse
    from tests.retrieval.test_sparse import MANY

    class Tiny:
        name, language, fingerprint = "tiny", "en", sys.argv[1]
        def docs(self):
            return (Document(id=f"d{i}", text=text) for i, text in enumerate(MANY, 1))

    class Dying(FakeSparse):
        def passages(self, texts):
            if len(self.batches) == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().passages(texts)

    SparseRetriever(Sparse("fake", batch_size=32), Tiny(), Dying())
"""


def kill(corpus: Corpus, after: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(DYING), corpus.fingerprint, str(after)]
    done = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.returncode == -9


def test_killed_twice_and_gone_on_with(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus, unbroken, rest = make_corpus(*MANY), FakeSparse(), FakeSparse()
    retriever_of(corpus, unbroken, batch_size=32)
    (folder,) = folders(cache)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    kill(corpus, 2)
    (partial,) = cache.glob("indexes/*/*.partial")
    with (partial / "values.bin").open("ab") as file:
        file.write(b"what a kill leaves in the middle of a batch")
    kill(corpus, 3)
    assert json.loads((partial / "committed.json").read_text())["rows"] == 5 * 32
    retriever_of(corpus, rest, batch_size=32)
    assert rest.batches == unbroken.batches[5:]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert not partial.exists()


@pytest.mark.parametrize("name", ["counts.bin", "dimensions.bin", "values.bin", "committed.json"])
def test_leftovers_that_do_not_fit_are_begun_again(make_corpus: MakeCorpus, cache: Path, name: str) -> None:
    corpus, fake = make_corpus(*MANY), FakeSparse()
    kill(corpus, 2)
    (partial,) = cache.glob("indexes/*/*.partial")
    (partial / name).write_bytes((partial / name).read_bytes()[:-1])
    retriever_of(corpus, fake)
    assert sum(map(len, fake.batches)) == len(MANY)


@pytest.mark.parametrize("name", ["rows.npy", "values.npy", "columns.npy", "blocks.npy"])
def test_damaged_files_are_made_anew(make_corpus: MakeCorpus, cache: Path, name: str) -> None:
    corpus = make_corpus(*MANY)
    before = retriever_of(corpus).search([Query(id="q", text="w1 w2")], 9)["q"]
    file = folders(cache)[0] / name
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.warns(UserWarning, match="damaged .* built again"):
        again = retriever_of(corpus)
    assert again.search([Query(id="q", text="w1 w2")], 9)["q"] == before


def test_a_model_that_fails_loses_nothing(make_corpus: MakeCorpus) -> None:
    class Failing(FakeSparse):
        def passages(self, texts: Any) -> csr_array:
            if len(self.batches) == 2:
                raise BackendError("The model fell over")
            return super().passages(texts)

    corpus, rest = make_corpus("w1", "w1 w2", "w1 w2 w3", "w1 w2 w3 w4"), FakeSparse()
    with pytest.raises(BackendError):
        retriever_of(corpus, Failing(), batch_size=1)
    retriever_of(corpus, rest, batch_size=1)
    assert rest.batches == [["w1 w2"], ["w1"]]


def test_full_disk(make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    corpus = make_corpus(*MANY)
    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(_Rows, "add", full)
        retriever_of(corpus)
    assert len(retriever_of(corpus).search([Query(id="q", text="w1")], 5)["q"]) == 5


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("sparse", "sparse:MODEL"),
        ("sparse:x/y,batch_size=0", "batch_size=0.*at least 1"),
        ("sparse:x/y,max_active_dims=-1", "max_active_dims=-1.*at least 0"),
        ("sparse:x/y,dtype=int8", "dtype='int8'"),
        ("sparse:all-minilm-l6-v2", "an embedding model.*a sparse model"),
        ("sparse:smollm2-135m", "a language model.*a sparse model"),
    ],
)
def test_bad_options(make_corpus: MakeCorpus, selector: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_first_stage(selector, make_corpus("w1"))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with raises(MissingPrerequisiteError, "[sparse]'"):
        OPTIONS.check_prerequisites()


def test_looking_at_the_options_imports_nothing_heavy() -> None:
    code = """
import sys
from rerank.retrieval import first_stages
first_stages.get("sparse")("some/model", batch_size=2)
print([name for name in ("torch", "transformers", "scipy", "sentence_transformers", "numpy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), "sparse" in first_stages.names()) == ("[]", True)
