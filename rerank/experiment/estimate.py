"""Requests of a run that are known before its first reply: estimates of its cost, and the provider's batch interface.

Estimates are upper bounds, computed by running the strategy with a judge that only counts requests. For adaptive
strategies (heaps, bubble sort, top-down), the number of calls depends on the replies. Their maximum number of calls is
used, and tokens are scaled in proportion. Prompt tokens are exact for the first window of a query and approximate for
later windows, whose documents depend on replies. Completion tokens are an upper bound.

Requests are submitted as batches, and the replies are committed to the call log under the digests that live calls have,
so that resuming, replay and verification work in the same way. Requests without a reply after a batch are sent live.
"""

import heapq
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from rerank.errors import BackendError, UsageError
from rerank.experiment.candidates import order_list
from rerank.experiment.prepare import PreparedRun
from rerank.judges.base import Judge, OversizedWindow, ScoreKind, Verdict
from rerank.models.prices import compute_cost, estimate_search_units
from rerank.pipeline.stream import Flow, drive_ranking_stream
from rerank.store import LoggingBackend, RunFolder
from rerank.store.run_folder import COLLECTED, SUBMITTING, BatchRecord, RecordedBatch
from rerank.strategies.base import Strategy
from rerank.tasks import (
    AttentionTask,
    Backend,
    ContinuationTask,
    CrossEncoderTask,
    HeadTask,
    LikelihoodTask,
    LogitTask,
    Reply,
    Request,
)
from rerank.tasks.backends import BatchInterface, BatchStatus, traits
from rerank.tasks.requests import Usage
from rerank.types import Plan, Ranking, Window

_INDEPENDENT = "a method whose calls do not depend on each other's replies, such as fullrank or pointwise"


