"""A first stage that rescores the candidates of another one by late interaction (`rerank.lm.encoders`).

Nothing is indexed: only candidates are encoded, and the vectors of a batch are discarded as soon as it is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from rerank.collections.base import Corpus
from rerank.errors import UsageError
from rerank.indexing.options import ModelOptions
from rerank.lm.encoders import MaxSimScorer, load_multi_vector_model
from rerank.retrieval import check_first_stage, first_stages, open_first_stage, retriever_index_folders
from rerank.retrieval.base import HasPrerequisites, Retriever
from rerank.retrieval.base.stages import DEPTH, check_depth
from rerank.selector import build_from_selector
from rerank.types import Query, Ranking, Run


@dataclass(frozen=True)
class LateInteraction(ModelOptions):
    """The options of late interaction; the score of a document is MaxSim (`rerank.lm.encoders`)."""

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
        from rerank.indexing.text_encoder import locate_encoder
        from rerank.retrieval.base.model_folders import locate_retrieval_model

        self.check_prerequisites()
        files = locate_encoder(locate_retrieval_model(self.model, kind="multi-vector"), self)
        scorer = MaxSimScorer(
            load_multi_vector_model(files, self)[0],
            batch_size=self.batch_size,
            query_prompt=self.query_prompt,
            passage_prompt=self.passage_prompt,
        )
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
        rankings = []
        for ranking in self.candidates.search(queries, max(self.options.depth, check_depth(k))).values():
            docs = ranking.docs if ranking.query.text.strip() else ()
            texts = [doc.text if self.options.fields == "text" else doc.full_text for doc in docs]
            scores = self.scorer.score(ranking.query.text, texts) if docs else []
            rankings.append(Ranking.from_scores(ranking.query, zip(docs, scores, strict=True)).top(k))
        return Run(rankings, name="late-interaction")
