"""A client for OpenAI-compatible servers: ours on httpx2 and tenacity against the openai SDK.

The server is a small threaded one in a process of its own, on the loopback address. `overhead` compares calls that
succeed at once: CPU time of the client. `behaviour` shows what the clients do when the server misbehaves: `requests` is
how many reached the server, `seconds` how long the caller waits, the pauses between tries included (ours are not slept,
only added).
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import httpx2
import openai

from libraries.processes import Settings, added, import_seconds
from rerank.backends.base.addresses import Address
from rerank.backends.base.connection import ServerConnection
from rerank.backends.base.responses import RequestFailedError, ServerResponse

KEY = "sk-a-key-of-this-benchmark"
REMOTE = "http://gpu.example/v1"
CALLS, CONCURRENCY = 200, 8
MESSAGE = {"role": "assistant", "content": "[2] > [1]"}
CHOICES = [{"index": 0, "finish_reason": "stop", "message": MESSAGE}]
FINE = json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": CHOICES}).encode()
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Rank these passages. " * 50}]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What the server sends; the body byte by byte if there is a pause, in seconds, after each."""

    status: int = 200
    body: bytes = FINE
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0


OK = Response()
LIMIT = 0.5
#: What the server sends in turn; the last response is repeated.
SCENARIOS: dict[str, tuple[Response, ...]] = {
    "429, then a reply": (Response(status=429, body=b"{}"), OK),
    "429 with Retry-After: 1, then a reply": (Response(status=429, body=b"{}", headers={"Retry-After": "1"}), OK),
    "429 with Retry-After: 3600": (Response(status=429, body=b"{}", headers={"Retry-After": "3600"}), OK),
    "503 each time": (Response(status=503, body=b"{}"),),
    "half of the JSON with status 200, then a reply": (Response(body=FINE[:30]), OK),
    "an HTML page with status 200, then a reply": (Response(body=b"<html>Welcome</html>"), OK),
    "JSON without choices, then a reply": (Response(body=b"{}"), OK),
    "a byte every 20 ms, with a time limit of 0.5 s": (Response(pause=0.02),),
    "no credit (429, insufficient_quota)": (Response(status=429, body=b'{"error": {"code": "insufficient_quota"}}'),),
    "a redirect": (Response(status=307, headers={"Location": "/v1/elsewhere"}), OK),
    "400 with the key in its message": (Response(status=400, body=json.dumps({"error": {"message": KEY}}).encode()),),
}


def measure(settings: Settings) -> dict[str, Any]:
    """Compare overhead, behaviour, import times and weight."""
    os.environ["OPENAI_API_KEY"] = KEY
    with serving((OK,)) as (url, _):
        overhead = asyncio.run(_overhead(url, settings.repeat))
    return {
        "overhead": overhead,
        "behaviour": {
            name: {"ours": _behaviour(_ask_ours, acts), "library": _behaviour(_ask_sdk, acts)}
            for name, acts in SCENARIOS.items()
        },
        "key_sent_over_plain_http": {"ours": asyncio.run(_ours_sends_key()), "library": asyncio.run(_sdk_sends_key())},
        "import_seconds": import_seconds(
            settings.repeat,
            ours="from rerank.backends import openai",
            library="import openai; openai.AsyncOpenAI(api_key='none').chat.completions",
        ),
        "added": added("openai"),
    }


async def _overhead(url: str, repeat: int) -> dict[str, Any]:
    """Return milliseconds of CPU per call, one after the other and several at once, and to open and close a client."""
    exchange = ServerConnection(address=Address.parse(url), timeout=60)
    async with (
        exchange,
        httpx.AsyncClient(trust_env=False) as bare,
        httpx2.AsyncClient(trust_env=False) as bare2,
        openai.AsyncOpenAI(base_url=url) as sdk,
    ):
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "httpx_alone": lambda: bare.post(f"{url}/chat/completions", json=BODY),
            "httpx2_alone": lambda: bare2.post(f"{url}/chat/completions", json=BODY),
            "ours": lambda: exchange.ask("/chat/completions", BODY, read=_text),
            "sdk_completions": lambda: sdk.chat.completions.create(**BODY),
            "sdk_post": lambda: sdk.post("/chat/completions", body=BODY, cast_to=object),
        }
        for call in calls.values():
            await call()
        rows = [{name: await _timed(call) for name, call in calls.items()} for _ in range(repeat)]
    opened = [{"ours": await _open_ours(url), "sdk": await _open_sdk(url)} for _ in range(repeat)]
    return {
        "one_after_the_other_ms": {name: _median(row[name][0] for row in rows) for name in calls},
        f"{CONCURRENCY}_at_once_ms": {name: _median(row[name][1] for row in rows) for name in calls},
        "open_and_close_ms": {name: _median(row[name] for row in opened) for name in opened[0]},
    }


