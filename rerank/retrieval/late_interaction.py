"""A first stage that rescores the candidates of another one by late interaction of the token vectors of two texts.

Supported models are those of the class MultiVectorEncoder in sentence-transformers, such as ColBERT models. Nothing is
indexed: only candidates are encoded, and the vectors of a batch are discarded as soon as the batch is scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

from rerank.collections.base import Corpus
from rerank.errors import BackendError, UsageError
from rerank.indexing.options import ModelOptions
from rerank.io.settings_files import try_read_json_object
from rerank.retrieval import check_first_stage, first_stages, open_first_stage, retriever_index_folders
from rerank.retrieval.base import HasPrerequisites, Retriever
from rerank.retrieval.base.stages import DEPTH, check_depth
from rerank.selector import build_from_selector
from rerank.types import Query, Ranking, Run


@dataclass(frozen=True)
class LateInteraction(ModelOptions):
    """The options of late interaction.

    The score of a document is MaxSim: the sum over the query's tokens of the largest inner product with a token of the
    document, s(q, d) = sum_i max_j q_i . d_j (Khattab and Zaharia, SIGIR 2020, arXiv 2004.12832, equation 3). For
    models that were trained with the mean over the query's tokens instead of the sum, the score is this mean.
    """

    model: str  # a folder, or ``owner/model`` on the hub
    _: KW_ONLY
    #: Selector of the first stage that retrieves the candidates; in parentheses if it has options:
    #: ``candidates=(bm25,k1=1.2)``.
    candidates: str = "bm25"
    #: Number of candidates per query, even if fewer documents are requested, so a shorter ranking is a prefix of a
    #: longer one. If more documents are requested, more candidates are scored.
    depth: int = DEPTH
    fields: Literal["title+text", "text"] = "title+text"  # the text to encode: title and body, or only the body
    #: Text put before every query; ``auto`` for the prompt saved with the model, ``none`` for no prompt.
    query_prompt: str = "auto"
    passage_prompt: str = "auto"  # text put before every document, with the same special values as above
    batch_size: int = 32  # number of documents encoded per batch

    def __post_init__(self) -> None:
        for name in ("depth", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise UsageError(f"Late interaction has {name}={value}", expected="a whole number of at least 1")
        check_first_stage(*self.nested_stages)

    @property
    def nested_stages(self) -> tuple[str]:
        text = self.candidates.strip()
        return (text[1:-1].strip() if text[:1] + text[-1:] == "()" else text,)

    def over(self, corpus: Corpus) -> LateInteractionRetriever:
        from rerank.retrieval.base.model_folders import locate_retrieval_model

        self.check_prerequisites()
        scorer = load_maxsim_scorer(locate_retrieval_model(self.model, kind="multi-vector"), self)
        # open_first_stage drops the query's own document, which must not take up a candidate's place
        return LateInteractionRetriever(self, open_first_stage(*self.nested_stages, corpus), scorer)

    def check_prerequisites(self) -> None:
        from rerank.indexing.text_encoder import require_encoder_packages

        require_encoder_packages(stage="late-interaction", faiss=False)
        if isinstance(stage := build_from_selector(first_stages, *self.nested_stages), HasPrerequisites):
            stage.check_prerequisites()


@dataclass(frozen=True, slots=True)
class LateInteractionRetriever:
    """A retriever that scores the candidates of a first stage by MaxSim, created by `LateInteraction.over`."""

    options: LateInteraction
    candidates: Retriever
    scorer: MaxSimScorer

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(sorted(retriever_index_folders(self.candidates)))

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the ``k`` candidates per query with the highest scores.

        Queries without candidates are omitted. A ranking does not depend on the other queries of the call.
        """
        run = self.candidates.search(queries, max(self.options.depth, check_depth(k)))
        rankings = []
        for ranking in run.values():
            docs = ranking.docs if ranking.query.text.strip() else ()
            texts = [doc.text if self.options.fields == "text" else doc.full_text for doc in docs]
            scores = self.scorer.score(ranking.query.text, texts) if docs else []
            rankings.append(Ranking.from_scores(ranking.query, zip(docs, scores, strict=True)).top(k))
        return Run(rankings, name="late-interaction")


