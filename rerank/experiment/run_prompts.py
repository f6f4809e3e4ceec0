"""Prompts of a recorded run, read from its call log or, if the log does not contain them, rendered again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerank.errors import DataError
from rerank.experiment.candidates import order_list
from rerank.experiment.prepare import prepare_run
from rerank.experiment.spec import Execution, RunSpec
from rerank.pipeline.stream import Flow, drive_ranking_stream
from rerank.prompts.base import Prompt
from rerank.store import CallLog, RunFolder
from rerank.store.call_log import RowSet
from rerank.tasks import Backend, Reply, Request
from rerank.tasks.backends import BaseBackend, traits


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPrompt:
    """The prompt of one call of a run."""

    digest: str
    query_id: str
    doc_ids: tuple[str, ...]  # ids of the documents, in the order of the prompt
    prompt: Prompt

    def to_json(self) -> dict[str, Any]:
        turns = [{"role": turn.role, "content": turn.content} for turn in self.prompt]
        return {"digest": self.digest, "query": self.query_id, "docs": list(self.doc_ids), "prompt": turns}


def read_run_prompts(folder: RunFolder) -> Iterator[RunPrompt]:
    """Yield the prompt of every call that a run used, one at a time.

    If the log lacks a prompt, all prompts are rendered again from the collection, the prompt template and the model's
    tokenizer. The digests of these requests must then match those in the log.
    """
    with folder.calls(readonly=True) as log:
        yield from _logged(log) if log.has_all_prompts() else _rendered(folder, log)


def _logged(log: CallLog) -> Iterator[RunPrompt]:
    for call in log.calls():
        prompt = log.prompt(call.row) or ()
        yield RunPrompt(digest=call.digest, query_id=call.query_id, doc_ids=call.doc_ids, prompt=prompt)


def _rendered(folder: RunFolder, log: CallLog) -> Iterator[RunPrompt]:
    document = folder.spec()
    prepared = prepare_run(RunSpec.from_record(document["spec"]), Execution())
    backend = _LoggedReplies(log, document["identity"]["model"], prepared.backend, is_complete=folder.finished)
    lists = (order_list(ranking, prepared.spec) for ranking in prepared.lists)
    for _ in drive_ranking_stream(lists, prepared.setup.ranker(prepared.judge), backend, Flow.of(backend)):
        yield from backend.rendered
        backend.rendered.clear()


class _LoggedReplies(BaseBackend):
    """A backend that returns replies only from a call log, and collects the prompt of each call once."""

    batch_size = 16
    costs_money = False
    sees_pictures = True

    def __init__(self, log: CallLog, identity: Mapping[str, str], backend: Backend, *, is_complete: bool) -> None:
        self.identity, self.tokens, self.tasks = identity, backend.tokens, traits(backend).tasks
        self.rendered: list[RunPrompt] = []
        self._log, self._is_complete, self._seen = log, is_complete, RowSet()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        digests = [request.digest(self.identity) for request in requests]
        rows = self._log.rows(digests)
        for digest, request in zip(digests, requests, strict=True):
            ids = tuple(doc.id for doc in request.window.docs)
            if digest not in rows and self._is_complete:
                raise DataError(
                    f"The prompt for {len(ids)} documents of query {request.window.query.id!r} was rendered again; "
                    f"{str(self._log.path)!r} contains no reply to the resulting request with the digest {digest}",
                    expected="the digest of a call of this run: the same collection, prompt, tokenizer and version",
                    remedy="Restore the files with which the run was made; replaying the run does not need prompts",
                )
            if digest in rows and self._seen.add(rows[digest][0]):
                query_id = request.window.query.id
                self.rendered.append(RunPrompt(digest=digest, query_id=query_id, doc_ids=ids, prompt=request.prompt))
        missing = Reply(finish="error", error="The call log has no reply to this request")
        return [rows[digest][1] if digest in rows else missing for digest in digests]