async def _timed(call: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    began = time.process_time()
    for _ in range(CALLS):
        await call()
    middle = time.process_time()
    for _ in range(CALLS // CONCURRENCY):
        await asyncio.gather(*(call() for _ in range(CONCURRENCY)))
    return 1000 * (middle - began) / CALLS, 1000 * (time.process_time() - middle) / CALLS


async def _open_ours(url: str) -> float:
    began = time.process_time()
    async with ServerConnection(address=Address.parse(url), timeout=60):
        pass
    return 1000 * (time.process_time() - began)


async def _open_sdk(url: str) -> float:
    began = time.process_time()
    async with openai.AsyncOpenAI(base_url=url):
        pass
    return 1000 * (time.process_time() - began)


def _median(values: Iterator[float]) -> float:
    return round(statistics.median(values), 2)


def _text(response: ServerResponse) -> str:
    """Read the completion, as the backend does: a reply without one is a failure that is worth another try."""
    try:
        return str(response.body["choices"][0]["message"]["content"])
    except (KeyError, IndexError, TypeError) as error:
        raise RequestFailedError("The reply holds no completion") from error


def _behaviour(ask: Callable[[str, list[float]], Coroutine[Any, Any, str]], acts: Sequence[Response]) -> dict[str, Any]:
    """Ask once and describe the result."""
    with serving(acts) as (url, count):
        waits: list[float] = []
        began = time.perf_counter()
        try:
            result = f"returns {asyncio.run(ask(url, waits))}"
        except Exception as error:  # noqa: BLE001  # whatever a client raises is its behaviour
            result = f"raises {type(error).__name__}" + (", which shows the key" if KEY in str(error) else "")
        spent = time.perf_counter() - began
        return {"result": result, "requests": count.value, "seconds": round(spent + sum(waits), 1)}


async def _ask_ours(url: str, waits: list[float]) -> str:
    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with ServerConnection(address=Address.parse(url), timeout=LIMIT, sleep=sleep) as exchange:
        return await exchange.ask("/chat/completions", BODY, read=_text)


async def _ask_sdk(url: str, _: list[float]) -> str:
    async with openai.AsyncOpenAI(base_url=url, timeout=LIMIT) as client:
        completion = await client.chat.completions.create(**BODY)
        return str(completion.choices[0].message.content)


async def _ours_sends_key() -> bool:
    """Whether a server on another machine gets the key although the connection is not encrypted."""
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, content=FINE)

    with warnings.catch_warnings(record=True):  # ours says that it leaves the key out
        warnings.simplefilter("always")
        exchange = ServerConnection(address=Address.parse(REMOTE), timeout=60, transport=httpx2.MockTransport(answer))
        async with exchange:
            await exchange.ask("/chat/completions", BODY, read=_text)
    return KEY in seen[0].headers.get("authorization", "")


async def _sdk_sends_key() -> bool:
    """The same for the SDK."""
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, content=FINE, headers={"Content-Type": "application/json"})

    client = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with openai.AsyncOpenAI(base_url=REMOTE, http_client=client) as sdk:
        await sdk.chat.completions.create(**BODY)
    return KEY in seen[0].headers.get("authorization", "")


@contextmanager
def serving(acts: Sequence[Response]) -> Iterator[tuple[str, Any]]:
    """Serve in a process of its own; yields the address and the count of requests."""
    context = multiprocessing.get_context("spawn")
    ready, count = context.Queue(), context.Value("i", 0)
    process = context.Process(target=_serve, args=(tuple(acts), ready, count), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ready.get(timeout=60)}/v1", count
    finally:
        process.terminate()
        process.join()


def _serve(acts: tuple[Response, ...], ready: Any, count: Any) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with count.get_lock():
                act = acts[min(count.value, len(acts) - 1)]
                count.value += 1
            self.send_response(act.status)
            for name, value in {"Content-Type": "application/json", **act.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(act.body)))
            self.end_headers()
            for start in range(0, len(act.body), 1 if act.pause else len(act.body)):
                self.wfile.write(act.body[start : start + 1] if act.pause else act.body)
                if act.pause:
                    self.wfile.flush()
                    time.sleep(act.pause)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing: a client that gives up closes its connection, which is part of the measurement."""

    server = Server(("127.0.0.1", 0), Handler)
    ready.put(server.server_address[1])
    server.serve_forever()
