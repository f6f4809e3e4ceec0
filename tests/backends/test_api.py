"""Hosted rerankers: what is sent in each dialect, what is read, and what becomes of servers that misbehave."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest

from rerank import Reranker
from rerank.backends.api import RERANK_APIS, Api, RerankApiLimits, split_documents_for_api
from rerank.backends.base.addresses import Address
from rerank.backends.base.responses import KeyRejectedError
from rerank.errors import BackendError, MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.models import open_model_backend
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, CrossEncoderTask, FileAddress, Reply, Request, Sampling
from tests.backends.faulty_server import (
    APIS,
    AWS,
    Act,
    FaultyServer,
    error,
    open_server,
    raw,
    scored,
    sign_as_aws,
    without,
)
from tests.cli.conftest import Cli, cli, lists, own_folders
from tests.raising import raises

__all__ = ["cli", "lists", "own_folders"]

pytestmark = pytest.mark.enable_socket

KEY = "key-of-this-test"
DOCS = [f"text {n}" for n in range(4)]
VARIABLES = ("RERANK_API_KEY", *(key for api in RERANK_APIS.values() for key in api.provider.keys))
#: Other variables that AWS and Google read.
CLOUD = ("AWS_DEFAULT_REGION", "AWS_PROFILE", "GOOGLE_CLOUD_PROJECT")


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.backends.base.connection.FIRST_WAIT", 0.0)
    for name in (*VARIABLES, *CLOUD):
        monkeypatch.delenv(name, raising=False)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)


def make_backend() -> Api:
    """Return a backend whose server gives every document the same score; it can be pickled."""
    address = Address.parse("http://localhost", RERANK_APIS["cohere"].provider)
    return Api("cohere/m", address, transport=httpx2.MockTransport(_answer_in_memory))


def _answer_in_memory(asked: httpx2.Request) -> httpx2.Response:
    documents = json.loads(asked.content)["documents"]
    results = [{"index": index, "relevance_score": 0.5} for index in range(len(documents))]
    return httpx2.Response(200, content=_stream({"results": results}))


async def _stream(body: object) -> AsyncIterator[bytes]:
    yield json.dumps(body).encode()


def request(documents: Sequence[str] = DOCS) -> Request:
    prompt = tuple(Message("user", text) for text in ("a query", *documents))
    return Request(prompt=prompt, sampling=Sampling(max_tokens=0), task=CrossEncoderTask())


def ask(name: str, acts: Sequence[Any], documents: Sequence[str] = DOCS, **options: Any) -> tuple[Reply, FaultyServer]:
    """Return the reply to one request, and the server."""
    if name == "bedrock":
        pytest.importorskip("botocore")
    with open_server(name, acts) as server:
        backend = Api.connect(f"{name}/m", BackendOptions(base_url=server.root + APIS[name].base, **options))
        (reply,) = backend.generate([request(documents)])
        backend.close()
    return reply, server


@pytest.mark.parametrize("name", APIS)
def test_a_proper_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name != "bedrock":
        monkeypatch.setenv(RERANK_APIS[name].provider.keys[-1], KEY)
    reply, server = ask(name, [scored(name)])
    assert reply.scores == (0.25, 0.5, 0.75, 1.0)
    assert (reply.finish, reply.error, reply.retries) == ("stop", "", 0)
    estimated = 4 * (3 + 4) + 4 * 2  # per pair: "a query" and 4 special tokens, and the text
    assert reply.tokens_in == (APIS[name].tokens or estimated)
    assert reply.search_units == (2.0 if name == "cohere" else 0.0)
    assert server.keys == [sign_as_aws(server) if name == "bedrock" else f"Bearer {KEY}"]


def test_an_empty_text_is_sent_as_a_space() -> None:
    """Voyage, Vertex and Bedrock would refuse the whole list."""
    server = ask("vertex", [scored("vertex")], ["a", "", "b", "c"])[1]
    assert [record["content"] for record in server.asked[0]["records"]] == ["a", " ", "b", "c"]


def test_what_is_sent() -> None:
    common = {"query": "a query", "documents": DOCS}
    texts = {"text_1": "a query", "text_2": DOCS}
    names = [name for name in APIS if name != "bedrock" or find_spec("botocore")]
    sent = {name: ask(name, [scored(name)])[1].asked for name in names}
    model = {"modelArn": "arn:aws:bedrock:us-west-2::foundation-model/m"}
    reranker = {"modelConfiguration": model, "numberOfResults": 4}
    bedrock: dict[str, Any] = {
        "queries": [{"type": "TEXT", "textQuery": {"text": "a query"}}],
        "sources": [
            {"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": text}}}
            for text in DOCS
        ],
        "rerankingConfiguration": {"type": "BEDROCK_RERANKING_MODEL", "bedrockRerankingConfiguration": reranker},
    }
    records = [{"id": str(n), "content": text} for n, text in enumerate(DOCS)]
    passages = [{"text": text} for text in DOCS]
    assert {"bedrock": [bedrock], **sent} == {
        "cohere": [{"model": "m", **common}],
        "jina": [{"model": "m", **common, "return_documents": False}],
        "voyage": [{"model": "m", **common, "return_documents": False}],
        "zeroentropy": [{"model": "m", **common}],
        "tei": [{"query": "a query", "texts": DOCS, "raw_scores": True, "truncate": True}],
        "vllm": [{"model": "m", **common, "return_documents": False}],
        "vllm-score": [{"model": "m", **texts}],
        "bedrock": [bedrock],
        "vertex": [{"model": "m", "query": "a query", "records": records, "ignoreRecordDetailsInResponse": True}],
        "nim": [{"model": "m", "query": {"text": "a query"}, "passages": passages, "truncate": "END"}],
        "litellm": [{"model": "m", **common, "return_documents": False}],
    }
    if find_spec("botocore"):  # the body satisfies AWS's own model of the API
        from botocore.session import Session
        from botocore.validate import ParamValidator

        shape = Session().get_service_model("bedrock-agent-runtime").operation_model("Rerank").input_shape
        assert not ParamValidator().validate(bedrock, shape).has_errors()


def test_cohere_reads_as_much_of_a_document_as_the_user_says() -> None:
    _, server = ask("cohere", [scored("cohere")], context_size=9000)
    assert server.asked[0]["max_tokens_per_doc"] == 9000


def _twice(rows: list[Any]) -> list[Any]:
    return [*rows[:-1], rows[0]]


def _score(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda rows: [(rows[0][0], value), *rows[1:]]


def _index(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda rows: [(value, rows[0][1]), *rows[1:]]


#: Answers with the wrong results.
SPOILED: dict[str, Callable[[list[Any]], Sequence[Any]]] = {
    "half of the results": lambda rows: rows[: len(rows) // 2],
    "no results": lambda rows: [],
    "a duplicate index": _twice,
    "a missing index": lambda rows: rows[1:],
    "one result too many": lambda rows: [*rows, (len(rows), 0.1)],
    "an index out of range": _index(99),
    "a negative index": _index(-1),
    "an index that is a text": _index("0"),
    "an index that is a truth value": _index(True),
    "no index": _index(None),
    "NaN": _score(math.nan),
    "infinity": _score(math.inf),
    "no score": _score(None),
    "a score that is a text": _score("0.5"),
    "a score that is a list": _score([0.5]),
}
#: Answers that do not have the form of the API, as far as they are the same for all.
SHAPELESS: dict[str, Act] = {
    "nothing": Act(),
    "not JSON": Act(body=b"<html>ok</html>"),
    "null": Act(body=b"null"),
    "a number": Act(body=b"7"),
    "a text": Act(body=b'"results"'),
    "results that are an object": raw({"results": {"0": 1.0}, "data": {"0": 1.0}}),
    "results that are numbers": raw({"results": [1, 2, 3, 4], "data": [1, 2, 3, 4]}),
    "a list of lists": raw([[0, 1.0], [1, 0.5]]),
}
ERROR_503 = error(503, "overloaded")


@pytest.mark.parametrize("name", APIS)
@pytest.mark.parametrize("spoil", SPOILED)
def test_a_wrong_answer_is_a_reply_without_scores(name: str, spoil: str) -> None:
    reply, server = ask(name, [scored(name, SPOILED[spoil])])
    assert (reply.scores, reply.finish) == ((), "stop")
    assert reply.error
    assert reply.tokens_in > 0  # it has been billed
    assert len(server.asked) == 1


@pytest.mark.parametrize("name", APIS)
def test_an_answer_of_another_form_is_a_reply_without_scores(name: str) -> None:
    for act in (*SHAPELESS.values(), without(name, RERANK_APIS[name].results)):
        reply, _ = ask(name, [act])
        assert (reply.scores, reply.finish, bool(reply.error)) == ((), "stop", True)


@pytest.mark.parametrize("name", APIS)
def test_failures_are_tried_again(name: str) -> None:
    busy = error(429, "slow down", headers={"Retry-After": "0"})
    reply, server = ask(name, [busy, error(500), Act(close=True), scored(name)])
    assert (reply.scores, reply.retries, len(server.asked)) == ((0.25, 0.5, 0.75, 1.0), 3, 4)


MISBEHAVIOURS: dict[str, Any] = {
    **dict.fromkeys(SPOILED),
    **SHAPELESS,
    "429": error(429, headers={"Retry-After": "0"}),
    "500": error(500),
    "a rejected request": error(400),
    "a broken connection": Act(close=True),
    "a hang": replace(raw({}), wait=5.0),
}


@pytest.mark.parametrize("name", APIS)
def test_no_document_is_lost(name: str) -> None:
    """Every misbehaviour ends in a complete list in the given order, with a typed status of its window."""
    texts = [f"text {n}" for n in range(7)]
    if name == "bedrock":
        pytest.importorskip("botocore")
    with open_server(name, []) as server:
        url = server.root + APIS[name].base
        reranker = Reranker.from_pretrained(f"api:{name}/m", base_url=url, timeout=1.5, retries=0)
        for case, act in MISBEHAVIOURS.items():
            server.acts = [scored(name, SPOILED[case]) if act is None else act]
            hits = reranker.rank("a query", texts)
            assert [hit.corpus_id for hit in hits] == list(range(7)), case
            no_reply = case in ("429", "500", "a rejected request", "a broken connection", "a hang")
            status = "error" if no_reply else "empty"
            assert {key: count for key, count in hits.windows.items() if count} == {status: 1}, case
        server.acts = [scored(name)]
        assert [hit.corpus_id for hit in reranker.rank("a query", texts)] == [6, 5, 4, 3, 2, 1, 0]
        reranker.close()


def test_long_lists_are_sent_in_parts() -> None:
    documents = [f"text {n}" for n in range(70)]
    with open_server("tei", [scored("tei")]) as server:
        backend = Api.connect("tei", BackendOptions(base_url=server.root, concurrency=1))
        (reply,) = backend.generate([request(documents)])
        backend.close()
    assert [len(asked["texts"]) for asked in server.asked] == [32, 32, 6]
    assert [text for asked in server.asked for text in asked["texts"]] == documents
    assert len(reply.scores) == 70
    assert reply.scores[31] == reply.scores[63] == reply.scores[69] == 1.0


def test_a_part_that_fails_leaves_the_list_without_scores() -> None:
    documents = [f"text {n}" for n in range(100)]
    filtered = error(400, code="content_filter")
    for act, finish in ((error(400), "error"), (filtered, "refused"), (raw([]), "stop")):
        with open_server("tei", [scored("tei"), act]) as server:
            backend = Api.connect("tei", BackendOptions(base_url=server.root))
            (reply,) = backend.generate([request(documents)])
            backend.close()
        assert (reply.scores, reply.finish, len(server.asked)) == ((), finish, 2)


def test_parts_are_within_all_limits() -> None:
    limits = RerankApiLimits(documents=3, tokens=100)
    assert split_documents_for_api([], 5, limits) == []
    assert split_documents_for_api([10] * 7, 5, limits) == [range(3), range(3, 6), range(6, 7)]
    assert split_documents_for_api([60, 40, 300, 10], 5, limits) == [range(1), range(1, 2), range(2, 3), range(3, 4)]


@pytest.mark.parametrize(
    ("name", "base", "url"),
    [
        ("cohere", "https://h", "https://h/v2/rerank"),
        ("cohere", "https://h/gateway/v1", "https://h/gateway/v1/rerank"),
        ("cohere", "https://h/v1/rerank/", "https://h/v1/rerank"),
        ("zeroentropy", "", "https://api.zeroentropy.dev/v1/models/rerank"),
        ("voyage", "", "https://api.voyageai.com/v1/rerank"),
        ("jina", "", "https://api.jina.ai/v1/rerank"),
        ("cohere", "", "https://api.cohere.com/v2/rerank"),
        ("tei", "http://localhost:8080", "http://localhost:8080/rerank"),
        ("vllm-score", "http://localhost:8000/v1", "http://localhost:8000/v1/score"),
    ],
)
def test_addresses(name: str, base: str, url: str) -> None:
    api = RERANK_APIS[name]
    assert Address.parse(base, api.provider).endpoint_url(api.endpoint, api.version) == url


#: Rows without a server of their own: selector, variables -> URL, headers, fields of the body; and the answer.
RANKED = {"results": [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.25}]}
DATA = {"data": [{"index": 1, "score": 0.75}, {"index": 0, "score": 0.25}], "usage": {"rerank_units": 1}}
PRESETS: Any = {
    "together/org/m": (
        *("https://api.together.ai/v1/rerank", {"Authorization": f"Bearer {KEY}"}),
        *({"model": "org/m", "documents": ["a", "b"], "return_documents": False}, RANKED),
    ),
    "deepinfra/Qwen/Qwen3-Reranker-0.6B": (
        *("https://api.deepinfra.com/v1/inference/Qwen/Qwen3-Reranker-0.6B", {"Authorization": f"Bearer {KEY}"}),
        *({"queries": ["q", "q"], "documents": ["a", "b"]}, {"scores": [0.25, 0.75], "input_tokens": 9}),
    ),
    "pinecone/bge-reranker-v2-m3": (
        *("https://api.pinecone.io/rerank", {"Api-Key": KEY, "X-Pinecone-Api-Version": "2025-10"}),
        *({"documents": [{"text": "a"}, {"text": "b"}], "rank_fields": ["text"]}, DATA),
    ),
    "nvidia/nvidia/llama-3.2-nv-rerankqa-1b-v2": (
        "https://ai.api.nvidia.com/v1/retrieval/nvidia/llama-3_2-nv-rerankqa-1b-v2/reranking",
        {"Authorization": f"Bearer {KEY}"},
        {"model": "nvidia/llama-3.2-nv-rerankqa-1b-v2", "passages": [{"text": "a"}, {"text": "b"}]},
        {"rankings": [{"index": 1, "logit": 0.75}, {"index": 0, "logit": 0.25}]},
    ),
    "vertex/semantic-ranker-default@latest": (
        "https://discoveryengine.googleapis.com/v1/projects/p/locations/global/rankingConfigs/"
        "default_ranking_config:rank",
        {"Authorization": f"Bearer {KEY}", "X-Goog-User-Project": "p"},
        {"model": "semantic-ranker-default@latest"},
        {"records": [{"id": "1", "score": 0.75}, {"id": "0", "score": 0.25}]},
    ),
    "bedrock/amazon.rerank-v1:0": (
        "https://bedrock-agent-runtime.us-west-2.amazonaws.com/rerank",
        {"X-Amz-Security-Token": AWS["AWS_SESSION_TOKEN"]},
        {},
        {"results": [{"index": 1, "relevanceScore": 0.75}, {"index": 0, "relevanceScore": 0.25}]},
    ),
    "azure/m https://r.services.ai.azure.com": (
        *("https://r.services.ai.azure.com/providers/cohere/v2/rerank", {"api-key": KEY}),
        *({"model": "m", "documents": ["a", "b"]}, RANKED),
    ),
}


@pytest.mark.parametrize("row", PRESETS)
def test_rows_of_other_providers(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url, headers, fields, answer = PRESETS[row]
    name, _, base = row.partition(" ")
    received: list[httpx2.Request] = []

    def respond(asked: httpx2.Request) -> httpx2.Response:
        received.append(asked)
        return httpx2.Response(200, content=_stream(answer))

    if name.startswith("bedrock"):
        pytest.importorskip("botocore")
    else:
        monkeypatch.setenv(RERANK_APIS[name.partition("/")[0]].provider.keys[-1], KEY)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    address = Address.parse(base, Api.find_provider(name))
    prompt = tuple(Message("user", text) for text in ("q", "a", "b"))
    asking = Request(prompt=prompt, sampling=Sampling(max_tokens=0), task=CrossEncoderTask())
    backend = Api(name, address, transport=httpx2.MockTransport(respond))
    (reply,) = backend.generate([asking])
    backend.close()
    (asked,) = received
    assert (reply.scores, str(asked.url)) == ((0.25, 0.75), url)
    assert headers.items() <= {key: asked.headers.get(key) for key in headers}.items()
    assert fields.items() <= json.loads(asked.content).items()
    assert (reply.search_units, reply.tokens_in > 0) == (float("pinecone" in row), True)


def test_a_score_of_zero_that_vertex_omits() -> None:
    zero = scored("vertex", lambda rows: [*rows[:-1], (rows[-1][0], 0.0)])
    assert ask("vertex", [zero])[0].scores == (0.0, 0.5, 0.75, 1.0)
    none = raw({"records": [{"id": str(n)} for n in range(4)]})  # then the server sends no scores at all
    assert not ask("vertex", [none])[0].scores


#: Errors in the form of each provider, and what is shown.
ERRORS: Any = {
    "bedrock": ({"message": "The value is invalid."}, {"message": "Invalid token."}, "Check the credentials of AWS"),
    "vertex": (
        {"error": {"code": 400, "message": "Too many records.", "status": "INVALID_ARGUMENT"}},
        {"error": {"code": 401, "message": "Expired.", "status": "UNAUTHENTICATED"}},
        "gcloud auth print-access-token",
    ),
    "nim": ({"error": "Too many passages."}, {"detail": "No key."}, "NVIDIA_API_KEY"),
    "litellm": (
        {"error": {"message": "No such field.", "type": "None", "param": "None", "code": "400"}},
        {"error": {"message": "Wrong key.", "type": "auth_error", "param": "None", "code": "401"}},
        "LITELLM_API_KEY",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_in_the_form_of_the_provider(name: str) -> None:
    rejected, refused, remedy = ERRORS[name]
    reply, server = ask(name, [raw(rejected, status=400)])
    shown = rejected.get("error", rejected)
    shown = shown if isinstance(shown, str) else shown["message"]
    assert (reply.finish, reply.error.endswith(f": {shown}"), len(server.asked)) == ("error", True, 1)
    for status in (401, 403):
        with raises(KeyRejectedError, f"HTTP {status}", remedy):
            ask(name, [raw(refused, status=status)])
    with raises(BackendError, "HTTP 404"):
        ask(name, [raw(rejected, status=404)])


def test_secrets_of_aws_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong signature makes AWS repeat the headers that were signed, among them the token."""
    found = f"The canonical request is x-amz-security-token:{AWS['AWS_SESSION_TOKEN']}"
    with raises(KeyRejectedError, "***") as caught:
        ask("bedrock", [raw({"message": found}, status=403)])
    assert AWS["AWS_SESSION_TOKEN"] not in str(caught.value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with raises(UsageError, "AWS_ACCESS_KEY_ID"):
        ask("bedrock", [scored("bedrock")])


def test_regions_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("botocore")
    arn = "arn:aws:bedrock:eu-central-1::foundation-model/m"
    assert open_model_backend(f"api:bedrock/{arn}").identity["server"].endswith("eu-central-1.amazonaws.com")
    monkeypatch.setenv("AWS_REGION", "us-west-2/../")
    with raises(UsageError, "us-west-2"):
        open_model_backend("api:bedrock/m")
    monkeypatch.delenv("AWS_REGION")
    with raises(UsageError, "AWS_REGION"):
        open_model_backend("api:bedrock/m")
    monkeypatch.setenv("AWS_PROFILE", "none")
    with raises(UsageError, "could not be found", "AWS_PROFILE"):
        open_model_backend("api:bedrock/m")
    monkeypatch.delenv("AWS_PROFILE")
    with raises(UsageError, "AWS_REGION"):
        open_model_backend("api:bedrock/m", BackendOptions(base_url="https://proxy.example"))
    open_model_backend(
        "api:bedrock/m", BackendOptions(base_url="https://bedrock-agent-runtime.us-east-1.amazonaws.com")
    )
    with raises(UsageError, "GOOGLE_CLOUD_PROJECT"):
        open_model_backend("api:vertex/m")


def test_bedrock_without_botocore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.backends.base.aws.find_spec", lambda name: None)
    with raises(MissingPrerequisiteError, "bedrock"):
        open_model_backend("api:bedrock/m")


def test_names() -> None:
    assert open_model_backend("api:cohere/org/m").identity == {"model": "cohere/org/m", "server": "api.cohere.com"}
    with raises(UnknownNameError, "cohere"):
        open_model_backend("api:cohre/m")
    with raises(UsageError, "cohere"):
        open_model_backend("api:cohere")
    with raises(UsageError, "base-url"):
        open_model_backend("api:tei")  # nobody offers it: users run it


def test_the_key_is_that_of_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-somebody-else")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    assert ask("cohere", [scored("cohere")])[1].keys == [""]
    monkeypatch.setenv("COHERE_API_KEY", "second")
    assert ask("cohere", [scored("cohere")])[1].keys == ["Bearer second"]
    monkeypatch.setenv("CO_API_KEY", "first")
    assert ask("cohere", [scored("cohere")])[1].keys == ["Bearer first"]
    assert ask("jina", [scored("jina")])[1].keys == [""]
    monkeypatch.setenv("RERANK_API_KEY", "")
    assert ask("cohere", [scored("cohere")])[1].keys == [""]


def test_a_key_is_not_sent_to_an_address_that_only_a_file_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINA_API_KEY", KEY)
    foreign = FileAddress("https://elsewhere.example/v1", "spec.toml")
    with raises(UsageError, "spec.toml"):
        open_model_backend("api:jina/m", BackendOptions(base_url=foreign))
    own = FileAddress("https://api.jina.ai", "spec.toml")
    assert open_model_backend("api:jina/m", BackendOptions(base_url=own)).costs_money
    monkeypatch.delenv("JINA_API_KEY")
    open_model_backend("api:jina/m", BackendOptions(base_url=foreign))


def test_a_key_that_is_repeated_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JINA_API_KEY", KEY)
    reply, _ = ask("jina", [error(400, f"wrong {KEY}")])
    assert "***" in reply.error
    assert KEY not in reply.error
    reply, _ = ask("jina", [raw({"results": [{"index": KEY}]})])
    assert "***" in reply.error
    assert KEY not in reply.error


def test_a_server_that_does_not_describe_itself_is_asked_within_known_limits() -> None:
    with open_server("tei", [scored("tei")]) as server:
        del server.gets["/info"]
        backend = Api.connect("tei", BackendOptions(base_url=server.root))
        with pytest.warns(UserWarning, match="does not state the context size"):
            assert backend.tokens.context_size == 512
        backend.close()


def test_the_stated_context_size_is_used() -> None:
    for name, size in (("tei", 4096), ("vllm", 4096), ("cohere", 4096), ("jina", 8192)):
        with open_server(name, [scored(name)]) as server:
            backend = Api.connect(f"{name}/m", BackendOptions(base_url=server.root))
            assert backend.tokens.context_size == size
            backend.close()


def test_a_run_with_its_log_cache_and_replay(cli: Cli, lists: tuple[str, ...]) -> None:
    with open_server("cohere", [scored("cohere"), error(400), scored("cohere")]) as server:
        flags = (*lists[:-2], "--model", "api:cohere/m", "--base-url", server.root, "--concurrency", 1)
        assert cli("run", *flags, "--out", "out", "--max-failure-rate", 1).returncode == 0
        summary = json.loads(Path("out/summary.json").read_text())
        assert (summary["method"], summary["calls"], summary["windows"]["error"]) == ("cross-encoder", 3, 1)
        assert summary["search_units"] == 6
        asked = len(server.asked)
        assert cli("run", "--resume", "--out", "out").returncode == 0
        assert len(server.asked) == asked + 1  # only the request without a reply
        assert cli("verify", "out").returncode == 0
    lines = Path("out/run.trec").read_text().splitlines()
    assert len(lines) == 48
    assert lines[0].split()[2] == "d0-11"


def test_costs_are_known_before_and_after_a_run(cli: Cli, lists: tuple[str, ...], tmp_path: Path) -> None:
    prices = tmp_path / "config" / "listrank" / "prices.toml"
    prices.parent.mkdir(parents=True)
    prices.write_text('["cohere/m"]\nsearch = 2.0\n["api:jina/m"]\ninput = 0.02\noutput = 0\n')
    with open_server("cohere", [scored("cohere")]) as server:
        flags = (*lists[:-2], "--model", "api:cohere/m", "--base-url", server.root, "--out", "out")
        estimate = json.loads(cli("run", *flags, "--dry-run", "--format", "json").stdout)
        assert not server.asked
        assert (estimate["calls"], estimate["cost"]) == (4, pytest.approx(4 * 2.0 / 1000))
        assert cli("run", *flags).returncode == 0
    assert json.loads(Path("out/summary.json").read_text())["cost"] == pytest.approx(8 * 2.0 / 1000)
    with open_server("jina", [scored("jina")]) as server:
        flags = (*lists[:-2], "--model", "api:jina/m", "--base-url", server.root, "--out", "jina")
        assert cli("run", *flags).returncode == 0
    assert json.loads(Path("jina/summary.json").read_text())["cost"] == pytest.approx(4 * 77 * 0.02 / 1e6)
