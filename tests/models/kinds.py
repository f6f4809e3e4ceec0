"""Tiny models of all kinds, saved as real ones are, and what each computes for a few texts or pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rerank import InMemoryCorpus, Reranker
from rerank.indexing.text_encoder import load_text_encoder
from rerank.retrieval.dense import Dense
from rerank.retrieval.images import Images
from rerank.retrieval.late_interaction import LateInteraction
from rerank.retrieval.sparse import Sparse
from tests.backends import jina, modular, pairs, seeing
from tests.models.test_lazy_backend import save as save_language_model
from tests.retrieval import encoders

QUERY, TEXTS = "w1 w9", ["w3 w4 w5", "w1 w2", "w9", "w7 w8 w1", "w40 w9"]
LOADING: dict[str, Any] = {"dtype": "float32", "device": "cpu"}


def save_t5(folder: Path) -> Path:
    from tests.backends.test_encoder_decoder import make_t5, make_t5_tokenizer

    make_t5().save_pretrained(folder)
    make_t5_tokenizer().save_pretrained(folder)
    return folder


def save_jina_vl(folder: Path) -> Path:
    folder.mkdir()
    return seeing.make_jina(folder)


def _rank(**settings: Any) -> Callable[[Path], Any]:
    def rank(folder: Path) -> list[tuple[int, float | None]]:
        with Reranker.from_pretrained(str(folder), **LOADING, **settings) as reranker:
            return [(int(hit.corpus_id), hit.score) for hit in reranker.rank(QUERY, TEXTS)]

    return rank


def _search_dense(folder: Path) -> list[float]:
    encoder = load_text_encoder(folder, Dense(str(folder), **LOADING))
    scores: list[float] = (encoder.passages(TEXTS) @ encoder.queries([QUERY])[0]).tolist()
    return scores


def _search_sparse(folder: Path) -> list[float]:
    from rerank.retrieval.sparse.vectors import load_encoder

    encoder = load_encoder(folder, Sparse(str(folder), **LOADING))
    scores: list[float] = (encoder.passages(TEXTS) @ encoder.queries([QUERY]).T).toarray().ravel().tolist()
    return scores


def _search_late(folder: Path) -> list[float]:
    stage: Any = LateInteraction(str(folder), **LOADING).over(InMemoryCorpus(["w1"]))
    scores: list[float] = stage.scorer.score(QUERY, TEXTS)
    return scores


def _search_images(folder: Path) -> list[float]:
    from rerank.retrieval.images.encoder import load_image_encoder

    encoder = load_image_encoder(folder, Images(str(folder), **LOADING))
    pictures = seeing.draw(folder.parent / "pictures")
    scores: list[float] = (encoder.passages(pictures) @ encoder.queries(["red"])[0]).tolist()
    return scores


class Kind(NamedTuple):
    save: Callable[[Path], Path]  # saves a model in or below a folder, and returns its own folder
    use: Callable[[Path], Any]  # loads the model from its folder, and returns what it computes


KINDS: dict[str, Kind] = {
    "language model": Kind(save_language_model, _rank(method="fullrank")),
    "logits": Kind(save_language_model, _rank(method="first")),
    "encoder-decoder": Kind(save_t5, _rank(method="monot5")),
    "cross-encoder": Kind(pairs.save, _rank()),
    "modular cross-encoder": Kind(modular.save_ettin, _rank()),
    "yes and no": Kind(modular.save_yes_no, _rank()),
    "late interaction": Kind(encoders.save_multi_vector, _rank()),
    "jina ranking": Kind(jina.save, _rank()),
    "jina with pictures": Kind(save_jina_vl, _rank()),
    "dense stage": Kind(encoders.save_encoder, _search_dense),
    "sparse stage": Kind(encoders.save_splade, _search_sparse),
    "inference-free stage": Kind(encoders.save_inference_free, _search_sparse),
    "late stage": Kind(encoders.save_multi_vector, _search_late),
    "images stage": Kind(seeing.make_clip, _search_images),
    "siglip stage": Kind(seeing.make_siglip, _search_images),
}
