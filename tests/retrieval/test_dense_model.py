"""Dense retrieval with sentence-transformers: a tiny model with random weights, and the embedded one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("faiss")

import sentence_transformers

from rerank.collections import open_collection
from rerank.collections.base import Corpus
from rerank.errors import BackendError, DataError, MissingResourceError, UsageError
from rerank.indexing.text_encoder import SentenceEncoder, load_text_encoder
from rerank.io.model_base import hash_encoder_folder
from rerank.models import is_model_downloaded, model_folder
from rerank.retrieval import open_first_stage
from rerank.retrieval.base.model_folders import locate_retrieval_model
from rerank.retrieval.dense import Dense
from rerank.types import Query
from tests.raising import raises
from tests.retrieval.encoders import Floats, save_encoder

MakeCorpus = Callable[..., Corpus]
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w10 w11", "w1 w2"]
PROMPTS = {"query": "w20 ", "document": "w21 w22 "}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("prompted"), prompts=PROMPTS)


def load(folder: Path, **options: Any) -> SentenceEncoder:
    return load_text_encoder(locate_retrieval_model(str(folder)), Dense(str(folder), device="cpu", **options))


def plainly(folder: Path, texts: list[str]) -> Floats:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    found: Floats = np.stack([model.encode([text], prompt="", show_progress_bar=False)[0] for text in texts])
    return found


def embeddings(cache: Path) -> list[Floats]:
    finished = f"embeddings-{16 * '?'}"
    return [np.load(path) for path in sorted(cache.glob(f"indexes/*/{finished}/embeddings.npy"))]


def test_embeddings_are_those_of_the_library(folder: Path) -> None:
    raw, encoder = plainly(folder, TEXTS), load(folder)
    assert encoder.size == 16
    normal = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    assert encoder.passages(TEXTS) == pytest.approx(normal, abs=1e-5)
    assert encoder.queries(TEXTS) == pytest.approx(normal, abs=1e-5)
    assert load(folder, normalise=False).passages(TEXTS) == pytest.approx(raw, abs=1e-5)
    assert encoder.passages(TEXTS).dtype == np.float32


def test_cut_vectors_have_length_one_again(folder: Path) -> None:
    raw, encoder = plainly(folder, TEXTS)[:, :6], load(folder, dim=6)
    assert encoder.passages(TEXTS) == pytest.approx(raw / np.linalg.norm(raw, axis=1, keepdims=True), abs=1e-5)
    assert (encoder.size, encoder.queries([]).shape) == (6, (0, 6))
    with raises(UsageError, "dim=17", "16"):
        load(folder, dim=17)


def test_queries_do_not_depend_on_their_company(folder: Path) -> None:
    encoder = load(folder)
    assert (encoder.queries(TEXTS)[3:4] == encoder.queries([TEXTS[3]])).all()


@pytest.mark.parametrize(
    ("options", "query", "passage"),
    [
        ({}, "w20 ", "w21 w22 "),
        ({"query_prompt": "none", "passage_prompt": "none"}, "", ""),
        ({"query_prompt": "w30 w31 ", "passage_prompt": "w32 "}, "w30 w31 ", "w32 "),
    ],
)
def test_prompts(prompted: Path, options: dict[str, str], query: str, passage: str) -> None:
    encoder = load(prompted, normalise=False, **options)
    assert encoder.queries(["w1"]) == pytest.approx(plainly(prompted, [f"{query}w1"]), abs=1e-5)
    assert encoder.passages(["w1"]) == pytest.approx(plainly(prompted, [f"{passage}w1"]), abs=1e-5)
    assert (encoder.query_identity["query_prompt"], encoder.identity["passage_prompt"]) == (query, passage)


def test_a_model_without_prompts_has_none(folder: Path) -> None:
    encoder = load(folder)
    assert (encoder.query_identity["query_prompt"], encoder.identity["passage_prompt"]) == ("", "")


def test_a_default_prompt_stands_in(tmp_path: Path) -> None:
    saved = save_encoder(tmp_path, prompts={"any": "w9 "}, default_prompt_name="any")
    encoder = load(saved, normalise=False)
    known = sentence_transformers.SentenceTransformer(str(saved), device="cpu")
    assert encoder.queries(["w1"]) == pytest.approx(known.encode_query(["w1"], show_progress_bar=False), abs=1e-5)
    assert encoder.passages(["w1"]) == pytest.approx(known.encode_document(["w1"], show_progress_bar=False), abs=1e-5)


@pytest.mark.parametrize(
    "options", [{"dim": 6}, {"normalise": False}, {"passage_prompt": "w1 "}, {"dtype": "bfloat16"}, {"fields": "text"}]
)
def test_what_makes_other_embeddings(
    folder: Path, make_corpus: MakeCorpus, cache: Path, options: dict[str, Any]
) -> None:
    for given in ({}, options):
        Dense(str(folder), device="cpu", **given).over(make_corpus(*TEXTS))
    assert len(embeddings(cache)) == 2


def test_the_same_weights_elsewhere_are_the_same_model(
    folder: Path, tmp_path: Path, make_corpus: MakeCorpus, cache: Path
) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    for path in (folder, other):
        Dense(str(path), device="cpu").over(make_corpus(*TEXTS))
    assert len(embeddings(cache)) == 1
    pooling = next(other.glob("1_*")) / "config.json"
    config = json.loads(pooling.read_text())
    pooling.write_text(json.dumps(config | {"pooling_mode": "cls"}))
    assert hash_encoder_folder(other) != hash_encoder_folder(folder)


def test_a_stopped_build_ends_in_the_same_bytes(
    folder: Path, make_corpus: MakeCorpus, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, options = make_corpus(*TEXTS), Dense(str(folder), device="cpu", batch_size=2)
    options.over(corpus)
    (whole,) = embeddings(cache)
    shutil.rmtree(cache)
    encode, calls = SentenceEncoder.passages, []

    def stopped(self: SentenceEncoder, texts: list[str]) -> Floats:
        calls.append(texts)
        if len(calls) == 3:  # the first one asks for the size
            raise KeyboardInterrupt
        return encode(self, texts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SentenceEncoder, "passages", stopped)
        options.over(corpus)
    assert embeddings(cache) == []
    options.over(corpus)
    assert embeddings(cache)[0].tobytes() == whole.tobytes()


def test_search_finds_the_text_itself(folder: Path, make_corpus: MakeCorpus) -> None:
    retriever = open_first_stage(f"dense:{folder},device=cpu,index=hnsw", make_corpus(*TEXTS))
    run = retriever.search([Query(id=text, text=text) for text in TEXTS], 1)
    assert [ranking.docs[0].text for ranking in run.values()] == TEXTS


def test_half_a_surrogate_pair_and_long_texts(folder: Path) -> None:
    assert load(folder).passages(["w1 \ud800", "w1 " * 500, ""]).shape == (3, 16)


def test_smaller_batches_where_memory_does_not_hold_them(folder: Path) -> None:
    encoder, sizes = load(folder), []
    encode = encoder._model.encode_document

    def short(texts: list[str], *, batch_size: int, **settings: Any) -> Any:
        sizes.append(batch_size)
        if batch_size > 2:
            raise RuntimeError("CUDA out of memory")
        return encode(texts, batch_size=batch_size, **settings)

    encoder._model.encode_document = short
    assert encoder.passages(TEXTS).shape == (5, 16)
    assert sizes == [5, 2, 3, 2, 1]
    sizes.clear()
    encoder.passages(TEXTS)
    assert max(sizes) == 2  # what did not fit is not tried again
    encoder._model.encode_document = lambda *_, **__: (_ for _ in ()).throw(RuntimeError("odd shape"))
    with raises(BackendError, "2 texts"):
        encoder.passages(TEXTS)
    encoder._model.encode_document = lambda *_, **__: np.full((1, 16), np.nan)
    with raises(BackendError, "dtype=float32"):
        encoder.passages(["w1"])


def test_models_that_cannot_be_had(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        load_text_encoder(locate_retrieval_model(Dense().model), Dense())
    with pytest.raises(MissingResourceError):
        load(tmp_path / "nowhere")
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = next(broken.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DataError):
        load(broken)
    weights.unlink()
    (broken / "pytest_model.bin").write_bytes(b"pickled")
    with pytest.raises((DataError, MissingResourceError)):
        load(broken)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Found before a test gets a cache folder of its own."""
    if not is_model_downloaded("all-minilm-l6-v2"):
        pytest.fail("Run: rerank models pull all-minilm-l6-v2")
    return model_folder("all-minilm-l6-v2")


