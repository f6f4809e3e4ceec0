"""The reranker, the entry point for Python: a model and a method that rank documents for a query.

    reranker = Reranker.from_pretrained("smollm2-135m")
    for hit in reranker.rank("how do I ...", ["one text", "another"], top_k=1):
        print(hit.score, hit.text)

It is also a stage of a pipeline: ``retriever % 100 >> reranker % 10``. It writes no files; `rerank.experiment` executes
whole runs with resume and scores.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, Unpack

from rerank.assemble import RankerOptions, RankerSetup, assemble
from rerank.errors import DataError, UsageError, shorten
from rerank.judges import FAILURES, Judge
from rerank.pipeline.driver import RerankOutcome, drive
from rerank.pipeline.passages import PassageAggregation
from rerank.retrieval.base.stages import RunTransformer
from rerank.strategies import Strategy
from rerank.tasks import Backend
from rerank.types import Document, Query, Ranking, Run

#: A document: its text, a `Document`, or a mapping with ``text`` or ``image`` (the path of a picture), and optionally
#: ``id`` (text or a whole number) and ``title``. An id or title of None counts as missing.
DocumentLike = str | Document | Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A ranked document.

    Attributes:
        corpus_id: Position of the document in the input list, from 0.
        score: Reciprocal rank, not an estimate of relevance.
        document: The document.
    """

    corpus_id: int
    score: float
    document: Document

    @property
    def text(self) -> str:
        """The document's text."""
        return self.document.text


class Hits(tuple[Hit, ...]):
    """The ranked documents, best first.

    Attributes:
        windows: Number of judged windows per status, such as ``ok`` or ``error``.
    """

    windows: Mapping[str, int]

    def __new__(cls, hits: Iterable[Hit] = (), *, windows: Mapping[str, int] | None = None) -> Self:
        """Build the tuple from hits and the counts of windows."""
        self = super().__new__(cls, hits)
        self.windows = dict(windows or {})
        return self

    def top_k(self, k: int) -> Hits:
        """Return the first ``k`` hits.

        Raises:
            UsageError: ``k`` is below 0.
        """
        _check_top_k(k)
        return Hits(self[:k], windows=self.windows)


