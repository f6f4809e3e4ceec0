"""Our first stages as models of mteb, so that their lists are saved and scored as any encoder's. Knows no reranker."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from rerank.collections.mteb.task_split import TaskSplit
from rerank.errors import UsageError
from rerank.mmteb.content_hashes import hash_contents
from rerank.mmteb.model_meta import compute_revision, model_meta
from rerank.retrieval import first_stages, open_retriever
from rerank.retrieval.base.stages import RetrieverSource
from rerank.selector import Selector
from rerank.types import make_strictly_decreasing

#: mteb's types of model, by the names of first stages; others are ``hybrid``.
_KINDS = {"bm25": "sparse", "lucene": "sparse", "sparse": "sparse", "dense": "dense"}


class MtebFirstStage:
    """A first stage that mteb can ask (its ``SearchProtocol``).

    Args:
        selector: Such as ``bm25`` or ``dense:all-minilm-l6-v2``.

    Attributes:
        drop_self: Whether a document with the query's id is dropped before the list is cut. mteb drops it afterwards,
            where a task says so, and would leave a reranker one candidate fewer.
    """

    def __init__(self, selector: str = "bm25") -> None:
        """Remember what is asked for; nothing is opened yet."""
        self.selector = selector
        self.drop_self = False
        self._part: TaskSplit | None = None
        self._search: RetrieverSource | None = None

    @property
    def mteb_model_meta(self) -> Any:
        """Name and revision: the selector with all its options, and what the files and models that it names hold now.

        Raises:
            RerankError: No such first stage or option, or a file that cannot be read.
        """
        name = Selector.parse(self.selector).name
        content = hash_contents(self.selector)
        identity = {"selector": self.selector, "listrank": version("listrank")}
        revision = compute_revision({**identity, **({"content": content} if content else {})})
        return model_meta(self.selector, revision, kind=_KINDS.get(name, "hybrid"))

    def index(self, corpus: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **more: Any) -> None:
        """Build or open the index of a part's documents."""
        self._part = TaskSplit(task_metadata, hf_subset, hf_split, {"corpus": corpus, "queries": []})
        self._part.drop_self = self.drop_self
        self._search = open_retriever(self.selector, self._part)

    def search(
        self, queries: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, top_k: int, **more: Any
    ) -> dict[str, dict[str, float]]:
        """The best ``top_k`` documents of each query with their scores, which fall strictly.

        Raises:
            UsageError: Nothing was indexed, or lists to rerank were given.
        """
        if self._part is None or self._search is None:
            raise UsageError("search() before index()", remedy="Hand it to mteb.evaluate, which calls both")
        if more.get("top_ranked") is not None:
            raise UsageError(
                f"The first stage {self.selector!r} on lists that are to be reranked",
                expected="a task without lists of its own",
                remedy="Rerank them with MtebReranker",
            )
        asked = TaskSplit(task_metadata, hf_subset, hf_split, {"corpus": [], "queries": queries})
        found = self._search.search(asked.queries(), top_k)
        own = self._part.texts.own_ids
        return {
            str(asked.own_queries[query_id]): {
                own[doc.id]: score
                for doc, score in zip(ranking.docs, make_strictly_decreasing(ranking.scores), strict=True)
            }
            for query_id, ranking in found.items()
        }


def parse_first_stage(text: str) -> MtebFirstStage | Path:
    """What a user means by the lists of retrieval tasks: a first stage by its selector, or a place of predictions.

    The name of a first stage is one, whatever lies in the folder that the user works in; ``./bm25`` is a place.
    """
    if Selector.parse(text).name in first_stages:
        return MtebFirstStage(text)
    place = Path(text).expanduser()
    return place if "/" in text or place.exists() else MtebFirstStage(text)