@pytest.mark.model
def test_minilm_knows_what_texts_are_about(minilm: Path, make_corpus: MakeCorpus) -> None:
    corpus = make_corpus("How to bake bread at home", "The wing of an aeroplane", "Interest rates rose in March")
    run = open_first_stage(f"dense:{minilm}", corpus).search([Query(id="q", text="aircraft design")], 3)
    assert run["q"].doc_ids[0] == "d2"
    assert load_text_encoder(minilm, Dense(str(minilm))).size == 384


@pytest.mark.model
@pytest.mark.shared
def test_minilm_on_cranfield(minilm: Path, shared: Path) -> None:
    """The figures of shared/reference/offline-kit.md; what the approximate indexes find of the exact lists."""
    import ir_measures
    from ir_measures import AP, RR, R, nDCG

    collection = open_collection(f"cranfield:{shared / 'data' / 'cranfield'}")
    queries = list(collection.queries())
    run = open_first_stage(f"dense:{minilm},fields=text", collection).search(queries, 100)
    scored = [
        ir_measures.ScoredDoc(query, doc.id, score)
        for query, ranking in run.items()
        for doc, score in zip(ranking.docs, ranking.scores, strict=True)
    ]
    qrels = {query: dict(judged) for query, judged in collection.qrels().items()}
    binary = {query: {doc: int(grade > 0) for doc, grade in judged.items()} for query, judged in qrels.items()}
    graded = ir_measures.calc_aggregate([nDCG @ 10, AP @ 100, R @ 100, RR @ 10], qrels, scored)
    found = {str(measure): value for measure, value in graded.items()}
    assert found == pytest.approx({"nDCG@10": 0.3736, "AP@100": 0.3166, "R@100": 0.7756, "RR@10": 0.5346}, abs=0.002)
    share = ir_measures.calc_aggregate([nDCG @ 10], binary, scored)[nDCG @ 10]
    assert share == pytest.approx(0.3953, abs=0.002)
    for index in ("hnsw", "ivfpq"):
        some = open_first_stage(f"dense:{minilm},fields=text,index={index}", collection).search(queries[:30], 100)
        assert sum(len({*some[q].doc_ids} & {*run[q].doc_ids}) for q in some) / (30 * 100) > 0.97, index
