"""First stages as mteb models, whose rankings mteb saves and scores in the same way as the rankings of an encoder.

Computation of content hashes for the files and models that are named in the options of a first stage.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rerank.collections.mteb import TaskSplit
from rerank.errors import UsageError
from rerank.io.file_hashes import file_hash, folder_hash
from rerank.io.model_base import hash_encoder_folder
from rerank.mmteb.model_meta import compute_mteb_revision, make_mteb_model_meta
from rerank.models import MODELS, model_folder
from rerank.retrieval import first_stages, open_first_stage
from rerank.retrieval.base import HasNestedStages
from rerank.retrieval.base.stages import ExcludingRetriever, RetrieverSource
from rerank.selector import Selector, build_from_selector
from rerank.types import make_ranking_scores_strictly_decrease

#: Model type in mteb, by name of the first stage. All other first stages have the type ``hybrid``.
_KINDS = {"bm25": "sparse", "lucene": "sparse", "sparse": "sparse", "dense": "dense"}


class MtebFirstStage:
    """A first stage as an mteb model (``SearchProtocol``).

    Args:
        selector: Selector of the first stage, such as ``bm25`` or ``dense:all-minilm-l6-v2``.

    Attributes:
        drop_self: Whether the document whose id equals the query id is dropped before the ranking is truncated. For
            some tasks, mteb drops this document after truncation, so the reranker would receive one candidate fewer.
    """

    def __init__(self, selector: str = "bm25") -> None:
        """Create the model; the index is opened later."""
        self.selector = selector
        self.drop_self = False
        self._part: TaskSplit | None = None
        self._search: RetrieverSource | None = None

    @property
    def mteb_model_meta(self) -> Any:
        """Model metadata. The revision depends on all options and on the contents of files and models named in them.

        Raises:
            RerankError: The first stage or an option does not exist, or a file cannot be read.
        """
        name = Selector.parse(self.selector).name
        content = hash_mteb_model_contents(self.selector)
        identity = {"selector": self.selector, "listrank": version("listrank")}
        revision = compute_mteb_revision({**identity, **({"content": content} if content else {})})
        return make_mteb_model_meta(self.selector, revision, kind=_KINDS.get(name, "hybrid"))

    def index(self, corpus: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **more: Any) -> None:
        """Build or open the index of the documents of one subset and split."""
        self._part = TaskSplit(task_metadata, hf_subset, hf_split, {"corpus": corpus, "queries": []})
        self._part.drop_self = self.drop_self
        self._search = open_first_stage(self.selector, self._part)

    def search(
        self, queries: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, top_k: int, **more: Any
    ) -> dict[str, dict[str, float]]:
        """Retrieve the top ``top_k`` documents of each query.

        Returns:
            A mapping from each query id to a mapping from document ids to scores, which are strictly decreasing.

        Raises:
            UsageError: `index` was not called, or candidate lists to rerank were passed.
        """
        if self._part is None or self._search is None:
            raise UsageError(
                "search() was called before index()", remedy="Pass the model to mteb.evaluate, which calls both"
            )
        allowed = more.get("top_ranked")
        if allowed is not None and task_metadata.type != "Retrieval":
            raise UsageError(
                f"The first stage {self.selector!r} received candidate lists to rerank",
                expected="a task without candidate lists",
                remedy="Rerank the lists with MtebReranker",
            )
        self._part.allowed = allowed or {}
        split = TaskSplit(task_metadata, hf_subset, hf_split, {"corpus": [], "queries": queries})
        search = ExcludingRetriever(retriever=self._search, excluded=self._part.excluded())
        results = search.search(split.queries(), top_k)
        own = self._part.texts.own_ids
        return {
            str(split.own_queries[query_id]): {
                own[doc.id]: score
                for doc, score in zip(
                    ranking.docs, make_ranking_scores_strictly_decrease(ranking.written_scores), strict=True
                )
            }
            for query_id, ranking in results.items()
        }


def parse_mteb_first_stage(text: str) -> MtebFirstStage | Path:
    """Return the first stage for a selector, or the path of saved predictions.

    A text that is the name of a first stage is never interpreted as a path; ``./bm25`` is the path of that name.
    """
    if Selector.parse(text).name in first_stages:
        return MtebFirstStage(text)
    path = Path(text).expanduser()
    return path if "/" in text or path.exists() else MtebFirstStage(text)


def hash_mteb_model_contents(selector: str) -> dict[str, str]:
    """Return the SHA-256 of each file, folder and known model that a first stage's options name, by its name.

    Paths that do not exist are omitted. They raise an error when the first stage is opened.
    """
    paths = {
        text: _local_path_of_mteb_model(text)
        for text in _option_texts_of_mteb_stage(build_from_selector(first_stages, selector))
    }
    return {text: _hash_mteb_model_file(path) for text, path in paths.items() if path is not None}


def _option_texts_of_mteb_stage(stage: Any) -> Iterator[str]:
    """Yield the values of all string options, including defaults, of a first stage and of its nested first stages."""
    if isinstance(stage, HasNestedStages):
        for selector in stage.nested_stages:
            yield from _option_texts_of_mteb_stage(build_from_selector(first_stages, selector))
    yield from (getattr(stage, field.name) for field in fields(stage) if field.type in ("str", str))


def _local_path_of_mteb_model(text: str) -> Path | None:
    path = model_folder(text) if text in MODELS else Path(text).expanduser() if text else None
    # os.path.exists raises no error if the selector of a nested stage is too long for a file name.
    return path if path is not None and os.path.exists(path) else None


def _hash_mteb_model_file(path: Path) -> str:
    if not path.is_dir():
        return file_hash(path)
    if not any((path / name).is_file() for name in ("config.json", "modules.json")):
        return folder_hash(path)
    # The hash stays the same if a model is saved again with the same weights and settings.
    return hash_encoder_folder(path)
