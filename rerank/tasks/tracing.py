"""Spans of OpenTelemetry for rankings, prompts, model calls and retrieval.

Nothing is imported or recorded unless the application has set a tracer provider. Names are those of the GenAI semantic
conventions where they exist, and OpenInference's for rerankers and retrievers; the others begin with ``rerank.``. Texts
are recorded only if `CONTENT_VARIABLE` asks for them, and messages of exceptions, which may repeat texts, never.

The span of a ranking travels with its list (`TracedRanking`) through threads, event loops and batches. Every request to
a model has a span of its own below that of its ranking, also in a batch with requests of several rankings: the spans of
a batch begin and end together, ``rerank.batch.requests`` is their number, and every token is counted once.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any
from urllib.parse import urlsplit

from rerank.io.text_files import replace_lone_surrogates
from rerank.tasks.kinds import CrossEncoderTask
from rerank.tasks.requests import AsyncBackend, Backend, Reply, Request
from rerank.types import Document, Query, Ranking, Run

#: Variable of the GenAI instrumentations: ``span_only``, ``span_and_event`` or ``true`` to record texts in spans.
CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
#: Names of providers in the GenAI conventions, where they differ from those of `api:`.
_PROVIDERS = {
    "bedrock": "aws.bedrock",
    "vertex": "gcp.vertex_ai",
    "gemini": "gcp.gemini",
    "azure": "azure.ai.inference",
}
#: Number of attributes of a span besides those of documents, and per rank (id, score and text in input and output).
_OTHER_ATTRIBUTES, _PER_RANK = 32, 6


@dataclass(frozen=True, slots=True, eq=False)
class TracedRanking(Ranking):
    """A ranked list with the open span of its reranking."""

    span: Any = field(default=None, repr=False)


def find_tracer() -> Any:
    """Return the tracer of the application's provider; None if it has not set one."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if not hasattr(trace, "use_span"):  # not imported, or being imported
        return None
    provider = trace.get_tracer_provider()
    has_none = isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
    return None if has_none else provider.get_tracer("rerank")


def current_trace_id() -> str:
    """Return the id of the current trace, in hexadecimal; empty if there is none."""
    context = sys.modules["opentelemetry.trace"].get_current_span().get_span_context() if find_tracer() else None
    return f"{context.trace_id:032x}" if context else ""


@contextmanager
def traced(
    name: str, about: Mapping[str, Any], *, kind: str = "INTERNAL", ranking: Ranking | None = None, parent: Any = None
) -> Iterator[Any]:
    """Yield the span of the block, which is the current one in it; None if nothing is traced.

    Its parent is the span of the list, if it has one, or else that of the context ``parent``, or the current span.
    """
    if (tracer := find_tracer()) is None:
        yield None
        return
    from opentelemetry import trace

    context = trace.set_span_in_context(ranking.span) if isinstance(ranking, TracedRanking) else parent
    span = tracer.start_span(name, context, trace.SpanKind[kind], about)
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except BaseException as error:
            set_error(span, error)
            raise


def set_error(span: Any, error: BaseException | str) -> None:
    """Give a span the status of an error: an exception, of which only the type is recorded, or a kind of error."""
    from opentelemetry.trace import StatusCode

    name = error if isinstance(error, str) else type(error).__qualname__
    span.set_attribute("error.type", name)
    span.set_status(StatusCode.ERROR, name)
    if not isinstance(error, str):
        span.add_event("exception", {"exception.type": name})


def start_ranking(
    ranking: Ranking, documents: Iterable[Document], backend: Backend, *, method: str, prompt: str, top_k: int | None
) -> Ranking:
    """Start the span of the reranking of documents, and return their list with it, or the list if nothing is traced."""
    if (tracer := find_tracer()) is None:
        return ranking
    name, _, about = _describe_model(backend)
    about |= {"gen_ai.operation.name": "rerank", "openinference.span.kind": "RERANKER", "reranker.model_name": name}
    about |= {"gen_ai.prompt.name": prompt, "rerank.method": method, "rerank.documents": len(ranking)}
    about |= {"reranker.top_k": top_k} if top_k is not None else {}
    about |= _texts({"reranker.query": ranking.query.text})
    about |= _describe_documents("reranker.input_documents", documents, ranking.scores)
    span = tracer.start_span(f"rerank {name}", attributes=about)
    return TracedRanking(ranking.query, ranking.docs, ranking.scores, span)


def finish_ranking(
    ranking: Ranking, ranked: Iterable[Document], scores: Iterable[float], windows: Mapping[str, int], expired: bool
) -> None:
    """End the span of a reranking; ``windows`` are counted by status."""
    if isinstance(ranking, TracedRanking):
        about = {f"rerank.windows.{status}": count for status, count in windows.items() if count}
        about |= _describe_documents("reranker.output_documents", ranked, scores)
        ranking.span.set_attributes(about | {"rerank.expired": expired})
        ranking.span.end()


@contextmanager
def ending_spans(rankings: Iterable[Ranking]) -> Iterator[None]:
    """If the block raises an error, end the open spans of these lists with it."""
    try:
        yield
    except BaseException as error:
        for ranking in rankings:
            if isinstance(ranking, TracedRanking) and ranking.span.is_recording():
                if not isinstance(error, GeneratorExit):  # the caller wants no further lists
                    set_error(ranking.span, error)
                ranking.span.end()
        raise


