"""The front door for Python: a model and a method, asked about a query and its documents.

    reranker = Reranker.from_pretrained("smollm2-135m")
    for hit in reranker.rank("how do I ...", ["one text", "another"], top_k=1):
        print(hit.score, hit.text)

It is also a stage of a pipeline: ``retriever % 100 >> reranker % 10``. Keeps no files; whole runs with resume and
scores are in ``rerank.experiment``.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rerank.errors import DataError, UsageError, shorten
from rerank.judges import FAILURES, Judge, Limits, check_judge, open_judge
from rerank.lm.loading import adapter_folder
from rerank.methods import open_method
from rerank.models import BackendOptions, backend_class, open_backend, prompt_for
from rerank.models.trained import as_trained
from rerank.pipeline.driver import Outcome, drive
from rerank.prompts import load_prompt
from rerank.retrieval.base.stages import Transformer
from rerank.strategies import Passages, Strategy, open_strategy
from rerank.tasks import Backend
from rerank.types import Document, Query, Ranking, Run

#: How a document may be given: its text, a `Document`, or a mapping with ``text`` and perhaps ``id`` (text or a
#: whole number) and ``title``; or with ``image``, a picture's path. An id or title of None is one that is not given.
DocumentLike = str | Document | Mapping[str, Any]

#: What of a token budget an adapter decides.
_LIMITS = ("min_passage_tokens", "max_passage_tokens", "context_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One document of an answer.

    Attributes:
        corpus_id: Its position in the list that was given, from 0.
        score: 1/rank: a position, not an estimate of relevance.
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
    """An answer, best first; `windows` counts how the model's replies went."""

    windows: Mapping[str, int]

    @classmethod
    def make(cls, hits: Iterable[Hit], windows: Mapping[str, int]) -> Hits:
        """Put an answer together."""
        made = cls(hits)
        made.windows = dict(windows)
        return made

    def top_k(self, k: int) -> Hits:
        """The first ``k``.

        Raises:
            UsageError: ``k`` is below 0.
        """
        _check_top(k)
        return Hits.make(self[:k], self.windows)


