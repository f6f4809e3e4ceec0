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


class Waits(list[float]):
    """Notes how long it should have slept."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


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
        self.connect = error(405)  # answer as a proxy
        self.asked: list[dict[str, Any]] = []
        self.looked: list[str] = []
        self.keys: list[str] = []
        self.received: list[tuple[dict[str, str], bytes]] = []  # headers and bodies of questions
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

        def do_CONNECT(self) -> None:
            server.looked.append(self.path)
            self._play(server.connect)

        def do_POST(self) -> None:
            server.keys.append(self.headers.get("Authorization", self.headers.get("api-key", "")))
            server.seen_keys.add(server.keys[-1])
            content = self.rfile.read(int(self.headers["Content-Length"]))
            server.received.append((dict(self.headers.items()), content))
            body = json.loads(content)
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


#: Answers a question, given its position and body.
Decide = Callable[[int, dict[str, Any]], Any]


def probability_of(text: str) -> float:
    """Return a probability that grows with the number in the last word of a text."""
    digits = [word.rstrip(".") for word in text.split() if word.rstrip(".").isdigit()]
    return (int(digits[-1]) + 1) / 1000 if digits else 0.5


def decide(position: int, question: dict[str, Any]) -> dict[str, Any]:
    """Answer well: the larger the number in a passage, the more probable it is."""
    named = {"name": question.get("name")}
    if question["type"] == "predicate":
        passage = question["instructions"].split("Does the passage")[0]
        return {"type": "predicate", **named, "probability": probability_of(passage)}
    is_choice = question["type"] == "choice"
    options = question["choices" if is_choice else "levels"]
    weights = [probability_of(option.get("description", option.get("label", ""))) for option in options]
    shares = [weight / sum(weights) for weight in weights]
    pairs = zip(options, shares, strict=True)
    if not is_choice:
        levels = [{"label": option["label"], "value": n, "probability": p} for n, (option, p) in enumerate(pairs)]
        return {"type": "score", **named, "score": 1.5, "confidence": max(shares), "probabilities": levels}
    best = options[shares.index(max(shares))]["value"]
    values = [{"value": option["value"], "probability": p} for option, p in pairs]
    return {"type": "choice", **named, "choice": best, "confidence": max(shares), "probabilities": values}


def decided(
    decide: Decide = decide, change: Callable[[list[Any]], list[Any]] = lambda answers: answers, **more: Any
) -> Callable[[Any], Act]:
    """Answer all questions of a call; ``change`` spoils the list of answers, and ``more`` replaces fields."""

    def answer(body: dict[str, Any]) -> Act:
        answers = [decide(position, question) for position, question in enumerate(body["questions"])]
        details = {"input_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 0}}
        output = {"output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 0}}
        usage = {"input_tokens": 1001, **details, **output, "total_tokens": 1004}
        return raw({"model": "m", "answers": change(answers), "usage": usage, **more})

    return answer


def open_decision_server(*acts: Any) -> FaultyServer:
    """Return a server whose only endpoint is that of decisions."""
    return FaultyServer(acts, path="/v1/decisions")


#: A result: the position of the document and its score.
Row = tuple[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Api:
    """An API as it is documented: where it is asked, how it names its inputs, and how it answers.

    Attributes:
        path: Path of the endpoint.
        documents: The field of the request with the documents.
        write: Makes the body of an answer from results.
        tokens: Number of prompt tokens that an answer states; 0 if it states none.
        base: What users add to the server's root; only the endpoint follows it.
    """

    path: str
    documents: str
    write: Callable[[Sequence[Row]], Any]
    tokens: int = 0
    base: str = ""


def _rows(rows: Sequence[Row], name: str, **more: Any) -> list[dict[str, Any]]:
    return [{"index": index, name: score, **more} for index, score in rows]


def _cohere(rows: Sequence[Row]) -> Any:
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 2}}
    return {"id": "x", "results": _rows(rows, "relevance_score"), "meta": meta}


def _jina(rows: Sequence[Row]) -> Any:
    return {"model": "m", "usage": {"total_tokens": 77}, "results": _rows(rows, "relevance_score")}


def _voyage(rows: Sequence[Row]) -> Any:
    usage = {"total_tokens": 77}
    return {"object": "list", "data": _rows(rows, "relevance_score"), "model": "m", "usage": usage}


def _zeroentropy(rows: Sequence[Row]) -> Any:
    times = {"actual_latency_mode": "fast", "e2e_latency": 0.1, "inference_latency": 0.1}
    return {"results": _rows(rows, "relevance_score"), "total_bytes": 500, "total_tokens": 77, **times}


def _tei(rows: Sequence[Row]) -> Any:
    return _rows(rows, "score")


def _vllm(rows: Sequence[Row]) -> Any:
    usage = {"prompt_tokens": 77, "total_tokens": 77}
    return {"id": "x", "model": "m", "usage": usage, "results": _rows(rows, "relevance_score", document={"text": "x"})}


def _vllm_score(rows: Sequence[Row]) -> Any:
    usage = {"prompt_tokens": 77, "total_tokens": 77}
    head = {"id": "x", "object": "list", "created": 1, "model": "m"}
    return {**head, "data": _rows(rows, "score", object="score"), "usage": usage}


def _bedrock(rows: Sequence[Row]) -> Any:
    return {"results": _rows(rows, "relevanceScore")}


def _vertex(rows: Sequence[Row]) -> Any:
    """As JSON is made from protocol buffers: ids are texts, and a score of 0 is omitted."""
    ids = [str(index) if type(index) is int else [index] for index, _ in rows]
    return {"records": [{"id": one} | ({"score": s} if s != 0 else {}) for one, (_, s) in zip(ids, rows, strict=True)]}


def _nim(rows: Sequence[Row]) -> Any:
    return {"rankings": _rows(rows, "logit"), "usage": {"prompt_tokens": 77, "total_tokens": 77}}


def _litellm(rows: Sequence[Row]) -> Any:
    meta = {"billed_units": {"total_tokens": 77}, "tokens": {"input_tokens": 77}}
    return {"id": "x", "results": _rows(rows, "relevance_score"), "meta": meta}


_VERTEX = "/v1/projects/p"

APIS: Mapping[str, Api] = {
    "cohere": Api(path="/v2/rerank", documents="documents", write=_cohere),
    "jina": Api(path="/v1/rerank", documents="documents", write=_jina, tokens=77),
    "voyage": Api(path="/v1/rerank", documents="documents", write=_voyage, tokens=77),
    "zeroentropy": Api(path="/v1/models/rerank", documents="documents", write=_zeroentropy, tokens=77),
    "tei": Api(path="/rerank", documents="texts", write=_tei),
    "vllm": Api(path="/v1/rerank", documents="documents", write=_vllm, tokens=77),
    "vllm-score": Api(path="/score", documents="text_2", write=_vllm_score, tokens=77),
    "bedrock": Api(path="/rerank", documents="sources", write=_bedrock),
    "vertex": Api(
        path=f"{_VERTEX}/locations/global/rankingConfigs/default_ranking_config:rank",
        documents="records",
        write=_vertex,
        base=_VERTEX,
    ),
    "nim": Api(path="/v1/ranking", documents="passages", write=_nim, tokens=77),
    "litellm": Api(path="/v1/rerank", documents="documents", write=_litellm, tokens=77),
}


def scored(name: str, change: Callable[[list[Row]], Sequence[Row]] = lambda rows: rows) -> Callable[[Any], Act]:
    """Answer with scores that reverse the documents; ``change`` spoils the results, which are the best first."""

    def answer(body: dict[str, Any]) -> Act:
        count = len(body[APIS[name].documents])
        rows = [(index, (index + 1) / count) for index in range(count)]
        return raw(APIS[name].write(change(rows[::-1])))

    return answer


def without(name: str, key: str) -> Callable[[Any], Act]:
    """Answer well except that a field is missing; a list becomes an object."""

    def answer(body: dict[str, Any]) -> Act:
        written = json.loads(scored(name)(body).body)
        return raw({field: value for field, value in written.items() if field != key} if key else {"results": written})

    return answer


def open_server(name: str, acts: Sequence[Any]) -> FaultyServer:
    """Return a server with one API; it describes itself as TEI and vLLM do."""
    server = FaultyServer(acts, path=APIS[name].path, listing=models("m", max_model_len=4096))
    server.gets["/info"] = raw({"model_id": "m", "max_input_length": 4096, "max_client_batch_size": 32})
    return server


#: Variables of an account of AWS, without a profile.
AWS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "secret-of-this-test",
    "AWS_SESSION_TOKEN": "token/of+this+test=",
    "AWS_REGION": "us-west-2",
    "AWS_CONFIG_FILE": "none",
    "AWS_SHARED_CREDENTIALS_FILE": "none",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def sign_as_aws(server: FaultyServer) -> str:
    """Return the header that the last request to a server must have, computed from its other parts by botocore."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    headers, body = server.received[-1]
    named = {name: headers[name] for name in ("Content-Type", "X-Amz-Date", "X-Amz-Security-Token")}
    asked = AWSRequest("POST", f"http://{headers['Host']}/rerank", headers=named, data=body)
    asked.context["timestamp"] = headers["X-Amz-Date"]
    account = (AWS[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"))
    signer = SigV4Auth(Credentials(*account), "bedrock", "us-west-2")
    signature = signer.signature(signer.string_to_sign(asked, signer.canonical_request(asked)), asked)
    scope = f"AWS4-HMAC-SHA256 Credential={signer.scope(asked)}"
    return f"{scope}, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature={signature}"
