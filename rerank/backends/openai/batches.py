"""OpenAI's batch interface: files of requests that are answered within 24 hours (endpoints ``files`` and ``batches``).

The formats are those of the types ``Batch``, ``FileObject`` and ``BatchCreateParams`` of the Python package openai
3.57, and OpenAI's guide to the interface. The digest of a request is its ``custom_id``. The metadata of a batch
contains its key, so that a batch whose id was never received can be found in the list of batches.
"""

import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rerank.backends.base.client import Server
from rerank.backends.base.connection import retrying
from rerank.backends.base.responses import (
    RequestFailedError,
    RequestRejectedError,
    ServerResponse,
    count_in,
    decode_json_object,
    name_in,
    object_in,
    objects_in,
    shorten,
)
from rerank.backends.openai.dialect import Dialect, parse_reply
from rerank.errors import BackendError
from rerank.tasks import Request
from rerank.tasks.backends import BatchReplies, BatchStatus
from rerank.tasks.concurrency import run_on_loop

#: Limits of one batch. OpenAI allows 50,000 requests and 200 MB, but the file of results must fit into one response.
MOST_REQUESTS, MOST_BYTES = 10_000, 100 << 20
#: Waits between two checks of a batch: the first wait in seconds, the growth factor, and the longest wait in seconds.
FIRST_WAIT, GROWTH, LONGEST_WAIT = 5.0, 1.5, 60.0
#: Number of successive failed checks of a batch after which waiting ends with an error.
_FAILURES = 20
_ENDPOINT = "/v1/chat/completions"
_KEY, _OMITTED = "listrank_batch", "omitted_fields"
#: Maximum number of pages, of 100 batches each and newest first, that are searched for a batch with a given key.
_PAGES = 100
_LATER = "Continue with --resume: a batch that was submitted is not submitted again, and its replies are used"


@dataclass(frozen=True, slots=True)
class OpenaiBatches:
    """The batch interface of one server: requests are submitted in files and answered hours later."""

    server: Server[Dialect]

    def divide(self, requests: Mapping[str, Request]) -> Iterator[dict[str, Request]]:
        """Divide requests into batches of at most `MOST_REQUESTS` requests and about `MOST_BYTES` bytes."""
        part: dict[str, Request] = {}
        size = 0
        for digest, request in requests.items():
            bound = sum(len(json.dumps(message.content)) for message in request.prompt) + 10_000
            if part and (len(part) == MOST_REQUESTS or size + bound > MOST_BYTES):
                yield part
                part, size = {}, 0
            part[digest] = request
            size += bound
        if part:
            yield part

    def submit(self, requests: Mapping[str, Request], key: str) -> str:
        return _run(self._submit(requests, key))

    def find(self, key: str) -> str:
        return _run(self._find(key))

    def wait(self, batch_id: str, on_status: Callable[[BatchStatus], None]) -> BatchStatus:
        return run_on_loop(self._wait(batch_id, on_status))

    def collect(self, status: BatchStatus, requests: Mapping[str, Request]) -> BatchReplies:
        return run_on_loop(self._collect(status, requests))

    async def _submit(self, requests: Mapping[str, Request], key: str) -> str:
        dialect = await self.server.describe()
        bodies = ((digest, dialect.build_request(request).body) for digest, request in requests.items())
        lines = ({"custom_id": digest, "method": "POST", "url": _ENDPOINT, "body": body} for digest, body in bodies)
        omitted = ",".join(sorted(dialect.refused))
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        connection = self.server.connection
        if known := await self._find(key):  # also fails now if there is no batch interface
            return known
        file = {"purpose": (None, "batch"), "file": (f"{key}.jsonl", content, "application/jsonl")}
        file_id = await connection.ask("/files", upload=file, read=_id)
        metadata = {_KEY: key, **({_OMITTED: omitted} if omitted else {})}
        body = {"input_file_id": file_id, "endpoint": _ENDPOINT, "completion_window": "24h", "metadata": metadata}

        async def create() -> str:
            # An attempt without a response may have created the batch, so every attempt looks for the batch first.
            return await self._find(key) or await connection.ask("/batches", body, read=_id, retries=0)

        return await retrying(connection.sleep, connection.retries)(create)

    async def _find(self, key: str) -> str:
        after = ""
        for _ in range(_PAGES):
            page = await self.server.connection.ask(f"/batches?limit=100{after}", read=lambda answer: answer.body)
            rows = objects_in(page.get("data"))
            for row in rows:
                if object_in(row.get("metadata")).get(_KEY) == key:
                    return name_in(row.get("id"))
            last = name_in(rows[-1].get("id")) if rows else ""
            if not page.get("has_more") or not last:
                break
            after = f"&after={last}"
        return ""

    async def _wait(self, batch_id: str, on_status: Callable[[BatchStatus], None]) -> BatchStatus:
        connection = self.server.connection
        failures, wait = 0, FIRST_WAIT
        while True:
            try:
                status = await connection.ask(f"/batches/{batch_id}", read=_status)
            except RequestFailedError as error:
                failures += 1
                if failures == _FAILURES:
                    raise BackendError(f"The batch {batch_id} cannot be read: {error}", remedy=_LATER) from error
            except RequestRejectedError as error:
                raise BackendError(
                    f"The batch {batch_id} cannot be read: {error}",
                    expected="a key of the account that submitted the batch",
                    remedy="To abandon the batch, remove it from batches.json in the run folder, then use --resume",
                ) from error
            else:
                failures = 0
                on_status(status)
                if status.has_ended:
                    return status
            await connection.sleep(wait)
            wait = min(LONGEST_WAIT, wait * GROWTH)

    async def _collect(self, status: BatchStatus, requests: Mapping[str, Request]) -> BatchReplies:
        dialect = await self.server.describe()
        dialect.refused.update(status.omitted)  # for requests that are sent again
        as_sent = replace(dialect, refused=set(status.omitted))
        results = BatchReplies()
        for file in status.files:
            try:
                answer = await self.server.connection.ask(f"/files/{file}/content", read=lambda answer: answer)
            except RequestFailedError as error:
                raise BackendError(str(error), remedy=_LATER) from error
            except RequestRejectedError as error:  # such as a file that the provider has deleted after 30 days
                results.problems.append(f"The file {file} of the batch {status.id} cannot be read: {error}")
                continue
            if answer.unreadable:
                raise BackendError(f"The results of the batch {status.id} cannot be read: {answer.unreadable}")
            for line in filter(str.strip, answer.text.split("\n")):
                _read_result(decode_json_object(line), requests, results, as_sent)
        return results


