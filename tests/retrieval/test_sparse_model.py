"""Learned sparse retrieval with tiny models of sentence-transformers' own classes, random weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")

import sentence_transformers

from rerank.collections.base import Corpus
from rerank.errors import BackendError, UsageError
from rerank.io.model_base import hash_encoder_folder
from rerank.retrieval import open_first_stage
from rerank.retrieval.base.model_folders import locate_retrieval_model
from rerank.retrieval.sparse import Sparse
from rerank.retrieval.sparse.vectors import SentenceSparseEncoder, load_encoder
from rerank.types import Query
from tests.raising import raises
from tests.retrieval.encoders import Floats, save_encoder, save_inference_free, save_splade

MakeCorpus = Callable[..., Corpus]
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w10 w11", "w1 w2"]


@pytest.fixture(scope="session")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_splade(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def inference_free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_inference_free(tmp_path_factory.mktemp("free"))


def load(folder: Path, **options: Any) -> SentenceSparseEncoder:
    return load_encoder(
        locate_retrieval_model(str(folder), kind="sparse"), Sparse(str(folder), device="cpu", **options)
    )


def plainly(folder: Path, texts: list[str], kind: str = "document", **settings: Any) -> Floats:
    model = sentence_transformers.SparseEncoder(str(folder), device="cpu")
    encode = getattr(model, f"encode_{kind}")
    rows = [encode([text], show_progress_bar=False, **settings).to_dense().numpy()[0] for text in texts]
    return np.stack(rows).astype(np.float32)


def test_vectors_are_those_of_the_library(splade: Path) -> None:
    encoder = load(splade)
    assert encoder.size == 95
    assert encoder.passages(TEXTS).toarray() == pytest.approx(plainly(splade, TEXTS), abs=1e-5)
    assert encoder.queries(TEXTS).toarray() == pytest.approx(plainly(splade, TEXTS, "query"), abs=1e-5)
    assert encoder.queries([]).shape == (0, 95)
    assert encoder.passages(TEXTS).dtype == np.dtype(np.float32)


def test_queries_of_an_inference_free_model_are_looked_up(inference_free: Path) -> None:
    encoder = load(inference_free)
    row = encoder.queries(["w3 w5 w3"]).toarray()[0]
    assert {at: round(float(row[at]), 4) for at in np.flatnonzero(row)} == {
        8: 0.8,
        10: 1.0,
    }  # five marks stand before w0
    assert encoder.passages(TEXTS).toarray() == pytest.approx(plainly(inference_free, TEXTS), abs=1e-5)


def test_fewest_dimensions(splade: Path) -> None:
    encoder = load(splade, max_active_dims=4, query_max_active_dims=2)
    assert np.diff(encoder.passages(TEXTS).indptr).tolist() == [4] * 5
    assert np.diff(encoder.queries(TEXTS).indptr).tolist() == [2] * 5
    whole = plainly(splade, TEXTS)
    assert encoder.passages(TEXTS).toarray().max(axis=1) == pytest.approx(whole.max(axis=1), abs=1e-5)


def test_prompts(tmp_path: Path) -> None:
    folder = save_splade(tmp_path, prompts={"query": "w20 ", "document": "w21 w22 "})
    encoder = load(folder)
    assert encoder.passages(["w1"]).toarray() == pytest.approx(plainly(folder, ["w21 w22 w1"], prompt=""), abs=1e-5)
    assert encoder.queries(["w1"]).toarray() == pytest.approx(plainly(folder, ["w20 w1"], prompt=""), abs=1e-5)
    bare = load(folder, passage_prompt="none")
    assert bare.passages(["w1"]).toarray() == pytest.approx(plainly(folder, ["w1"], prompt=""), abs=1e-5)
    assert (encoder.identity["passage_prompt"], encoder.query_identity["query_prompt"]) == ("w21 w22 ", "w20 ")


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({"max_active_dims": 3}, 2),
        ({"passage_prompt": "w1 "}, 2),
        ({"dtype": "bfloat16"}, 2),
        ({"query_prompt": "w1 "}, 1),
        ({"query_max_active_dims": 3}, 1),
        ({"batch_size": 2}, 1),
    ],
)
def test_what_makes_new_vectors(
    splade: Path, make_corpus: MakeCorpus, cache: Path, options: dict[str, Any], made: int
) -> None:
    for given in ({}, options):
        Sparse(str(splade), device="cpu", **given).over(make_corpus(*TEXTS))
    assert len([path for path in cache.glob("indexes/*/sparse-*") if path.is_dir()]) == made


def test_every_part_of_a_model_counts(splade: Path, inference_free: Path, tmp_path: Path) -> None:
    for folder in (splade, inference_free):
        whole = hash_encoder_folder(folder)
        for weights in folder.rglob("*.safetensors"):
            other = shutil.copytree(folder, tmp_path / "other")
            assert hash_encoder_folder(other) == whole
            changed = other / weights.relative_to(folder)
            changed.write_bytes(changed.read_bytes()[:-1] + b"\1")
            assert hash_encoder_folder(other) != whole
            shutil.rmtree(other)


@pytest.mark.parametrize("kind", ["splade", "inference_free"])
def test_search_is_the_librarys_inner_product(
    kind: str, request: pytest.FixtureRequest, make_corpus: MakeCorpus
) -> None:
    folder: Path = request.getfixturevalue(kind)
    texts = [f"w{n} w{n * 7 % 90} w{n * 13 % 90}" for n in range(1, 60)]
    queries = [Query(id=text, text=text) for text in TEXTS]
    run = open_first_stage(f"sparse:{folder},device=cpu,batch_size=1", make_corpus(*texts)).search(queries, 10)
    products = plainly(folder, TEXTS, "query") @ plainly(folder, texts).T
    for row, ranking in zip(products, run.values(), strict=True):
        best = np.sort(row[row > 0])[::-1][:10]
        assert ranking.scores == pytest.approx(best, rel=1e-4)
        assert [row[int(d[1:]) - 1] for d in ranking.doc_ids] == pytest.approx(best, rel=1e-4)


def test_fused_with_bm25(splade: Path, make_corpus: MakeCorpus) -> None:
    run = open_first_stage(f"hybrid:bm25+(sparse:{splade},device=cpu)", make_corpus(*TEXTS)).search(
        [Query(id="q", text="w10")], 3
    )
    assert run["q"].doc_ids[0] == "d4"


def test_what_is_no_sparse_encoder(tmp_path: Path) -> None:
    with raises(UsageError, "dense:MODEL"):
        load(save_encoder(tmp_path))
    with pytest.raises(UsageError):
        load(tmp_path / "base")


def test_numbers_that_are_not_finite(splade: Path) -> None:
    import torch

    encoder = load(splade)
    encoder._model.encode_document = lambda *_, **__: torch.tensor([[0.0, float("nan")]]).to_sparse()
    with raises(BackendError, "dtype=float32"):
        encoder.passages(["w1"])