@dataclass(kw_only=True)
class Reranker(RunTransformer):
    """A strategy and a judge with an open backend. Threads may share it; their calls are serialised.

    Attributes:
        strategy: Decides which windows are judged.
        judge: Orders the documents of a window.
        name: Tag of the runs that it produces.
        passages: How long documents are divided into passages; None judges them whole.
        top_k: Number of documents to rerank; the remaining ones keep their input order. None reranks all.
    """

    strategy: Strategy
    judge: Judge
    name: str = "reranker"
    passages: PassageAggregation | None = None
    top_k: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def from_pretrained(cls, model: str | None = None, **settings: Unpack[RankerOptions]) -> Reranker:
        """Load a model and assemble a reranker.

        The settings have the names, meaning and defaults of the command's flags, so the same settings give the same
        ranking. `rerank.assemble.RankerConfig` lists them.

        Args:
            model: A name of `rerank models`, a folder, a hub id, ``openai:NAME``, ``vllm:NAME`` or ``fake:KIND``. If
                omitted, the adapter's base model, or ``smollm2-135m``.
            **settings: ``method``, ``adapter``, ``prompt``, ``device``, ``base_url`` and so on. Missing settings come
                from the adapter or the trained model, then from the defaults; None counts as missing.

        Raises:
            UnknownNameError: No setting, method, prompt or passage aggregate has this name.
            UsageError: A setting has an invalid value.
            MissingResourceError: The model or the adapter does not exist.
            MissingPrerequisiteError: The extra that the model needs is not installed.
        """
        setup = assemble({"model": model, **settings})
        return cls._from_setup(setup, setup.open_backend())

    @classmethod
    def from_backend(cls, backend: Backend, **settings: Unpack[RankerOptions]) -> Reranker:
        """Use a backend that is already open, so that several methods share one loaded model.

        Args:
            backend: The backend. Settings for loading a model have no effect on it.
            **settings: As for `from_pretrained`. Missing ones come from the adapter or the trained model that the
                backend loaded, if it knows its ``settings_folder``. The prompt suits the model named in its identity.

        Raises:
            UnknownNameError: No setting, method, prompt or passage aggregate has this name.
            UsageError: The backend does not support the method's judge.
        """
        values: Mapping[str, Any] = settings
        named = {"model": backend.identity.get("model"), **values}
        return cls._from_setup(assemble(named, backend=backend), backend)

    @classmethod
    def _from_setup(cls, setup: RankerSetup, backend: Backend) -> Reranker:
        return cls(
            strategy=setup.strategy,
            judge=setup.open_judge(backend),
            name=setup.method.name.replace(":", "-"),
            passages=setup.passages,
            top_k=setup.config.top_k,
        )

    def rank(self, query: str | Query, documents: Sequence[DocumentLike], *, top_k: int | None = None) -> Hits:
        """Rank documents for a query.

        Ids do not affect the ranking: a document without an id gets its position as id, ids may repeat, and
        ``hit.corpus_id`` is the position of a hit in the input. A window that fails keeps its input order and causes a
        warning; ``hits.windows`` counts the windows per status. An empty query keeps the input order.

        Args:
            query: The query.
            documents: The candidates in first-stage order, which matters to sliding windows.
            top_k: Number of hits to return, from 0; None for all. Methods that can stop early do so.

        Returns:
            The documents, best first.

        Raises:
            UsageError: The query is not a text, the documents are not a list, or ``top_k`` is below 0.
            DataError: A document has no text, or its id or title has the wrong type.
            BackendError: The model cannot answer at all.
        """
        _check_top_k(top_k)
        query = _to_query(query)
        docs = _to_documents(documents)
        if top_k == 0:
            return Hits(windows=RerankOutcome((), ()).windows())
        # Positions replace the ids, which may repeat or equal the position of another document.
        numbered = [replace(doc, id=str(position)) for position, doc in enumerate(docs)]
        outcome = self._drive([Ranking.from_order(query, numbered)], top_k)
        (ranking,) = outcome.rankings
        hits = [
            Hit(corpus_id=int(doc.id), score=score, document=docs[int(doc.id)])
            for doc, score in zip(ranking.docs, ranking.scores, strict=True)
        ]
        return Hits(hits[:top_k], windows=outcome.windows())

    async def arank(self, query: str | Query, documents: Sequence[DocumentLike], *, top_k: int | None = None) -> Hits:
        """Run `rank` in a worker thread, so that it does not block the event loop."""
        return await asyncio.to_thread(self.rank, query, documents, top_k=top_k)

    def transform(self, run: Run) -> Run:
        """Rerank all lists of a run in lock-step."""
        return Run(self._drive(run.values()).rankings, name=self.name)

    def _drive(self, rankings: Iterable[Ranking], top_k: int | None = None) -> RerankOutcome:
        strategy = self.strategy
        top_k = min((k for k in (top_k, self.top_k) if k), default=None)
        if top_k and not self.passages and getattr(strategy, "top_k", top_k) != top_k:
            strategy = replace(strategy, top_k=top_k)  # type: ignore[type-var]
        with self._lock:
            outcome = drive(rankings, strategy, self.judge, top_k=top_k, passages=self.passages)
        failed = {status: n for status, n in outcome.windows().items() if n and status in FAILURES}
        if failed:
            counts = ", ".join(f"{n} {status}" for status, n in failed.items())
            detail = next(v.detail for _, v in outcome.judged if v.status in failed)
            warnings.warn(f"Windows kept their input order: {counts}. {detail}", stacklevel=3)
        return outcome


def _check_top_k(k: object) -> None:
    if k is not None and (not isinstance(k, int) or k < 0):
        raise UsageError(f"top_k is {k!r}", expected="a whole number from 0, or None for all")


def _to_query(value: object) -> Query:
    if isinstance(value, str):
        return Query(id="0", text=value)
    if not isinstance(value, Query) or not _is_text(value.text):
        raise UsageError(f"The query is {shorten(value)}", expected="a text, or a Query with a text")
    return value


def _to_documents(values: object) -> list[Document]:
    if isinstance(values, (str, bytes, Document, Mapping)) or not isinstance(values, Iterable):
        raise UsageError(
            f"The documents are {shorten(values)}",
            expected="a list of documents",
            remedy="Put a single document in a list",
        )
    return [_to_document(position, value) for position, value in enumerate(values)]


def _to_document(position: int, value: object) -> Document:
    """Return the document with its own id, or with its position if it has no id."""
    if isinstance(value, str):
        return Document(id=str(position), text=value)
    if isinstance(value, Document):
        content: Mapping[Any, Any] = {key: getattr(value, key) for key in ("id", "text", "title", "image")}
    elif isinstance(value, Mapping):
        content = value
    else:
        raise DataError(f"Document {position} is {shorten(value)}", expected="a text, a Document or a mapping")
    if "text" not in content and not content.get("image"):
        raise DataError(
            f"Document {position} has the keys {shorten(list(content))}", expected="a key 'text' or 'image'"
        )
    doc_id = position if content.get("id") is None else content["id"]
    if not isinstance(doc_id, (str, int)) or isinstance(doc_id, bool):
        raise DataError(f"Document {position} has the id {shorten(doc_id)}", expected="text or a whole number")
    texts = {"text": content.get("text", ""), "title": content.get("title") or "", "image": content.get("image") or ""}
    for key, text in texts.items():
        if not _is_text(text):
            raise DataError(f"Document {position} has the {key} {shorten(text)}", expected="text")
    return value if isinstance(value, Document) else Document(id=str(doc_id), **texts)


def _is_text(value: object) -> bool:
    return isinstance(value, str)
