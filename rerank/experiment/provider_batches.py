"""Sending of a run's requests through the provider's batch interface, so that the run finds the replies in its log.

All requests of a method without dependent calls are known before the first reply. They are submitted as batches, and
the replies are committed to the call log under the digests that live calls have, so that resuming, replay and
verification work in the same way. Requests without a reply after a batch are sent live by the run itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from rerank.errors import BackendError
from rerank.experiment.estimate import batch_interface, collect_run_requests
from rerank.experiment.prepare import PreparedRun
from rerank.store import LoggingBackend, RunFolder
from rerank.store.run_folder import COLLECTED, SUBMITTING, BatchRecord, RecordedBatch
from rerank.tasks import Request
from rerank.tasks.backends import BatchInterface, BatchStatus

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
    they are already paid for.

    Args:
        requests: Mapping from digest to request for the whole run; None to submit no new batch.
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