@dataclass(kw_only=True)
class Reranker(Transformer):
    """A strategy times a judge, ready to be asked; safe to share between threads, which take turns.

    Attributes:
        strategy: Which windows are judged.
        judge: Who judges them.
        name: The tag of runs that come out of it.
        passages: How long documents are cut for the judge; None shows them whole.
    """

    strategy: Strategy
    judge: Judge
    name: str = "reranker"
    passages: Passages | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        method: str = "auto",
        prompt: str = "auto",
        limits: Limits | None = None,
        options: BackendOptions | None = None,
        passages: str | Passages | None = None,
    ) -> Reranker:
        """Load a model.

        Args:
            model: A name of `rerank models`, a folder, a Hugging Face id, or ``fake:KIND``.
            method: A method's name; options of its strategy follow it, as in ``"sliding,size=10,stride=5"``. ``auto``
                is what the adapter was trained for, where there is one that says so, else ``fullrank``.
            prompt: Name of a shipped prompt, or path of a YAML file; ``auto`` takes the adapter's, else the one that
                suits the model.
            limits: Token budget and decoding; the adapter's if left out.
            options: Device, dtype, adapter and the like.
            passages: Judge long documents in passages, as in ``"max,size=150,stride=75"``; None shows them whole.

        Raises:
            UnknownNameError: No such method or prompt, or no such way of putting passages together.
            MissingResourceError: The model is not there.
            MissingPrerequisiteError: The extra that the model needs is not installed.
        """
        if options and options.adapter and method == "auto":
            trained = as_trained(adapter_folder(options.adapter), {"model": model})
            method = trained.get("method", method)
            prompt = trained.get("prompt", prompt) if prompt == "auto" else prompt
            limits = limits or Limits(**{key: trained[key] for key in _LIMITS if key in trained})
        method = "fullrank" if method == "auto" else method
        card = open_method(method)
        check_judge(card.judge_selector, backend_class(model, card.backend), model)
        backend = open_backend(model, options or BackendOptions(), kind=card.backend)
        if prompt == "auto":
            prompt = card.own_prompt or prompt_for(model)
        return cls.from_backend(backend, method=method, prompt=prompt, limits=limits, passages=passages)

    @classmethod
    def from_backend(
        cls,
        backend: Backend,
        *,
        method: str = "fullrank",
        prompt: str = "auto",
        limits: Limits | None = None,
        passages: str | Passages | None = None,
    ) -> Reranker:
        """Use a backend that is there already, so that several methods share one loaded model.

        ``prompt="auto"`` takes the prompt that suits the method.
        """
        card = open_method(method)
        name = (card.own_prompt or "listwise") if prompt == "auto" else prompt
        judge = open_judge(card.judge_selector, backend, load_prompt(name), limits)
        return cls(
            strategy=open_strategy(card.strategy_selector),
            judge=judge,
            name=card.name.replace(":", "-"),
            passages=Passages.parse(passages) if isinstance(passages, str) else passages,
        )

    def rank(self, query: str | Query, documents: Sequence[DocumentLike], *, top_k: int | None = None) -> Hits:
        """Put documents in order.

        Ids play no part in it: documents without one get their position as one, ids may repeat, and ``hit.corpus_id``
        tells which of the given documents a hit is. A window whose reply says nothing keeps its given order and is
        warned about; ``hits.windows`` counts them. An empty query keeps the given order.

        Args:
            query: What is asked.
            documents: The candidates in their first-stage order, which matters to sliding windows.
            top_k: How many to return, from 0; None for all. Where the method can stop after so many, it does.

        Returns:
            The documents, best first.

        Raises:
            UsageError: The query is no text, the documents are no list, or ``top_k`` is below 0.
            DataError: A document has no text, or an id or title of a wrong type.
            BackendError: The model cannot answer at all.
        """
        _check_top(top_k)
        asked = _query(query)
        docs = _documents(documents)
        # positions for ids: given ones may repeat, or be equal to the position of another document
        if top_k == 0:
            return Hits.make([], Outcome((), ()).windows())
        placed = [replace(doc, id=str(position)) for position, doc in enumerate(docs)]
        outcome = self._drive([Ranking.from_order(asked, placed)], top_k)
        (ranking,) = outcome.rankings
        hits = [
            Hit(corpus_id=int(doc.id), score=score, document=docs[int(doc.id)])
            for doc, score in zip(ranking.docs, ranking.scores, strict=True)
        ]
        return Hits.make(hits[:top_k], outcome.windows())

    async def arank(self, query: str | Query, documents: Sequence[DocumentLike], *, top_k: int | None = None) -> Hits:
        """`rank` in a worker thread, so that an event loop goes on meanwhile."""
        return await asyncio.to_thread(self.rank, query, documents, top_k=top_k)

    def transform(self, run: Run) -> Run:
        """Rerank every list of a run, all queries in lock-step."""
        return Run(self._drive(run.values()).rankings, name=self.name)

    def _drive(self, rankings: Iterable[Ranking], top_k: int | None = None) -> Outcome:
        strategy = self.strategy
        if top_k and not self.passages and getattr(strategy, "top_k", top_k) != top_k:
            strategy = replace(strategy, top_k=top_k)  # type: ignore[type-var]
        with self._turn:
            outcome = drive(rankings, strategy, self.judge, top_k=top_k or None, passages=self.passages)
        failed = {status: n for status, n in outcome.windows().items() if n and status in FAILURES}
        if failed:
            counts = ", ".join(f"{n} {status}" for status, n in failed.items())
            detail = next(v.detail for _, v in outcome.judged if v.status in failed)
            warnings.warn(f"Windows kept their given order: {counts}. {detail}", stacklevel=3)
        return outcome


def _check_top(k: object) -> None:
    if k is not None and (not isinstance(k, int) or k < 0):
        raise UsageError(f"The first {k!r} documents", expected="a whole number from 0, or None for all")


def _query(given: object) -> Query:
    if isinstance(given, str):
        return Query(id="0", text=given)
    if not isinstance(given, Query) or not _is_text(given.text):
        raise UsageError(f"The query {shorten(given)}", expected="a text, or a Query with a text")
    return given


def _documents(given: object) -> list[Document]:
    if isinstance(given, (str, bytes, Document, Mapping)) or not isinstance(given, Iterable):
        raise UsageError(
            f"The documents are {shorten(given)}", expected="a list of documents", remedy="Put a single one in a list"
        )
    return [_document(position, document) for position, document in enumerate(given)]


def _document(position: int, given: object) -> Document:
    """The document as the caller knows it, with its own id, or with its position where it has none."""
    if isinstance(given, str):
        return Document(id=str(position), text=given)
    if isinstance(given, Document):
        found: Mapping[Any, Any] = {key: getattr(given, key) for key in ("id", "text", "title", "image")}
    elif isinstance(given, Mapping):
        found = given
    else:
        raise DataError(f"Document {position} is {shorten(given)}", expected="a text, a Document or a mapping")
    if "text" not in found and not found.get("image"):
        raise DataError(f"Document {position} has the keys {shorten(list(found))}", expected="a key 'text' or 'image'")
    own = position if found.get("id") is None else found["id"]
    if not isinstance(own, (str, int)) or isinstance(own, bool):
        raise DataError(f"Document {position} has the id {shorten(own)}", expected="text or a whole number")
    texts = {"text": found.get("text", ""), "title": found.get("title") or "", "image": found.get("image") or ""}
    for key, value in texts.items():
        if not _is_text(value):
            raise DataError(f"Document {position} has the {key} {shorten(value)}", expected="text")
    return given if isinstance(given, Document) else Document(id=str(own), **texts)


def _is_text(value: object) -> bool:
    return isinstance(value, str)
