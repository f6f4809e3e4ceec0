"""Spans of OpenTelemetry: their tree, names and attributes, what they leave out, and the export to a collector."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rerank import Reranker
from rerank.backends.fake import Fake, FakeServer
from rerank.errors import BackendError, PartialFailureError, UnknownNameError
from rerank.integrations.framework_reranker import FrameworkReranker
from rerank.models import open_model_backend
from rerank.prompts.base import Message
from rerank.retrieval.base.stages import RetrieverSource, Search
from rerank.tasks import BackendOptions, Reply, Request
from rerank.tasks.requests import Sampling
from rerank.tasks.tracing import CONTENT_VARIABLE, _describe_model, generate_traced
from rerank.types import Query

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

SECRET = "zebra"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """What the SDK's in-memory exporter has received."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> Sequence[ReadableSpan]:
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def tree(self, parent: int | None = None) -> list[Any]:
        """Return the names below a span, each with the tree below it if there is one."""
        ids = {span.context.span_id for span in self.all()}
        found: list[Any] = []
        for span in self.all():
            above = span.parent.span_id if span.parent and span.parent.span_id in ids else None
            if above == parent:
                below = self.tree(span.context.span_id)
                found.append((span.name, below) if below else span.name)
        return found

    def attributes(self, kind: str) -> list[dict[str, Any]]:
        found = [dict(span.attributes or {}) for span in self.all()]
        return [values for values in found if values.get("openinference.span.kind") == kind]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    found = Spans()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", found.provider)  # it can be set only once per process
    return found


CALL = ["render", "chat fake:reversed"]
RANKING = ("rerank fake:reversed", CALL)


def rank(reranker: Reranker) -> Any:
    return reranker.rank("q", ["a", "b"])


def arank(reranker: Reranker) -> Any:
    return asyncio.run(reranker.arank("q", ["a", "b"]))


def search(reranker: Reranker) -> Any:
    return (Search.of(lambda text: ["a", "b"]) % 5 >> reranker)([Query(id="1", text="q")])


