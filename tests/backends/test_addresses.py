"""Addresses as users type or paste them, and what is sent where."""

from __future__ import annotations

import asyncio

import pytest

from rerank.backends.base.addresses import OPENAI, Address, ServerProvider
from rerank.backends.base.connection import ServerConnection
from rerank.backends.openai import Openai
from rerank.errors import BackendError, UsageError
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, Request, Sampling
from tests.backends.faulty_server import FaultyServer, error, said
from tests.raising import raises

AZURE = "https://res.openai.azure.com/openai"
VERSION = "api-version=2024-10-21"


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("http://h:8000/v1", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/v1/", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/v1/chat/completions", "http://h:8000/v1/chat/completions"),
        ("http://h:8000/v1/chat/completions/", "http://h:8000/v1/chat/completions"),
        ("https://api.openai.com/v1/responses", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/completions", "https://api.openai.com/v1/chat/completions"),
        (f"{AZURE}/deployments/d?{VERSION}", f"{AZURE}/deployments/d/chat/completions?{VERSION}"),
        (f"{AZURE}/deployments/d/?{VERSION}", f"{AZURE}/deployments/d/chat/completions?{VERSION}"),
        (f"{AZURE}/deployments/d/chat/completions?{VERSION}", f"{AZURE}/deployments/d/chat/completions?{VERSION}"),
        (f"{AZURE}/responses?{VERSION}", f"{AZURE}/v1/chat/completions"),
        (f"{AZURE}/v1/", f"{AZURE}/v1/chat/completions"),
        ("https://res.openai.azure.com/", f"{AZURE}/v1/chat/completions"),
        (
            "https://res.services.ai.azure.com/models?api-version=2024-05-01-preview",
            "https://res.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview",
        ),
        (f"https://gateway.example/x?{VERSION}", f"https://gateway.example/x/chat/completions?{VERSION}"),
    ],
)
def test_what_is_typed_and_where_chats_are_sent(typed: str, sent: str) -> None:
    address = Address.parse(typed)
    assert address.with_query(f"{address.url}/chat/completions") == sent
    is_azure = "azure" in typed or VERSION in typed
    assert address.key_header("k") == ({"api-key": "k"} if is_azure else {"Authorization": "Bearer k"})
    assert address.key_header("") == {}
    assert ("AZURE_OPENAI_API_KEY" in address.provider.keys) is is_azure


def test_a_parameter_is_added_to_the_others() -> None:
    address = Address.parse(f"{AZURE}/deployments/d?{VERSION}")
    assert address.with_query(f"{address.url}/batches?limit=100").endswith(f"/batches?limit=100&{VERSION}")


@pytest.mark.parametrize("query", ["key=sk-secret", f"{VERSION}&code=sk-secret", "api-version=", "api-version=a b"])
def test_other_queries_are_refused_without_being_shown(query: str) -> None:
    with raises(UsageError, "?api-version=VERSION", "OPENAI_API_KEY") as caught:
        Address.parse(f"https://h/v1?{query}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["http://h\x01/v1", "http://h/v1\x7f", "http://h/\u202ev1"])
def test_control_characters_are_refused(address: str) -> None:
    with raises(UsageError, "http://", repr(address)):
        Address.parse(address)


def test_an_id_of_a_server_with_control_characters_is_an_error_in_words() -> None:
    connection = ServerConnection(address=Address.parse("http://127.0.0.1:1"), timeout=1)
    with raises(BackendError, "is invalid", "control characters"):
        asyncio.run(connection.ask("/batches/a\x00b", read=str))


def test_endpoints_are_those_of_the_provider() -> None:
    """Rerank APIs have endpoints of their own, to which an address may point."""
    rerankers = ServerProvider(keys=("RERANK_API_KEY",))
    assert Address.parse("https://h/v1/responses", rerankers).url == "https://h/v1/responses"
    assert Address.parse("https://h/v1/rerank", OPENAI).url == "https://h/v1/rerank"


@pytest.mark.enable_socket
def test_azure_is_asked_as_it_wants_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RERANK_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "0123456789abcdef")
    path = f"/openai/deployments/d/chat/completions?{VERSION}"
    with FaultyServer([said("[1]")], path=path) as server:
        server.gets[f"/openai/deployments/d/models?{VERSION}"] = error(404, "Resource not found", code="404")
        options = BackendOptions(base_url=server.root + path, context_size=8192)
        backend = Openai.connect("d", options)
        (reply,) = backend.generate([Request(prompt=(Message("user", "Rank."),), sampling=Sampling(max_tokens=5))])
        assert (reply.text, server.keys) == ("[1]", ["0123456789abcdef"])
        assert server.looked == [f"/openai/deployments/d/models?{VERSION}"]
        assert backend.identity["server"] == f"{server.root.removeprefix('http://')}/openai/deployments/d"


def test_the_key_of_azure_goes_to_azure_or_a_gateway_and_not_to_openai() -> None:
    provider = Address.parse("https://api.openai.com/v1?api-version=1").provider
    assert "AZURE_OPENAI_API_KEY" not in provider.keys