def generate_traced(backend: Backend, batch: Sequence[tuple[Request, Ranking | None]]) -> list[Reply]:
    """Return the replies to requests, each with the list to which it belongs, and record a span per request."""
    with ExitStack() as stack:
        spans = []
        if find_tracer() is not None:
            from opentelemetry.context import get_current

            parent = get_current()  # the spans of a batch are siblings
            spans = [stack.enter_context(_traced_call(backend, *call, len(batch), parent)) for call in batch]
        replies = backend.generate([request for request, _ in batch])
        for span, reply in zip(spans, replies, strict=False):
            _add_reply(span, reply)
    return replies


async def agenerate_traced(backend: AsyncBackend, request: Request, ranking: Ranking | None = None) -> Reply:
    """Return the reply to one request, and record a span."""
    if find_tracer() is None:
        return await backend.agenerate(request)
    with _traced_call(backend, request, ranking, 1) as span:
        reply = await backend.agenerate(request)
        _add_reply(span, reply)
    return reply


def _traced_call(backend: Backend, request: Request, ranking: Ranking | None, batch: int, parent: Any = None) -> Any:
    turns = [("user" if turn.role in ("text", "verbatim") else turn.role, turn.content) for turn in request.prompt]
    is_chat = all(turn.role not in ("text", "verbatim") for turn in request.prompt)
    name = "rerank" if isinstance(request.task, CrossEncoderTask) else "chat" if is_chat else "text_completion"
    model, kind, about = _describe_model(backend)
    about |= {"gen_ai.operation.name": name, "openinference.span.kind": "LLM", "llm.model_name": model}
    about |= {"rerank.batch.requests": batch}
    about |= {"gen_ai.request.max_tokens": most} if (most := request.sampling.max_tokens) else {}
    about |= _texts({"gen_ai.input.messages": [_message(role, text) for role, text in turns]})
    return traced(f"{name} {model}", about, kind=kind, ranking=ranking, parent=parent)


def _add_reply(span: Any, reply: Reply) -> None:
    if reply.finish == "error":
        set_error(span, "no_reply")  # the message may repeat a part of the prompt
        return
    about: dict[str, Any] = {"gen_ai.response.finish_reasons": [reply.finish], "rerank.reused": reply.reused}
    if not reply.reused:  # otherwise the tokens were counted before
        about |= {"gen_ai.usage.input_tokens": reply.tokens_in, "gen_ai.usage.output_tokens": reply.tokens_out}
        about |= {"gen_ai.usage.cache_read.input_tokens": reply.tokens_cached}
        about |= {"llm.token_count.prompt": reply.tokens_in, "llm.token_count.completion": reply.tokens_out}
    about |= _texts({"gen_ai.output.messages": [_message("assistant", reply.text) | {"finish_reason": reply.finish}]})
    span.set_attributes(about | ({"gen_ai.response.model": reply.served_model} if reply.served_model else {}))


def retrieve_traced(search: Callable[[Sequence[Query], int], Run], queries: Sequence[Query], k: int) -> Run:
    """Return ``search(queries, k)``, and record a span, with the documents if there is one query."""
    about = {"gen_ai.operation.name": "retrieval", "openinference.span.kind": "RETRIEVER", "gen_ai.retrieval.top_k": k}
    with traced("retrieval", about) as span:
        run = search(queries, k)
        for ranking in run.values() if span is not None and len(run) == 1 else ():
            text = _texts({"gen_ai.retrieval.query.text": ranking.query.text})
            span.set_attributes(text | _describe_documents("retrieval.documents", ranking.docs, ranking.scores))
        return run


def _describe_model(backend: Backend) -> tuple[str, str, dict[str, Any]]:
    """Return the name of a model, the kind of the spans of its calls, and attributes that identify it."""
    innermost: Any = backend
    while (wrapped := getattr(innermost, "backend", None)) is not None:
        innermost = wrapped
    provider, model = type(innermost).__name__.lower(), backend.identity.get("model", "")
    if provider == "api":
        provider, _, model = model.partition("/")
    served = getattr(innermost, "served_name", "")  # of `openai:`, without the name of a provider
    if served and served != model:
        provider, model = model.removesuffix(f":{served}"), served
    about: dict[str, Any] = {"gen_ai.provider.name": _PROVIDERS.get(provider, provider)}
    about |= {"gen_ai.request.model": model or provider}
    server = urlsplit("//" + backend.identity.get("server", "").split(" ")[0])  # the first of several
    if server.hostname:
        about |= {"server.address": server.hostname, "server.port": server.port or 443}
    return model or provider, "CLIENT" if server.hostname else "INTERNAL", about


def _describe_documents(prefix: str, documents: Iterable[Document], scores: Iterable[float]) -> dict[str, Any]:
    """Return the attributes of the first documents, as many as fit: a span drops attributes above a number."""
    limit = os.environ.get("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "")
    most = max(0, (int(limit) if limit.isdigit() else 128) - _OTHER_ATTRIBUTES) // _PER_RANK
    about: dict[str, Any] = {}
    for index, document, score in zip(range(most), documents, chain(scores, repeat(None)), strict=False):
        name = f"{prefix}.{index}.document"
        about |= {f"{name}.id": replace_lone_surrogates(document.id)} | _texts({f"{name}.content": document.full_text})
        about |= {f"{name}.score": score} if score is not None else {}
    return about


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _texts(values: Mapping[str, str | list[Any]]) -> dict[str, str]:
    """Return attributes that contain texts, with messages as JSON; empty unless texts may be recorded."""
    if os.environ.get(CONTENT_VARIABLE, "").strip().lower() not in ("true", "span_only", "span_and_event"):
        return {}
    texts = {name: text if isinstance(text, str) else json.dumps(text) for name, text in values.items()}
    return {name: replace_lone_surrogates(text) for name, text in texts.items()}