#: Names under which sentence-transformers and PyLate save multi-vector models.
_TYPES = {"MultiVectorEncoder", "ColBERT"}


class MaxSimScorer:
    """A MultiVectorEncoder of sentence-transformers with its prompts, which scores texts by MaxSim."""

    def __init__(self, model: Any, options: LateInteraction) -> None:
        from rerank.indexing.text_encoder import resolve_prompt

        self._model = model
        self._batch_size = options.batch_size
        self._query_prompt = resolve_prompt(model, options.query_prompt, "query")
        self._passage_prompt = resolve_prompt(model, options.passage_prompt, "document")

    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each text for a query.

        Texts that are longer than the model's limit are truncated by sentence-transformers. Equal texts are scored only
        once and so have equal scores, although the other texts of a batch affect the last digits of a score. A text of
        which the model keeps no token receives the lowest score of the other texts, or 0 if there are none.
        """
        # Longest texts first: batches need little padding, and if memory runs out, it does so at the start.
        distinct = sorted(set(texts), key=lambda text: (-len(text), text))
        vectors = self._encode("query", [query], self._query_prompt)
        scores: dict[str, float] = {}
        for start in range(0, len(distinct), self._batch_size):
            batch = distinct[start : start + self._batch_size]
            rows = self._encode("document", batch, self._passage_prompt)
            kept = [(text, row) for text, row in zip(batch, rows, strict=True) if len(row)]
            if kept:
                values = self._model.similarity(vectors, [row for _, row in kept])[0].tolist()
                scores |= dict(zip((text for text, _ in kept), values, strict=True))
        if not all(map(math.isfinite, scores.values())):
            raise BackendError("The model returned a score that is not finite", remedy="Try dtype=float32")
        lowest = min(scores.values(), default=0.0)
        return [scores.get(text, lowest) for text in texts]

    def _encode(self, side: str, texts: Sequence[str], prompt: str) -> list[Any]:
        """Return one tensor of shape (tokens, dimensions) per text."""
        from rerank.indexing.text_encoder import encode_in_batch

        encode = getattr(self._model, f"encode_{side}")
        return encode_in_batch(
            lambda batch, size: list(encode(batch, prompt=prompt, batch_size=size, show_progress_bar=False)), texts
        )


def load_maxsim_scorer(name: Path | str, options: LateInteraction) -> MaxSimScorer:
    """Load a MultiVectorEncoder from a folder or the hub."""
    # imported here, so that inspecting the options does not import numpy
    from rerank.indexing.text_encoder import load_model, locate_encoder

    files = locate_encoder(name, options)
    model, _ = load_model("MultiVectorEncoder", files, options)
    if not _has_trained_token_vectors(files.folder):
        raise UsageError(
            f"{str(name)!r} is not a multi-vector model: the library would add a projection with random weights",
            expected="a model of sentence-transformers' class MultiVectorEncoder, such as a ColBERT model",
            remedy="Use dense:MODEL for an embedding model",
        )
    return MaxSimScorer(model, options)


def _has_trained_token_vectors(folder: Path) -> bool:
    """Return whether a model was trained to represent a text by one vector per token.

    Such models are those saved by sentence-transformers or PyLate, the ColBERT models of Stanford, and the retrieval
    classes of transformers, as in ``MultiVectorEncoder._load_default_modules``.
    """
    architectures = try_read_json_object(folder / "config.json").get("architectures") or []
    return try_read_json_object(folder / "config_sentence_transformers.json").get("model_type") in _TYPES or any(
        kind == "HF_ColBERT" or kind.endswith("ForRetrieval") for kind in architectures
    )
