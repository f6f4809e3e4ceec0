"""A server with OpenAI's interface on loopback that answers as it is told, well or badly, and keeps what it was asked.

Every question for a chat takes the next of its acts; the last one stays. So a test writes down what is to happen.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Act:
    """One answer: status, headers and body; or none, the connection being closed; perhaps after a while.

    Bytes in ``wire`` are sent as they are in its place, with a pause between them; then the connection is closed, or
    reset.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False
    wait: float = 0.0
    wire: Sequence[bytes] = ()
    pause: float = 0.0
    reset: bool = False


Answer = Act | Callable[[dict[str, Any]], Act]


def said(text: str | None, finish: str = "stop", *, tokens: int = 50, **message: Any) -> Act:
    """A proper answer."""
    return raw(
        {
            "choices": [{"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}],
            "usage": {"prompt_tokens": tokens, "completion_tokens": 7},
        }
    )


def weighed(**likely: float) -> Act:
    """A proper answer with likelihoods of its first token; underscores stand for blanks."""
    rows = [{"token": token.replace("_", " "), "logprob": value} for token, value in likely.items()]
    content = [{"token": rows[0]["token"], "logprob": 0.0, "top_logprobs": rows}]
    return raw({"choices": [{"message": {"content": "x"}, "logprobs": {"content": content}}]})


def raw(body: Any, **more: Any) -> Act:
    """JSON of any shape."""
    return Act(body=json.dumps(body).encode(), **more)


def error(status: int, message: str = "no", *, headers: Mapping[str, str] | None = None, **more: Any) -> Act:
    """An error as OpenAI writes it."""
    return raw({"error": {"message": message, **more}}, status=status, headers=headers or {})


def models(*names: str, owner: str = "somebody", **more: Any) -> Act:
    """A list of models."""
    return raw({"object": "list", "data": [{"id": name, "owned_by": owner, **more} for name in names]})


class FaultyServer:
    """The server; a context manager.

    Args:
        acts: Answers to questions for a chat, in order; the last one stays.
        listing: Answer to the question for models.
        props: Answer to the question for llama.cpp's properties.
        path: The path that is asked for answers.
        port: The port; 0 for any.
    """

    def __init__(
        self,
        acts: Sequence[Answer],
        *,
        listing: Act | None = None,
        props: Act | None = None,
        path: str = "/v1/chat/completions",
        port: int = 0,
    ) -> None:
        self.acts = list(acts)
        self.path, self.port = path, port
        self.gets = {"/v1/models": listing or models("m", max_model_len=4096), "/props": props or error(404)}
        self.asked: list[dict[str, Any]] = []
        self.looked: list[str] = []
        self.keys: list[str] = []
        self.seen_keys: set[str] = set()  # of questions for a chat and of all others
        self.connections = 0
        self.most = 0  # requests under way at once
        self.open: set[socket.socket] = set()
        self._under_way = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in list(self.open):  # else it would go on answering on the connections that clients keep
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def next_act(self, body: dict[str, Any]) -> Act:
        with self._lock:
            self.asked.append(body)
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            answer = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        try:
            act = answer if isinstance(answer, Act) else answer(body)
            self.ends(act.wait)
            return act
        finally:
            with self._lock:
                self._under_way -= 1

    def ends(self, seconds: float) -> bool:
        """Wait, but not for a test that is over; return whether it is."""
        return self._stop.wait(seconds)


def _handler(server: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet

        def setup(self) -> None:
            server.connections += 1
            server.open.add(self.request)
            super().setup()

        def handle(self) -> None:
            with suppress(OSError):  # the client has given up
                super().handle()

        def finish(self) -> None:
            server.open.discard(self.request)
            with suppress(OSError, ValueError):  # the connection is broken
                super().finish()

        def do_GET(self) -> None:
            server.looked.append(self.path)
            server.seen_keys.add(self.headers.get("Authorization", ""))
            act = server.gets.get(self.path, error(404, f"no {self.path} here"))
            server.ends(act.wait)
            self._play(act)

        def do_POST(self) -> None:
            server.keys.append(self.headers.get("Authorization", ""))
            server.seen_keys.add(server.keys[-1])
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != server.path:
                self._play(error(404, f"no {self.path} here"))
            else:
                self._play(server.next_act(body))

        def _play(self, act: Act) -> None:
            if act.close or act.reset or act.wire:
                self.close_connection = True
                self._send_wire(act)
                return
            self.send_response(act.status)
            length = {"Content-Length": str(len(act.body))} if "Content-Length" not in act.headers else {}
            for name, value in {"Content-Type": "application/json", **length, **act.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(act.body)
            self.close_connection = "Content-Length" in act.headers

        def _send_wire(self, act: Act) -> None:
            for part in act.wire:
                self.wfile.write(part)
                self.wfile.flush()
                if server.ends(act.pause):
                    return
            if act.reset:
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.request.close()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    return Handler