WAYS: dict[str, tuple[Callable[[Reranker], Any], list[Any]]] = {
    "rank": (rank, [RANKING]),
    "arank": (arank, [RANKING]),
    "rank_many": (lambda reranker: list(reranker.rank_many([("q", ["a", "b"]), ("r", ["c", "d"])])), [RANKING] * 2),
    "pipeline": (search, ["retrieval", RANKING]),
    "framework": (lambda reranker: FrameworkReranker(reranker=reranker).rank_positions("q", ["a", "b"]), [RANKING]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", [Fake("reversed"), FakeServer("reversed")], ids=["local", "server"])
def test_every_way_in_gives_the_same_tree(spans: Spans, backend: Any, way: str) -> None:
    run, tree = WAYS[way]
    run(Reranker.from_backend(backend, method="fullrank"))
    assert spans.tree() == tree
    assert {span.status.status_code for span in spans.all()} == {trace.StatusCode.UNSET}


def test_names_of_the_conventions(spans: Spans) -> None:
    documents = [{"id": "x", "text": "a", "score": 3.0}, {"id": "y", "text": "b", "score": 1.0}]
    Reranker.from_backend(Fake("reversed"), method="fullrank").rank("q", documents, top_k=1)
    (ranking,), (call,) = spans.attributes("RERANKER"), spans.attributes("LLM")
    assert (
        ranking.items()
        >= {
            "gen_ai.operation.name": "rerank",
            "gen_ai.provider.name": "fake",
            "gen_ai.request.model": "fake:reversed",
            "reranker.model_name": "fake:reversed",
            "reranker.top_k": 1,
            "reranker.input_documents.0.document.id": "x",
            "reranker.input_documents.0.document.score": 3.0,
            "reranker.output_documents.0.document.id": "y",
            "reranker.output_documents.0.document.score": 1.0,
            "rerank.windows.ok": 1,
        }.items()
    )
    assert "reranker.output_documents.1.document.id" not in ranking
    assert not [name for name in ranking if name.startswith("gen_ai.usage.")]  # tokens are counted once, in the calls
    assert call.items() >= {"gen_ai.operation.name": "chat", "gen_ai.response.finish_reasons": ("stop",)}.items()
    assert call["gen_ai.usage.input_tokens"] == call["llm.token_count.prompt"] > 0


def test_calls_of_a_batch_are_siblings_with_the_names_of_the_conventions(spans: Spans) -> None:
    backend = Fake("reversed")
    backend.identity = {"model": "m", "server": "localhost:8000/v1 two.example/v1"}
    request = Request(prompt=(Message("user", "q"),), sampling=Sampling(max_tokens=0))
    generate_traced(backend, [(request, None)] * 3)
    assert spans.tree() == ["chat m"] * 3
    for call in spans.attributes("LLM"):
        assert call.items() >= {"server.address": "localhost", "server.port": 8000, "rerank.batch.requests": 3}.items()
        assert "gen_ai.request.max_tokens" not in call


def test_providers_have_the_names_of_the_conventions() -> None:
    names = ("openai:gemini:gemini-2.5-flash", "openai:ollama:llama3.2:3b", "openai:llama3.2:3b", "api:vertex/m")
    found = []
    for name in names:
        about = _describe_model(open_model_backend(name, BackendOptions(base_url="https://two.example:1/v1")))[2]
        assert (about["server.address"], about["server.port"]) == ("two.example", 1)
        found.append((about["gen_ai.provider.name"], about["gen_ai.request.model"]))
    assert found == [
        *(("gcp.gemini", "gemini-2.5-flash"), ("ollama", "llama3.2:3b"), ("openai", "llama3.2:3b")),
        ("gcp.vertex_ai", "m"),
    ]


def test_a_caller_that_stops_and_a_wrong_option_leave_no_failed_and_no_open_span(spans: Spans) -> None:
    with Reranker.from_backend(Fake("reversed"), method="fullrank") as reranker:
        for _ in reranker.rank_many([("q", ["a", "b"])] * 3):
            break
        with pytest.raises(UnknownNameError):
            reranker.rank("q", ["a"], on_failure="bogus")
    assert {span.status.status_code for span in spans.all()} == {trace.StatusCode.UNSET}


@pytest.mark.parametrize(
    ("value", "records"), [("", False), ("NO_CONTENT", False), ("true", True), ("SPAN_ONLY", True)]
)
def test_texts_are_recorded_only_if_asked_for(
    spans: Spans, monkeypatch: pytest.MonkeyPatch, value: str, records: bool
) -> None:
    monkeypatch.setenv(CONTENT_VARIABLE, value)
    reranker = Reranker.from_backend(Fake("reversed"), method="fullrank")
    (Search.of(lambda text: [f"{SECRET} 1", f"{SECRET}\ud800"]) >> reranker)([Query(id="1", text=f"{SECRET}?")])
    told = {name for span in spans.all() for name, text in (span.attributes or {}).items() if SECRET in str(text)}
    fields = {f"{where}.{n}.document.content" for n in (0, 1) for where in (
        "reranker.input_documents", "reranker.output_documents", "retrieval.documents")}  # fmt: skip
    assert told == (
        fields | {"gen_ai.input.messages", "reranker.query", "gen_ai.retrieval.query.text"} if records else set()
    )
    for span in spans.all():
        str(dict(span.attributes or {})).encode()  # a lone surrogate would make the exporter drop the whole batch


def test_a_span_keeps_its_other_attributes_with_many_documents(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTENT_VARIABLE, "true")
    reranker = Reranker.from_backend(Fake("reversed"), method="fullrank")
    reranker.rank("q", [{"text": f"text {n}", "score": -n} for n in range(300)])
    assert not [span.dropped_attributes for span in spans.all() if span.dropped_attributes]
    assert spans.attributes("RERANKER")[0]["gen_ai.operation.name"] == "rerank"


class Failing(Fake):
    """A backend that raises an error whose message repeats a text, or returns it as the error of a reply."""

    def __init__(self, *, raises: bool) -> None:
        super().__init__("reversed")
        self._raises = raises

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        if self._raises:
            raise BackendError(f"no answer to {SECRET}")
        return [Reply(finish="error", error=SECRET) for _ in requests]


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    ("raised", "error", "call"), [(True, BackendError, "BackendError"), (False, PartialFailureError, "no_reply")]
)
def test_a_failed_ranking(spans: Spans, raised: bool, error: type[Exception], call: str, many: bool) -> None:
    reranker = Reranker.from_backend(Failing(raises=raised), method="fullrank")
    lists = [(SECRET, [SECRET, "b"])] * (2 if many else 1)
    with pytest.raises(error):
        list(reranker.rank_many(lists, on_failure="raise")) if many else reranker.rank(*lists[0], on_failure="raise")
    assert spans.tree() == [RANKING] * len(lists)
    for span in spans.all():
        kind = {"render": None, "chat fake:reversed": call}.get(span.name, error.__name__)
        assert (span.attributes or {}).get("error.type") == span.status.description == kind
        assert (span.status.status_code is trace.StatusCode.ERROR) == (kind is not None)
        assert SECRET not in span.to_json()
        assert [event.name for event in span.events] == ["exception"] * (kind not in (None, "no_reply"))


def test_a_degraded_ranking_is_no_error(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    rank(Reranker.from_backend(Failing(raises=False), method="fullrank"))
    failed = {span.name: span.status.is_ok for span in spans.all()}
    assert failed == {"rerank fake:reversed": True, "render": True, "chat fake:reversed": False}
    assert spans.attributes("RERANKER")[0]["rerank.windows.error"] == 1


@pytest.mark.parametrize("shares", [False, True])
def test_rankings_in_flight_keep_their_parents(spans: Spans, shares: bool) -> None:
    """Also if one batch has requests of several rankings."""

    class Backend(Fake):
        shares_batches = shares

    reranker = Reranker.from_backend(Backend("reversed"), method="sliding,size=4,stride=2")
    tracer = spans.provider.get_tracer("test")

    def ask(number: int) -> None:
        with tracer.start_as_current_span(f"caller {number}"):
            reranker.rank(f"q{number}", [f"text {n}" for n in range(number + 2)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    windows = [1, 1, 1, 2, 2, 3, 3, 4]
    tree = [(f"caller {n}", [("rerank fake:reversed", CALL * count)]) for n, count in enumerate(windows)]
    names = {span.context.span_id: span.name for span in spans.all()}
    assert sorted(map(repr, spans.tree())) == sorted(map(repr, tree)), names


def test_nothing_is_imported_or_recorded_without_a_provider() -> None:
    program = """
import sys
from rerank import Reranker
Reranker.from_pretrained("fake:reversed").rank("q", ["a", "b"])
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
from opentelemetry import trace
from rerank.tasks.tracing import find_tracer
assert find_tracer() is None
trace.set_tracer_provider(trace.NoOpTracerProvider())
assert find_tracer() is None
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


class Stuck(SpanExporter):
    """An exporter whose collector hangs or fails."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs, self.called, self.ends = hangs, threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.called.set()
        if self.hangs:
            self.ends.wait(10)
        raise OSError


@pytest.mark.parametrize("hangs", [False, True])
def test_an_exporter_that_hangs_or_fails_delays_no_ranking(spans: Spans, hangs: bool) -> None:
    exporter = Stuck(hangs=hangs)
    spans.provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=4, schedule_delay_millis=1, max_export_batch_size=1)
    )
    reranker = Reranker.from_backend(Fake("reversed"), method="fullrank")
    began = time.monotonic()
    found = [[hit.corpus_id for hit in rank(reranker)] for _ in range(5)]
    assert exporter.called.wait(5)
    assert found == [[1, 0]] * 5
    assert time.monotonic() - began < 5
    exporter.ends.set()
    spans.provider.shutdown()


# The server


def test_the_server_continues_the_trace_of_its_caller(spans: Spans) -> None:
    testclient = pytest.importorskip("fastapi.testclient")
    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import create_ranking_service
    from tests.serving.test_search_routes import SlowRetriever, search_with

    reranker = Reranker.from_backend(FakeServer("reversed"), method="fullrank")
    app = create_server_app(create_ranking_service(reranker), search=search_with(RetrieverSource(SlowRetriever(0))))
    with testclient.TestClient(app, "http://127.0.0.1") as client:
        client.post("/v1/search", json={"query": "q"}, headers={"traceparent": TRACEPARENT})
        client.post("/nowhere")
        client.get("/health")
    assert spans.tree() == [("POST /v1/search", ["retrieval", RANKING]), "POST"]
    searched, lost = (span for span in spans.all() if span.kind is trace.SpanKind.SERVER)
    assert {f"{span.context.trace_id:x}" for span in spans.all()[:-1]} == {TRACEPARENT[4:35]}
    assert searched.parent is not None
    assert f"{searched.parent.span_id:x}" == TRACEPARENT[36:52]
    assert (searched.attributes or {}).items() >= {"http.route": "/v1/search", "http.response.status_code": 200}.items()
    assert (lost.parent, lost.status.is_ok) == (None, True)
    assert spans.attributes("RETRIEVER")[0]["retrieval.documents.0.document.id"] == "d0"


class Collector(ThreadingHTTPServer):
    """A receiver of OTLP over HTTP with protobuf."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.has_spans = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in request.resource_spans:
            found = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.server.services.add(found["service.name"])
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.end_headers()
        self.server.has_spans.set()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.enable_socket
def test_the_command_sends_spans_to_a_collector_and_logs_json() -> None:
    httpx2, _ = pytest.importorskip("httpx2"), pytest.importorskip("fastapi")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    receiver = Collector()
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_SERVICE_NAME": "search",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    command = [
        sys.executable,
        "-m",
        "rerank",
        "serve",
        "--model",
        "fake:reversed",
        "--port",
        "0",
        "--access-log",
        "json",
    ]
    process = subprocess.Popen(
        command, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    headers = {"traceparent": TRACEPARENT, "X-Request-Id": 'r"1'}
    for _ in range(3):
        answer = httpx2.post(
            f"{url}/v2/rerank?q={SECRET}%0A",
            json={"query": SECRET, "documents": ["a", "b"]},
            headers=headers,
            timeout=5,
        )
    assert answer.headers["X-Request-Id"] == 'r"1'
    httpx2.get(f"{url}/no%0Awhere")
    assert receiver.has_spans.wait(10)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    first, *_, last = lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 4
    assert SECRET not in out + err
    names = ["time", "method", "path", "status", "ms", "bytes", "request_id", "trace_id", "client"]
    assert (list(first), first["bytes"], first["ms"] > 0) == (names, len(answer.content), True)
    assert (first["path"], first["status"], first["request_id"]) == ("/v2/rerank", 200, 'r"1')
    assert (first["trace_id"], first["client"]) == (TRACEPARENT[3:35], "127.0.0.1")
    assert (last["path"], last["status"], len(last["request_id"])) == ("/no\nwhere", 404, 32)
    receiver.shutdown()
    receiver.server_close()
    assert not any(SECRET in str(span) for span in receiver.spans)
    tree = {"POST /v2/rerank", "rerank fake:reversed", "render", "chat fake:reversed", "GET"}
    assert ({span.name for span in receiver.spans}, receiver.services) == (tree, {"search"})