@dataclass(kw_only=True)
class _CollectingJudge:
    """A judge that passes another judge's requests to a function without sending them, and keeps the given order."""

    judge: Judge
    on_request: Callable[[Request], None]
    divides: bool

    @property
    def score_kind(self) -> ScoreKind | None:
        return None

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        requests = self.judge.requests(window)
        if isinstance(requests, OversizedWindow):
            if not self.divides:
                raise UsageError(
                    f"The {len(window)} documents of query {window.query.id!r} do not fit in one prompt, so they are "
                    "ranked in parts, each of which depends on the replies to the parts before it",
                    expected=f"at most {requests.capacity} documents per prompt",
                    remedy="Use a smaller --depth or --max-passage-tokens, or omit --provider-batch",
                )
            return requests
        for request in requests:
            self.on_request(request)
        return []  # nothing is sent

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        return Verdict(order=tuple(range(len(window))), status="ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class _OneRound:
    """A wrapper for a strategy, which raises an error if the strategy needs results before it yields all windows."""

    strategy: Strategy
    name: str

    def __call__(self, ranking: Ranking) -> Plan:
        plan = self.strategy(ranking)
        try:
            orders = yield next(plan)
            plan.send(orders)
        except StopIteration as end:
            result: Ranking = end.value
            return result
        raise UsageError(
            f"--provider-batch cannot be used with the method {self.name}: later windows depend on the replies to "
            f"earlier windows, so the {len(ranking)} candidates of query {ranking.query.id!r} need several rounds of "
            "up to 24 hours each",
            expected=_INDEPENDENT,
            remedy="Choose another --method, or omit --provider-batch",
        )

    def calls(self, n: int) -> int:
        return self.strategy.calls(n)


def collect_run_requests(
    prepared: PreparedRun, on_request: Callable[[Request], None], *, in_one_round: bool = False
) -> None:
    """Call a function with each request of a run, assuming that every reply keeps the order of the documents."""
    judge = _CollectingJudge(judge=prepared.judge, on_request=on_request, divides=not in_one_round)
    ranker = prepared.setup.ranker(judge)
    if in_one_round:
        ranker = replace(ranker, strategy=_OneRound(strategy=ranker.strategy, name=prepared.spec.shown_method))
    lists = (order_list(ranking, prepared.spec) for ranking in prepared.lists)
    for _ in drive_ranking_stream(lists, ranker, prepared.backend, Flow.of(prepared.backend)):
        pass  # iterating runs the strategy, and the judge collects the requests


#: Number of lists with the most text, and with the longest documents, whose requests are looked at.
_LOOKED_AT = 8
#: Factor for the other lists, whose text may have more tokens per character.
_MARGIN = 1.25


def longest_request(prepared: PreparedRun) -> int:
    """Estimate the number of tokens of prompt and reply that the longest request of a run may have.

    The requests are those of the longest lists, each with its longest documents first, so that they share a window. The
    result is larger by a margin, for lists whose text has more tokens per character.
    """
    sizes = {r.query.id: [len(doc.full_text) for doc in r.docs] or [0] for r in prepared.lists}
    chosen = {*heapq.nlargest(_LOOKED_AT, sizes, lambda query: sum(sizes[query]))}
    chosen |= {*heapq.nlargest(_LOOKED_AT, sizes, lambda query: max(sizes[query]))}
    found: list[Request] = []
    judge = _CollectingJudge(judge=prepared.judge, on_request=found.append, divides=True)
    lists = [
        r.reorder(0, tuple(sorted(range(len(r.docs)), key=lambda position: -sizes[r.query.id][position])))
        for r in prepared.lists
        if r.query.id in chosen
    ]
    for _ in drive_ranking_stream(lists, prepared.setup.ranker(judge), prepared.backend, Flow.of(prepared.backend)):
        pass
    longest = heapq.nlargest(_LOOKED_AT, found, key=lambda request: sum(len(m.content) for m in request.prompt))
    prompt = max((prepared.backend.tokens.count(request.prompt) for request in longest), default=0)
    reply = max((request.sampling.max_tokens + request.sampling.thinking for request in found), default=0)
    return math.ceil(_MARGIN * prompt) + reply


def batch_interface(prepared: PreparedRun) -> BatchInterface:
    """Return the batch interface of a run's backend."""
    batches: BatchInterface | None = getattr(prepared.backend, "batches", None)
    if batches is None:
        raise UsageError(
            f"--provider-batch cannot be used with the model {prepared.spec.model}",
            expected="a model behind one server with a batch interface: --model openai:NAME",
            remedy="Omit --provider-batch",
        )
    return batches


#: Tasks whose replies have scores and no text.
_SILENT = (AttentionTask, CrossEncoderTask, HeadTask, LikelihoodTask, LogitTask)


def estimate_run_cost(prepared: PreparedRun, *, in_batches: bool = False) -> dict[str, Any]:
    """Estimate the calls and tokens of a prepared run, without calling the model.

    The result has ``queries``, the upper bounds ``calls``, ``tokens_in`` and ``tokens_out``, ``cost`` in US dollars,
    None if unknown, and ``batch``, the limits of the batches of a model in this process. ``in_batches`` is refused with
    a `UsageError` if the backend has no batch interface or a request depends on a reply.
    """
    if in_batches:
        batch_interface(prepared)
    counter, counted = prepared.backend.tokens, Usage()

    def count(request: Request) -> None:
        sampling = request.sampling
        searches = 0
        if isinstance(request.task, CrossEncoderTask):
            searches = estimate_search_units(counter.lengths([message.content for message in request.prompt]))
        room = 0 if isinstance(request.task, ContinuationTask) else traits(prepared.backend).thought_room
        writes = not isinstance(request.task, _SILENT)
        tokens_out = (sampling.max_tokens + (sampling.thinking or room)) * writes
        counted.add(Reply(tokens_in=counter.count(request.prompt), tokens_out=tokens_out, search_units=searches))

    collect_run_requests(prepared, count, in_one_round=in_batches)
    calls = max(prepared.calls(), counted.calls) if counted.calls else 0
    tokens_in, tokens_out = (
        math.ceil(tokens * calls / max(1, counted.calls)) for tokens in (counted.tokens_in, counted.tokens_out)
    )
    batched = {"tokens_in": tokens_in, "tokens_out": tokens_out} if in_batches else {}
    most = Usage(tokens_in=tokens_in, tokens_out=tokens_out, search_units=counted.search_units, batched=batched)
    return {
        "queries": prepared.lists.survey.queries,
        "calls": calls,
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "cost": compute_cost(prepared.spec.model, most),
        **({"batch": describe_batch(prepared.backend)} if traits(prepared.backend).files else {}),
    }


def describe_batch(backend: Backend) -> str:
    """Describe the limits of a local backend's batches: pairs or prompts, and tokens or characters."""
    limits = traits(backend)
    rows = backend.batch_size if limits.pairs_per_batch is None else limits.pairs_per_batch
    units = {"tokens": limits.batch_tokens, "characters": limits.batch_characters}
    parts = [f"{rows} {'prompts' if limits.pairs_per_batch is None else 'pairs'}"]
    parts += [f"{limit:,} {unit}" for unit, limit in units.items() if limit is not None]
    return f"at most {', '.join(parts)}"


#: A callback that is called with each observed state of a batch.
OnBatch = Callable[[BatchStatus], None]
#: Maximum number of requests that are sent live before the first batch, until one of them succeeds.
_PROBES = 3


def collect_requests(prepared: PreparedRun) -> dict[str, Request]:
    """Check that a run can be sent in batches, and return a mapping from digest to request for all its requests."""
    batch_interface(prepared)
    requests: dict[str, Request] = {}

    def collect(request: Request) -> None:
        requests[request.digest(prepared.backend.identity)] = request

    collect_run_requests(prepared, collect, in_one_round=True)
    return requests


def answer_beforehand(
    prepared: PreparedRun,
    backend: LoggingBackend,
    folder: RunFolder,
    requests: Mapping[str, Request] | None,
    on_batch: OnBatch,
) -> None:
    """Send the requests of a run in batches, and commit the replies to the call log.

    Batches that an earlier execution submitted are finished first, even if no new batch is to be submitted, because
    they are already paid for. ``requests`` maps digests to the requests of the whole run; None to submit no new batch.
    """
    record = BatchRecord(folder)
    if requests is None and not record.unfinished():
        return
    all_requests = collect_requests(prepared) if requests is None else requests
    interface = batch_interface(prepared)
    run = _BatchedRun(backend=backend, interface=interface, record=record, requests=all_requests, on_batch=on_batch)
    run.finish_recorded()
    if requests is not None:
        run.submit_rest()


@dataclass(kw_only=True)
class _BatchedRun:
    """The batches of one execution of a run."""

    backend: LoggingBackend
    interface: BatchInterface
    record: BatchRecord  # record of the batches that were submitted
    requests: Mapping[str, Request]
    on_batch: OnBatch  # function that is called with each observed state of a batch
    #: Digests of requests that a batch returned without a reply although the batch had not expired.
    failed: set[str] = field(default_factory=set)

    def finish_recorded(self) -> None:
        for batch in self.record.unfinished():
            if batch.state == SUBMITTING:
                if not (found := self.interface.find(batch.key)):
                    self.record.forget(batch)  # the run was killed before the provider received it
                    continue
                batch = self.record.write(batch, id=found, state="submitted")
            self._finish(batch)

    def submit_rest(self) -> None:
        """Submit the requests without a reply until each has a reply or has failed in a batch that did not expire."""
        while True:
            rest = {digest: request for digest, request in self.requests.items() if digest not in self.failed}
            rest = dict(self.backend.affordable(self.backend.unanswered(rest)))  # up to the cap on tokens
            if not rest or not self._probe(rest):
                return
            submitted = []
            for part in [RecordedBatch.begin(part) for part in self.interface.divide(rest)]:
                self.record.write(part)  # before it is submitted, so that a killed run can find it
                found = self.interface.submit(self._of(part.digests), part.key)
                submitted.append(self.record.write(part, id=found, state="submitted"))
            for batch in submitted:
                self._finish(batch)

    def _probe(self, rest: dict[str, Request]) -> bool:
        """Send requests in ``rest`` live, one by one, until one succeeds; remove them, and return whether any are left.

        A wrong model, a rejected key or a field that the server refuses is thus detected now instead of a day later.
        """
        for digest, request in list(islice(rest.items(), _PROBES)):
            del rest[digest]
            # The wrapped backend, since `rest` holds only requests without a recorded reply and within the cap on
            # tokens. `keep` commits no errors, so a resumed run sends the failed ones again.
            (reply,) = self.backend.backend.generate([request])
            self.backend.keep({digest: request}, {digest: reply})
            if reply.finish != "error":
                break
            self.failed.add(digest)
        else:
            if rest:
                raise BackendError(
                    f"The first {_PROBES} requests, which are sent live before a batch, failed: {reply.error}",
                    remedy="Continue with --resume; without --provider-batch, all requests are sent live",
                )
        return bool(rest)

    def _finish(self, batch: RecordedBatch) -> None:
        status = self.interface.wait(batch.id, self.on_batch)
        requests = self._of(batch.digests)
        results = self.interface.collect(status, requests)
        known = self.backend.log.rows(list(results.replies))
        self.backend.keep(requests, {digest: r for digest, r in results.replies.items() if digest not in known})
        self.record.write(batch, state=COLLECTED)
        missing = requests.keys() - results.replies.keys()
        if not status.has_expired:
            self.failed |= missing
        unknown = len(batch.digests) - len(requests)
        if missing or unknown or results.problems:
            first = f". {results.problems[0]}" if results.problems else ""
            warnings.warn(
                f"Batch {batch.id} ended as {status.state!r} with {len(results.replies)} of {len(batch.digests)} "
                f"replies{first}",
                stacklevel=2,
            )
        if status.problem or (status.has_expired and not results.replies):
            raise BackendError(
                f"The provider ended the batch {batch.id} with {len(results.replies)} of {len(batch.digests)} replies: "
                f"{status.problem or status.state}",
                remedy="The replies are kept. Continue with --resume; without --provider-batch, the other requests are "
                "sent live",
            )

    def _of(self, digests: Iterable[str]) -> dict[str, Request]:
        return {digest: self.requests[digest] for digest in digests if digest in self.requests}
