"""Base class of the components for all frameworks: settings that can be stored, and relevance scores by position."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SkipValidation, field_serializer

from rerank.assemble import RankerSetup, assemble_ranker
from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError, ensure
from rerank.installation import install_command
from rerank.io.forks import ForkLock
from rerank.reranker import DocumentLike, Hits, RankOptions, Reranker
from rerank.reranker.calls import check_backend_pickles
from rerank.reranker.hits import check_top_k

#: Position of a document in the input, from 0, and its relevance score; best first.
RankedPositions = list[tuple[int, float]]
#: Methods of `Hits` that ``choose`` may name.
CHOICES = ("selected", "unique", "diverse", "top_k", "fit")


def missing_framework_error(extra: str, error: ImportError) -> MissingPrerequisiteError:
    """Return the error for a framework that cannot be imported; the message tells which extra installs it."""
    return MissingPrerequisiteError(
        f"This integration needs the packages of the extra {extra!r}, and importing them failed: {error}",
        remedy=f"Run: {install_command(extra)}",
    )


class FrameworkReranker(BaseModel):
    """A reranker for frameworks, opened on first use and stored as settings. Copies share the open reranker."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    # pydantic does not check these fields, so that users of frameworks without pydantic do not see its errors.
    model: SkipValidation[str | None] = None  #: The model, as for `Reranker.from_pretrained`.
    #: The other arguments of `Reranker.from_pretrained`, such as ``{"method": "sliding"}``.
    settings: SkipValidation[dict[str, Any]] = Field(default_factory=dict)
    #: A reranker that is already open, instead of ``model`` and ``settings``. A component with an open reranker can be
    #: pickled, but not be stored as settings.
    reranker: SkipValidation[Any] = Field(default=None, repr=False)
    top_n: SkipValidation[int | None] = None  #: Number of documents to return; None for all.
    #: Minimum score of the documents to return. It needs a calibration, or a method whose score alone determines the
    #: order, such as a cross-encoder.
    threshold: SkipValidation[float | None] = None

    #: Which of these documents to return: methods of `rerank.reranker.Hits` with their arguments, in this order, as in
    #: ``{"unique": {}, "diverse": {"k": 8}, "fit": {"tokens": 1500}}``.
    choose: SkipValidation[dict[str, dict[str, Any]]] = Field(default_factory=dict)

    #: Rerankers by model and settings, so that a copy with other settings does not use the wrong one.
    _opened: dict[str, Reranker] = PrivateAttr(default_factory=dict)
    _opening: ForkLock = PrivateAttr(default_factory=ForkLock)

    def model_post_init(self, context: Any) -> None:
        """Check the settings, without loading the model."""
        super().model_post_init(context)
        check_top_k(self.top_n)
        ensure(isinstance(self.choose, dict), f"choose is {self.choose!r}", expected="steps with their arguments")
        for step in self.choose:
            if step not in CHOICES:
                raise UnknownNameError("step of choose", step, CHOICES)
        self._apply_choices(Hits())  # without hits, the steps only check their arguments
        if self.reranker is None:
            self._assemble()
        elif self.model is not None or self.settings:
            raise UsageError(
                "An open reranker is combined with a model or settings",
                expected="either an open reranker, or a model and settings",
            )
        elif not isinstance(self.reranker, Reranker):
            raise UsageError(f"The reranker is a {type(self.reranker).__name__}", expected="a rerank.Reranker")

    @field_serializer("reranker")
    def _store_reranker(self, reranker: Reranker | None) -> None:
        """Raise an error for an open reranker, because the stored settings would select the default model instead."""
        if reranker is not None:
            raise UsageError(
                "A component with an open reranker cannot be stored as settings",
                expected="model= and settings=",
                remedy="Pass the arguments of Reranker.from_pretrained to the component",
            )

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy with the same open reranker: a copy of a model would need as much memory again."""
        return self.model_copy()

    def __getstate__(self) -> dict[Any, Any]:
        if self.reranker is not None:  # without this check, LlamaIndex would drop a reranker that cannot be pickled
            check_backend_pickles(self.reranker.backend)
        state = super().__getstate__()
        return {**state, "__pydantic_private__": {**state["__pydantic_private__"], "_opened": {}}}

    def open_reranker(self) -> Reranker:
        """Return the reranker; the first call opens it."""
        if self.reranker is not None:
            return self.reranker  # type: ignore[no-any-return]  # checked on construction
        key = json.dumps([self.model, self.settings], sort_keys=True, default=str)
        with self._opening.lock:
            if key not in self._opened:
                self._opened[key] = Reranker.from_pretrained(**{"model": self.model, **self.settings})
            return self._opened[key]

    def warm_up_reranker(self) -> None:
        self.open_reranker().warm_up()

    def close_reranker(self) -> None:
        """Close the reranker, unless it was already open when it was passed in; the next ranking opens it again."""
        with self._opening.lock:
            opened = list(self._opened.values())
            self._opened.clear()
        for reranker in opened:
            reranker.close()

    def rank_positions(
        self, query: str, documents: Sequence[DocumentLike], top_n: int | None = None
    ) -> RankedPositions:
        """Return positions in ``documents`` with scores, best first; ``top_n`` overrides the component's ``top_n``."""
        if not documents:
            return []
        return self._scored_positions(self.open_reranker().rank(query, documents, **self._options(top_n)))

    async def arank_positions(
        self, query: str, documents: Sequence[DocumentLike], top_n: int | None = None
    ) -> RankedPositions:
        """Return positions with scores, best first, like `rank_positions`, without blocking the event loop."""
        if not documents:
            return []
        reranker = await asyncio.to_thread(self.open_reranker)
        hits = await reranker.arank(query, documents, **self._options(top_n))
        return await asyncio.to_thread(self._scored_positions, hits)

    def rank_many_positions(self, lists: Iterable[tuple[str, Sequence[DocumentLike]]]) -> Iterator[RankedPositions]:
        """Yield the result of `rank_positions` for each query, in the order of the queries."""
        return map(self._scored_positions, self.open_reranker().rank_many(lists, **self._options(None)))

    def describe_model(self) -> str:
        if self.reranker is not None:
            return str(self.reranker.backend.identity.get("model", self.reranker.name))
        return self._assemble().config.model

    def _assemble(self) -> RankerSetup:
        return assemble_ranker({"model": self.model, **self.settings})

    def _options(self, top_n: int | None) -> RankOptions:
        return {"top_k": self.top_n if top_n is None else top_n, "threshold": self.threshold}

    def _scored_positions(self, hits: Hits) -> RankedPositions:
        """Return the chosen hits with their scores in the whole list, so that choosing changes no score."""
        return [(hit.corpus_id, hit.unit_score) for hit in self._apply_choices(hits)]

    def _apply_choices(self, hits: Hits) -> Hits:
        for step, arguments in self.choose.items():
            try:
                hits = getattr(hits, step)(**arguments)
            except TypeError as error:
                raise UsageError(f"choose, {step}={arguments!r}: {error}", expected=f"arguments of {step}") from error
        return hits