def _read_result(
    line: Mapping[str, Any], requests: Mapping[str, Request], results: BatchReplies, dialect: Dialect
) -> None:
    """Parse one line of a result file, and add the reply, or a message about a problem, to ``results``."""
    digest, response = name_in(line.get("custom_id")), object_in(line.get("response"))
    if digest not in requests:
        results.problems.append(f"A result belongs to no request: {shorten(str(dict(line)))}")
    elif digest in results.replies:
        results.problems.append(f"There are two results with the id {digest}; the first one counts")
    elif response.get("status_code") != 200:
        error = object_in(line.get("error")) or object_in(response.get("body"))
        results.problems.append(f"A request failed: {shorten(json.dumps(error))}")
    else:
        request = requests[digest]
        sent = dialect.build_request(request)
        try:
            parsed = parse_reply(ServerResponse(json.dumps(response.get("body"))), request, sent)
            if not parsed.has_content:
                raise RequestFailedError(parsed.reply.error)
        except RequestFailedError as failure:
            results.problems.append(f"A request failed: {failure}")
        else:
            dialect.check_reply(sent, request, parsed.reply)
            results.replies[digest] = replace(parsed.reply, is_batched=True)


def _run(call: Coroutine[Any, Any, str]) -> str:
    """Call the batch interface; raise `BackendError` if a request fails or is rejected."""
    try:
        return run_on_loop(call)
    except RequestFailedError as error:
        raise BackendError(str(error), remedy=_LATER) from error
    except RequestRejectedError as error:
        if error.status not in (404, 405):
            raise BackendError(f"The batch was refused: {error}", remedy=_LATER) from error
        raise BackendError(
            f"The server has no batch interface: {error}",
            expected="OpenAI's endpoints files and batches",
            remedy="Omit --provider-batch to send the requests one by one",
        ) from error


def _id(answer: ServerResponse) -> str:
    if not (found := name_in(answer.body.get("id"))):
        raise RequestFailedError(f"The response of the server contains no id: {answer.text or 'nothing'}")
    return found


def _status(answer: ServerResponse) -> BatchStatus:
    body = answer.body
    state, counts = name_in(body.get("status")), object_in(body.get("request_counts"))
    if not state:
        raise RequestFailedError(f"The response of the server contains no status: {answer.text or 'nothing'}")
    errors = [name_in(row.get("message")) for row in objects_in(object_in(body.get("errors")).get("data"))]
    total, completed, failed = (count_in(counts.get(name)) for name in ("total", "completed", "failed"))
    return BatchStatus(
        id=name_in(body.get("id")),
        state=state,
        total=total,
        done=completed + failed,
        has_ended=state in ("completed", "expired", "failed", "cancelled"),
        has_expired=state == "expired",
        problem=shorten("; ".join(filter(None, errors)) or state) if state in ("failed", "cancelled") else "",
        files=tuple(filter(None, (name_in(body.get(name)) for name in ("output_file_id", "error_file_id")))),
        omitted=tuple(filter(None, name_in(object_in(body.get("metadata")).get(_OMITTED)).split(","))),
    )
