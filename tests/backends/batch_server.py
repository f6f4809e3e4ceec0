"""A server on loopback with OpenAI's endpoints for files and batches, whose batches end as they are told."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

Line = dict[str, Any]
#: From the lines of a batch to its final state, the lines of its output file and those of its error file.
Ending = Callable[[list[Line]], tuple[str, list[Line], list[Line]]]


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """A chat completion that keeps the order of the passages, with half of the prompt from the cache."""
    numbers = sorted({int(n) for n in re.findall(r"^\[(\d+)\]", body["messages"][-1]["content"], re.MULTILINE)})
    text = " > ".join(f"[{n}]" for n in numbers) or "yes"
    if body.get("response_format"):
        text = json.dumps({"order": [f"[{n}]" for n in numbers]})
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if body.get("logprobs"):
        likely = [{"token": token, "logprob": value} for token, value in (("Yes", -0.1), ("No", -2.5))]
        choice["logprobs"] = {"content": [{"token": "Yes", "logprob": -0.1, "top_logprobs": likely}]}
    return {
        "model": body["model"],
        "choices": [{"index": 0, **choice}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 50}},
    }


def answered(line: Line) -> Line:
    """The line of an output file."""
    response = {"status_code": 200, "request_id": "r", "body": completion(line["body"])}
    return {"id": "batch_req_1", "custom_id": line["custom_id"], "response": response, "error": None}


def expired(line: Line) -> Line:
    """The line of an error file for a request whose time was over."""
    error = {"code": "batch_expired", "message": "This request could not be executed in time."}
    return {"id": "batch_req_2", "custom_id": line["custom_id"], "response": None, "error": error}


def refused(line: Line, status: int = 500) -> Line:
    """The line of an error file for a request that failed by itself."""
    response = {"status_code": status, "request_id": "r", "body": {"error": {"message": "it failed"}}}
    return {"id": "batch_req_3", "custom_id": line["custom_id"], "response": response, "error": None}


def all_answered(lines: list[Line]) -> tuple[str, list[Line], list[Line]]:
    """Every request is answered, in another order."""
    return "completed", [answered(line) for line in reversed(lines)], []


class BatchServer:
    """The server; a context manager.

    Args:
        endings: How the batches end, in the order of their submission; the last one stays.
        polls: Number of looks at a batch before it ends.
        before_create: Status codes that are sent in place of an answer to the next attempts to create a batch.
        created_unseen: Number of first attempts that create a batch whose answer is lost.
        has_batches: Whether there is a batch interface at all.
    """

    def __init__(
        self,
        endings: Sequence[Ending] = (all_answered,),
        *,
        polls: int = 1,
        before_create: Sequence[int] = (),
        created_unseen: int = 0,
        has_batches: bool = True,
        live: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]] = lambda body: (200, completion(body)),
    ) -> None:
        self.endings, self.polls, self.refusals = list(endings), polls, list(before_create)
        self.created_unseen, self.has_batches, self.live = created_unseen, has_batches, live
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.asked: list[dict[str, Any]] = []  # live requests
        self.submitted: Counter[str] = Counter()  # custom ids
        self.looks: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def lines(self, file: str) -> list[Line]:
        return [json.loads(line) for line in self.files[file].split(b"\n") if line]

    def upload(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    def create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            if self.refusals:
                return self.refusals.pop(0), {"error": {"message": "not now"}}
            assert body["endpoint"] == "/v1/chat/completions"
            assert body["completion_window"] == "24h"
            lines = self.lines(body["input_file_id"])
            self.submitted.update(line["custom_id"] for line in lines)
            batch = {
                "id": f"batch_{len(self.batches)}",
                "object": "batch",
                "created_at": int(time.time()),
                "status": "validating",
                "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
                **body,
            }
            self.batches[batch["id"]] = batch
            if self.created_unseen:
                self.created_unseen -= 1
                return 502, {"error": {"message": "the answer is lost"}}
            return 200, batch

    def look(self, name: str) -> tuple[int, dict[str, Any]]:
        with self._lock:
            batch = self.batches.get(name)
            if batch is None:
                return 404, {"error": {"message": "no such batch"}}
            self.looks[name] += 1
            if batch["status"] in ("validating", "in_progress"):
                batch["status"] = "in_progress"
                if self.looks[name] > self.polls:
                    self._end(batch)
            return 200, batch

    def _end(self, batch: dict[str, Any]) -> None:
        ending = self.endings.pop(0) if len(self.endings) > 1 else self.endings[0]
        state, output, errors = ending(self.lines(batch["input_file_id"]))
        for name, lines in (("output_file_id", output), ("error_file_id", errors)):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            batch[name] = self.upload(text.encode()) if lines else None
        if state == "failed":
            batch["errors"] = {
                "object": "list",
                "data": [{"code": "token_limit_exceeded", "message": "Too many tokens"}],
            }
        batch["request_counts"] |= {"completed": len(output), "failed": len(errors)}
        batch["status"] = state

    def listing(self, query: str) -> dict[str, Any]:
        """Two batches per page, the newest first."""
        names = list(reversed(self.batches))
        after = parse_qs(query).get("after", [""])[0]
        rest = names[names.index(after) + 1 :] if after else names
        return {"object": "list", "data": [self.batches[name] for name in rest[:2]], "has_more": len(rest) > 2}


def _handler(server: BatchServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = parts.path.removeprefix("/v1")
            if path == "/models":
                self._send(200, {"data": [{"id": "m", "owned_by": "somebody", "max_model_len": 8192}]})
            elif path.startswith("/files/") and path.endswith("/content"):
                content = server.files.get(path.split("/")[2])
                self._send_bytes(404 if content is None else 200, content or b"{}")
            elif path == "/batches" and server.has_batches:
                self._send(200, server.listing(parts.query))
            elif path.startswith("/batches/"):
                self._send(*server.look(path.split("/")[2]))
            else:
                self._send(404, {"error": {"message": f"no {path}"}})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/files":
                self._send(200, {"id": server.upload(_file_in_form(content)), "object": "file", "purpose": "batch"})
            elif self.path == "/v1/batches":
                self._send(*server.create(json.loads(content)))
            else:
                body = json.loads(content)
                server.asked.append(body)
                self._send(*server.live(body))

        def _send(self, status: int, body: dict[str, Any]) -> None:
            self._send_bytes(status, json.dumps(body).encode())

        def _send_bytes(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    return Handler


def _file_in_form(content: bytes) -> bytes:
    """The file in a multipart form that has the purpose ``batch``."""
    boundary = content.split(b"\r\n", 1)[0]
    parts = {}
    for part in content.split(boundary)[1:-1]:
        head, _, value = part.strip(b"\r\n").partition(b"\r\n\r\n")
        name = re.search(rb'name="(\w+)"', head)
        assert name is not None
        parts[name[1].decode()] = value
    assert parts["purpose"] == b"batch"
    return parts["file"]
