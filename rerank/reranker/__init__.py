"""The reranker, the entry point for Python code: it ranks documents for a query, with a model and a method.

    reranker = Reranker.from_pretrained("smollm2-135m")
    for hit in reranker.rank("how do I ...", ["one text", "another"], top_k=1):
        print(hit.rank, hit.score, hit.text)

A reranker can also be a stage in a pipeline: ``retriever % 100 >> reranker % 10``. It writes no files; the package
`rerank.experiment` executes whole runs, which can be resumed and are scored.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Self, Unpack

from rerank.assemble import RankerSetup, assemble_ranker
from rerank.calibration import Calibration
from rerank.errors import UnknownNameError, UsageError, ensure, error_repr
from rerank.io.forks import ForkLock
from rerank.judges import PromptJudge
from rerank.judges.attention.evidence import EvidenceSpan
from rerank.lm.model_files import one_commit_per_model
from rerank.pipeline.evidence import EvidenceOptions, find_evidence
from rerank.pipeline.network import drive_list
from rerank.pipeline.passages import PassageAggregation
from rerank.pipeline.results import RankedList
from rerank.pipeline.service import LocalService
from rerank.pipeline.stream import Ranker, drive_ranking_stream
from rerank.reranker.calls import (
    OnFailure,
    RankCall,
    RankOptions,
    calibrate_list,
    check_backend_pickles,
    check_on_failure,
    open_calibration,
    report_on,
)
from rerank.reranker.hits import (
    Cut,
    DroppedHit,
    Hit,
    Hits,
    RankingReport,
    check_top_k,
    compute_unit_scores,
    threshold_error,
)
from rerank.retrieval.base.given_documents import (
    DocumentLike,
    given_first_stage_candidates,
    given_first_stage_query,
    given_first_stage_ranking,
)
from rerank.retrieval.base.stages import RunTransformer
from rerank.settings import RankerOptions
from rerank.store import NoLog, log_calls, open_shared_cache
from rerank.strategies import Strategy
from rerank.tasks import AsyncBackend, Backend
from rerank.tasks.backends import traits
from rerank.tasks.concurrency import await_on_loop, submit_to_loop
from rerank.tasks.tracing import ending_spans, finish_ranking, start_ranking
from rerank.types import Document, Query, Ranking, Run

__all__ = ["Cut", "DocumentLike", "DroppedHit", "Hit", "Hits", "OnFailure", "RankOptions", "RankingReport", "Reranker"]


@dataclass(kw_only=True)
class Reranker(RunTransformer):
    """A strategy and a judge with an open backend; any number of threads and event loops may use it at the same time.

    At most ``concurrency`` requests to a server are sent at the same time. A model in this process runs in a separate
    thread, batch by batch.
    """

    strategy: Strategy
    judge: PromptJudge
    name: str = "reranker"
    #: Division of long documents into passages; None to judge whole documents.
    passages: PassageAggregation | None = None
    #: Rerank only the top K; the remaining documents keep their input order. None reranks all.
    top_k: int | None = None
    #: Backend that answers the requests; by default the backend of the judge.
    backend: Backend = field(default=None)  # type: ignore[assignment]  # set on construction
    #: ``keep`` to leave a failed window in its given order, or ``raise`` to raise an error.
    on_failure: OnFailure = "keep"
    #: Calibration that converts scores to probabilities of relevance; None for no probabilities.
    calibration: Calibration | None = None
    #: Name of the first stage whose scores are given, such as ``bm25``; None if it is not stated. If the calibration is
    #: for another first stage, probabilities are computed without these scores.
    first_stage: str | None = None
    #: Number by which the authors of the model divide its logits before the sigmoid (`RerankerPreset.logit_divisor`).
    logit_divisor: float = 1.0
    _service: LocalService | None = field(default=None, init=False, repr=False)
    _is_warm: bool = field(default=False, init=False, repr=False)
    _opening: ForkLock = field(default_factory=ForkLock, init=False, repr=False)

    def __post_init__(self) -> None:
        check_on_failure(self.on_failure)
        self.backend = self.backend or self.judge.backend

    def __reduce__(self) -> tuple[Any, ...]:
        check_backend_pickles(self.backend)
        return partial(type(self), **{f.name: getattr(self, f.name) for f in fields(self) if f.init}), ()

    @classmethod
    def from_pretrained(cls, model: str | None = None, **settings: Unpack[RankerOptions]) -> Reranker:
        """Load a model and assemble a reranker.

        The settings have the same names, meanings and defaults as the command's flags, so the same settings lead to the
        same ranking in Python and in the command. `rerank.settings.RankerSettings` documents the settings.

        Args:
            model: A name listed by `rerank models`, a folder, a hub id, ``openai:NAME``, ``vllm:NAME`` or
                ``fake:KIND``; None selects the base model of the adapter, or ``smollm2-135m`` without an adapter.
            **settings: ``method``, ``adapter``, ``prompt``, ``device``, ``base_url`` and so on. A missing setting is
                taken from the adapter or the trained model, or else from the defaults; None counts as missing.

        Raises:
            UnknownNameError: No setting, method, prompt or passage aggregate has this name.
            UsageError: A setting has an invalid value.
            MissingResourceError: The model or the adapter does not exist.
            MissingPrerequisiteError: The extra that the model needs is not installed.
        """
        with one_commit_per_model():
            setup = assemble_ranker({"model": model, **settings})
            return cls._from_setup(setup, setup.open_backend())

    @classmethod
    def from_backend(cls, backend: Backend, **settings: Unpack[RankerOptions]) -> Reranker:
        """Use a backend that is already open, so that several methods share one loaded model.

        The settings and errors are those of `from_pretrained`, and a `UsageError` if the backend does not support the
        method's judge. A missing setting is taken from the adapter or the trained model that the backend loaded, if the
        backend has a ``settings_folder``. The prompt is chosen for the model that is named in the backend's identity.
        """
        named = {"model": backend.identity.get("model"), **settings}
        return cls._from_setup(assemble_ranker(named, backend=backend), backend)

    @classmethod
    def _from_setup(cls, setup: RankerSetup, backend: Backend) -> Reranker:
        judge = setup.open_judge(backend)
        setup.note_other_weights(judge)
        return cls(
            strategy=setup.strategy,
            judge=judge,
            name=setup.method.name.replace(":", "-"),
            passages=setup.passages,
            top_k=setup.config.top_k,
            calibration=open_calibration(setup, judge),
            logit_divisor=setup.logit_divisor,
        )

    def with_log(self, *, cache: bool = True, max_total_tokens: int | None = None) -> Self:
        """Return a copy of this reranker with a cache of replies, a cap on tokens, or both.

        Args:
            cache: Whether to answer repeated requests from the user's cache of replies, and to add new replies to it.
                The command uses the same cache, which contains prompts and replies.
            max_total_tokens: Cap on the prompt and completion tokens of all rankings together. Requests that could
                exceed it fail, so their windows keep their order. None for no cap.
        """
        log = open_shared_cache() if cache else NoLog()
        backend = log_calls(self.backend, log, max_total_tokens=max_total_tokens)
        return replace(self, backend=backend)

    def rank(self, query: str | Query, documents: Sequence[DocumentLike], **options: Unpack[RankOptions]) -> Hits:
        """Rank documents for a query.

        Ids do not affect the ranking and may repeat; the default id is the position. The position of a hit in the input
        is ``hit.corpus_id``. An empty query keeps the input order. A single document is judged only if its score does
        not depend on others. Failed windows or a passed deadline cause a note in ``hits.notes`` and a logged warning.

        Args:
            documents: The candidates in first-stage order, which matters to sliding windows.
            **options: Those of `RankOptions`.

        Raises:
            UsageError: The query is not a text, the documents are not a list, or an option is out of range.
            DataError: A document has no text, or its id, title or score has the wrong type.
            PartialFailureError: A window failed, and ``on_failure`` is ``raise``.
            BackendError: The model cannot answer at all.
        """
        asked = self._ask(query, documents, options)
        with ending_spans([asked.ranking]):
            if not (self._is_warm or self._warm_up_in_time(asked)):
                return self._hits(asked, self._expired(asked))
            future = self._submit(asked)
            try:
                return self._hits(asked, future.result())
            except BaseException:
                future.cancel()
                raise

    async def arank(
        self, query: str | Query, documents: Sequence[DocumentLike], **options: Unpack[RankOptions]
    ) -> Hits:
        """Rank documents for a query like `rank`, without blocking the event loop.

        If the call is cancelled, its requests to a server are cancelled too. A model in this process finishes its
        current batch, and the result is discarded.
        """
        asked = self._ask(query, documents, options)
        with ending_spans([asked.ranking]):
            if not (self._is_warm or await asyncio.to_thread(self._warm_up_in_time, asked)):
                return self._hits(asked, self._expired(asked))
            if isinstance(self.backend, AsyncBackend):
                work = self._rank_over_network(asked, self.backend)
                return self._hits(asked, await await_on_loop(work))
            return self._hits(asked, await asyncio.wrap_future(self._submit(asked)))

    def rank_many(
        self, lists: Iterable[tuple[str | Query, Sequence[DocumentLike]]], **options: Unpack[RankOptions]
    ) -> Iterator[Hits]:
        """Rank the documents of many queries, and yield the hits in the order of the queries.

        Only a bounded number of lists is read ahead, so the input may be an endless stream. First-stage scores are
        taken from the documents. Options and errors are those of `rank`, without the options ``scores`` and
        ``deadline``.
        """
        for name in ("scores", "deadline"):
            if options.get(name) is not None:
                raise UsageError(f"{name} is passed to rank_many", expected="scores in the documents, and no deadline")
        if not isinstance(lists, Iterable):
            raise UsageError(f"The lists are {error_repr(lists)}", expected="pairs (query, documents)")
        self.warm_up()
        waiting: deque[RankCall] = deque()

        def rankings() -> Iterator[Ranking]:
            for index, pair in enumerate(lists):
                if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
                    raise UsageError(f"List {index} is {error_repr(pair)}", expected="a pair (query, documents)")
                asked = self._ask(*pair, options)
                waiting.append(asked)
                yield asked.ranking

        # nested, so that the lists that wait are looked up when an error is raised
        with ending_spans(asked.ranking for calls in [waiting] for asked in calls):
            for ranked in drive_ranking_stream(rankings(), self._ranker(options.get("top_k")), self.backend):
                yield self._hits(waiting[0], ranked)
                waiting.popleft()

    def evidence(
        self, query: str | Query, documents: Sequence[DocumentLike], **options: Unpack[EvidenceOptions]
    ) -> list[tuple[EvidenceSpan, ...]]:
        """Find the spans of each document that get the most attention from the query, with requests of its own.

        Return one tuple of spans per document, in the given order. A span has a start and an end, in code points of the
        document's text, and a score.

        Raises:
            UsageError: The judge is not the attention judge, or a setting is out of range.
            PartialFailureError: A request failed.
        """
        self.warm_up()
        given = [candidate.document for candidate in given_first_stage_candidates(documents)]
        return find_evidence(self.judge, self.backend, given_first_stage_query(query), given, **options)

    def transform(self, run: Run) -> Run:
        """Rerank all lists of a run, and return the reranked run."""
        self.warm_up()
        ranker = replace(self._ranker(None), scores_single=False)  # a run has no scores of the judge
        given = [self._start_span(ranking, ranking.docs, None) for ranking in run.values()]
        rankings = []
        with ending_spans(given):
            for ranking, ranked in zip(given, drive_ranking_stream(given, ranker, self.backend), strict=True):
                windows, found = report_on(ranked, self.judge, self.on_failure).windows, ranked.ranking
                finish_ranking(ranking, found.docs, found.scores, windows, ranked.expired)
                rankings.append(found)
        return Run(rankings, name=self.name)

    def warm_up(self) -> None:
        """Load the model, or ask its server for the context size, so that the first ranking does not have to wait.

        It is a `BackendError` if the server cannot be reached, and a `UsageError` if the model does not state its
        context size or the settings exceed it.
        """
        if not self._is_warm:
            _ = self.backend.tokens.context_size
            traits(self.backend).warm_up()
            self._is_warm = True

    def count_windows(self, documents: int, top_k: int | None = None) -> int:
        """Return the maximum number of windows that are judged to rank a list of ``documents`` documents."""
        return self._ranker(top_k).strategy.calls(documents)

    def close(self) -> None:
        """Cancel rankings in progress, stop the model's thread, and close connections and the cache of `with_log`."""
        with self._opening.lock:
            service, self._service = self._service, None
        if service is not None:
            service.close()
        traits(self.backend).close()

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, query: str | Query, documents: Sequence[DocumentLike], options: RankOptions) -> RankCall:
        """Return the checked arguments of a call; the time until its deadline is counted from now."""
        for name in options:
            if name not in RankOptions.__annotations__:
                raise UnknownNameError("option of rank", name, list(RankOptions.__annotations__))
        top_k, threshold, deadline = options.get("top_k"), options.get("threshold"), options.get("deadline")
        check_top_k(top_k)
        for name, value in (("deadline", deadline), ("threshold", threshold)):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            ensure(value is None or is_number, f"{name} is {value!r}", expected="a number, or None")
        instruction = options.get("instruction") or ""
        ensure(isinstance(instruction, str), f"instruction is {instruction!r}", expected="a text, or None")
        expected = "more than 0 seconds, or None for no limit"
        ensure(deadline is None or deadline > 0, f"deadline is {deadline!r}", expected=expected)
        is_probability = threshold is None or 0 <= threshold <= 1
        ensure(is_probability, f"threshold is {threshold!r}", expected="a number from 0 to 1")
        candidates = given_first_stage_candidates(documents, options.get("scores"))
        query = given_first_stage_query(query)
        if instruction:
            query = replace(query, instruction=instruction)
        # With top_k=0, the list to rank is empty, so that no model is called.
        ranking = given_first_stage_ranking(query, [] if top_k == 0 else candidates)
        if threshold is not None and not self.has_unit_scores(with_first_stage=bool(ranking.scores)):
            raise threshold_error(threshold)
        if threshold is not None and len(ranking) and not query.text.strip():
            expected = "a query, without which no document has a score"
            raise UsageError("A threshold is given, but the query is empty", expected=expected)
        ordered = (candidates[int(document.id)].document for document in ranking.docs)
        return RankCall(
            candidates=candidates,
            top_k=top_k,
            threshold=threshold,
            deadline=None if deadline is None else time.monotonic() + deadline,
            on_failure=check_on_failure(own) if (own := options.get("on_failure")) else self.on_failure,
            ranking=self._start_span(ranking, ordered, top_k),  # last, since an error would leave the span open
        )

    def _start_span(self, ranking: Ranking, documents: Iterable[Document], top_k: int | None) -> Ranking:
        prompt = self.judge.template.name
        return start_ranking(ranking, documents, self.backend, method=self.name, prompt=prompt, top_k=top_k)

    def has_unit_scores(self, *, with_first_stage: bool = False, logits: bool = False) -> bool:
        """Return whether hits have a ``unit_score`` other than 1/rank (``logits``: a logit), unless windows fail."""
        fused = with_first_stage and self.judge.first_stage
        unit = self.judge.score_kind.unit if self.judge.score_kind and not fused else ""
        return unit == "sigmoid" if logits else bool(unit) or self.calibration is not None

    def _warm_up_in_time(self, asked: RankCall) -> bool:
        """Warm up, and return whether this ended before the deadline; otherwise it continues in the background."""
        if asked.deadline is None:
            self.warm_up()
            return True
        done: Future[None] = Future()

        def warm_up() -> None:
            try:
                self.warm_up()
                done.set_result(None)
            except Exception as error:  # noqa: BLE001 - the waiting thread raises it
                done.set_exception(error)

        threading.Thread(target=warm_up, name="rerank-warm-up", daemon=True).start()
        try:
            done.result(timeout=max(0.0, asked.deadline - time.monotonic()))
        except TimeoutError:
            return False
        return True

    def _expired(self, asked: RankCall) -> RankedList:
        driver = self._ranker(asked.top_k).arrival_driver()
        driver.expire(driver.add(asked.ranking))
        ((_, ranked),) = driver.finished()
        if not isinstance(ranked, RankedList):
            raise ranked
        return ranked

    def _submit(self, asked: RankCall) -> Future[RankedList]:
        backend = self.backend
        if isinstance(backend, AsyncBackend):
            return submit_to_loop(self._rank_over_network(asked, backend))
        ranker = self._ranker(asked.top_k)
        with self._opening.lock:
            if self._service is None:
                self._service = LocalService(ranker.arrival_driver, backend, batch_size=backend.batch_size)
            return self._service.submit(
                asked.ranking, strategy=ranker.strategy, top_k=ranker.top_k, deadline=asked.deadline
            )

    async def _rank_over_network(self, asked: RankCall, backend: AsyncBackend) -> RankedList:
        ranker = self._ranker(asked.top_k)
        driver = ranker.arrival_driver()
        return await drive_list(asked.ranking, driver, backend, top_k=ranker.top_k, deadline=asked.deadline)

    def _ranker(self, top_k: int | None) -> Ranker:
        """Return the ranker for ``top_k`` hits; strategies that can stop early receive this number."""
        strategy = self.strategy
        top_k = min((k for k in (top_k, self.top_k) if k), default=None)
        if top_k and not self.passages and getattr(strategy, "top_k", top_k) != top_k:
            strategy = replace(strategy, top_k=top_k)  # type: ignore[type-var]
        return Ranker(strategy=strategy, judge=self.judge, passages=self.passages, top_k=top_k, scores_single=True)

    def _hits(self, asked: RankCall, ranked: RankedList) -> Hits:
        report = report_on(ranked, self.judge, asked.on_failure, asked.deadline)
        positions = [int(doc.id) for doc in ranked.ranking.docs]
        relevance: Sequence[float | None] = [None] * len(positions)
        if self.calibration is not None and positions:
            given = [asked.candidates[position].score for position in positions]
            calibrated = calibrate_list(self.calibration, ranked, given, self.first_stage)
            relevance = calibrated.relevance
            report = replace(report, answerable=calibrated.answerable, fit=calibrated.fit)
        shown = len(positions) if asked.top_k is None else asked.top_k
        fused = self.judge.first_stage and any(window.scores for window, _ in ranked.judged)
        unit = ranked.score_kind.unit if ranked.score_kind and not fused else ""
        units, kind = compute_unit_scores(ranked.scores[:shown], relevance[:shown], unit, self.logit_divisor)
        if shown < len(positions):  # documents below the cut may have no score, which concerns none above it
            units = [*units, *compute_unit_scores(ranked.scores, relevance, unit, self.logit_divisor)[0][shown:]]
        rows = zip(positions, ranked.scores, relevance, units, strict=True)
        found = [
            Hit(
                corpus_id=position,
                rank=rank,
                score=score,
                relevance=probability,
                unit_score=unit_score,
                document=asked.candidates[position].document,
            )
            for rank, (position, score, probability, unit_score) in enumerate(rows, 1)
        ]
        hits = Hits(found, report=replace(report, unit_kind=kind))
        # a function, since the tokenizer of a model that missed the deadline is not loaded yet
        hits.count_tokens = lambda texts: self.backend.tokens.lengths(texts)
        if asked.top_k is not None:  # first: a document below the cut may have a score of another kind
            hits = hits.top_k(asked.top_k)
        if asked.threshold is not None and found and kind == "rank":  # windows failed: no score alone orders the hits
            note = f"The threshold {asked.threshold:g} was not applied, because some documents have no score"
            hits.report = replace(hits.report, notes=(*hits.notes, note))
        elif asked.threshold is not None:
            hits = hits.at_least(asked.threshold)
        shown_scores = (hit.unit_score for hit in hits)
        finish_ranking(asked.ranking, (h.document for h in hits), shown_scores, report.windows, ranked.expired)
        return hits
