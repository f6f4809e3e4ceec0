"""Clients of rerank APIs, unmodified, against `rerank serve`: each gets the whole order with its scores."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from tests.clients.conftest import DOCS, KEY, MODEL, Rows, note_version

# Only loopback may be reached.
pytestmark = [pytest.mark.clients, pytest.mark.allow_hosts(["127.0.0.1"])]

#: Address of the server, key and number of results -> what the client returns.
Ranks = Callable[[str, str, int], Rows]
CLIENTS: list[Any] = []


def client(distribution: str) -> Callable[[Ranks], Ranks]:
    """Add a function that ranks `DOCS` with a client of a distribution to the clients."""

    def add(rank: Ranks) -> Ranks:
        CLIENTS.append(pytest.param(distribution, rank, id=rank.__name__.removeprefix("rank_with_")))
        return rank

    return add


def rows_of(results: Any, score: str = "relevance_score") -> Rows:
    return [(result.index, getattr(result, score)) for result in results]


@client("cohere")
def rank_with_cohere_1(url: str, key: str, top_n: int) -> Rows:
    cohere = import_module("cohere")
    answer = cohere.Client(api_key=key, base_url=url).rerank(
        model=MODEL, query="q", documents=[{"text": text} for text in DOCS], top_n=top_n, return_documents=True
    )
    assert [row.document.text for row in answer.results] == [DOCS[row.index] for row in answer.results]
    assert answer.meta.api_version.version == "1"
    return rows_of(answer.results)


@client("cohere")
def rank_with_cohere_1_async(url: str, key: str, top_n: int) -> Rows:
    cohere = import_module("cohere")
    client = cohere.AsyncClient(api_key=key, base_url=url)
    return rows_of(asyncio.run(client.rerank(model=MODEL, query="q", documents=DOCS, top_n=top_n)).results)


@client("cohere")
def rank_with_cohere_2(url: str, key: str, top_n: int) -> Rows:
    cohere = import_module("cohere")
    answer = cohere.ClientV2(api_key=key, base_url=url).rerank(
        model=MODEL, query="q", documents=DOCS, top_n=top_n, max_tokens_per_doc=4096
    )
    assert answer.meta.api_version.version == "2"
    assert answer.meta.tokens.input_tokens > 0
    assert len(answer.meta.warnings) == 1  # the scores are made from ranks
    return rows_of(answer.results)


@client("cohere")
def rank_with_cohere_2_async(url: str, key: str, top_n: int) -> Rows:
    cohere = import_module("cohere")
    client = cohere.AsyncClientV2(api_key=key, base_url=url)
    return rows_of(asyncio.run(client.rerank(model=MODEL, query="q", documents=DOCS, top_n=top_n)).results)


@client("voyageai")
def rank_with_voyageai(url: str, key: str, top_n: int) -> Rows:
    client = import_module("voyageai").Client(api_key=key, base_url=f"{url}/v1")
    answer = client.rerank("q", DOCS, model=MODEL, top_k=top_n)
    assert answer.total_tokens > 0
    assert [row.document for row in answer.results] == [DOCS[row.index] for row in answer.results]
    return rows_of(answer.results)


@client("voyageai")
def rank_with_voyageai_async(url: str, key: str, top_n: int) -> Rows:
    client = import_module("voyageai").AsyncClient(api_key=key, base_url=f"{url}/v1")
    return rows_of(asyncio.run(client.rerank("q", DOCS, model=MODEL, top_k=top_n)).results)


@client("langchain-voyageai")
def rank_with_langchain_voyageai(url: str, key: str, top_n: int) -> Rows:
    document = import_module("langchain_core.documents").Document
    documents = [document(page_content=text, metadata={"number": n}) for n, text in enumerate(DOCS)]
    compressor = import_module("langchain_voyageai").VoyageAIRerank(
        model=MODEL, api_key=key, base_url=f"{url}/v1", top_k=top_n
    )
    ranked = compressor.compress_documents(documents, "q")
    assert asyncio.run(compressor.acompress_documents(documents, "q")) == ranked
    return [(document.metadata["number"], document.metadata["relevance_score"]) for document in ranked]


@client("langchain-nvidia-ai-endpoints")
def rank_with_langchain_nvidia(url: str, key: str, top_n: int) -> Rows:
    document = import_module("langchain_core.documents").Document
    documents = [document(page_content=text, metadata={"number": n}) for n, text in enumerate(DOCS)]
    compressor = import_module("langchain_nvidia_ai_endpoints").NVIDIARerank(
        model=MODEL, api_key=key, base_url=f"{url}/v1", top_n=top_n, truncate="END"
    )
    ranked = compressor.compress_documents(documents, "q")
    return [(document.metadata["number"], document.metadata["relevance_score"]) for document in ranked]


@client("mixedbread")
def rank_with_mixedbread(url: str, key: str, top_n: int) -> Rows:
    client = import_module("mixedbread").Mixedbread(api_key=key, base_url=url, max_retries=0)
    answer = client.rerank(model=MODEL, query="q", input=DOCS, top_k=top_n, return_input=True)
    assert answer.usage.total_tokens > 0
    assert [row.input for row in answer.data] == [DOCS[row.index] for row in answer.data]
    return rows_of(answer.data, "score")


@client("zeroentropy")
def rank_with_zeroentropy(url: str, key: str, top_n: int) -> Rows:
    client = import_module("zeroentropy").ZeroEntropy(api_key=key, base_url=f"{url}/v1", max_retries=0)
    answer = client.models.rerank(model=MODEL, query="q", documents=DOCS, top_n=top_n)
    assert answer.total_tokens > 0
    return rows_of(answer.results)


@client("together")
def rank_with_together(url: str, key: str, top_n: int) -> Rows:
    client = import_module("together").Together(api_key=key, base_url=url, max_retries=0)
    answer = client.rerank.create(model=MODEL, query="q", documents=DOCS, top_n=top_n)
    assert [row.document.text for row in answer.results] == [DOCS[row.index] for row in answer.results]
    return rows_of(answer.results)


@client("contextual-client")
def rank_with_contextual(url: str, key: str, top_n: int) -> Rows:
    client = import_module("contextual").ContextualAI(api_key=key, base_url=f"{url}/v1", max_retries=0)
    answer = client.rerank.create(model=MODEL, query="q", documents=DOCS, top_n=top_n, instruction="in winter")
    return rows_of(answer.results)


def rank_with_litellm(provider: str, path: str) -> Ranks:
    """Return a function that ranks with a provider of LiteLLM, whose base address is a path of the server."""

    def rank(url: str, key: str, top_n: int) -> Rows:
        litellm = import_module("litellm")
        arguments = {"model": f"{provider}/{MODEL}", "query": "q", "documents": DOCS, "top_n": top_n}
        arguments |= {"api_base": url + path, "api_key": key, "return_documents": True}
        answer = litellm.rerank(**arguments)
        again = asyncio.run(litellm.arerank(**arguments))
        assert again.results == answer.results
        assert [row["document"]["text"] for row in answer.results] == [DOCS[row["index"]] for row in answer.results]
        return [(row["index"], row["relevance_score"]) for row in answer.results]

    rank.__name__ = f"rank_with_litellm_{provider}"
    return rank


for provider, path in {
    "cohere": "",
    "jina_ai": "/v1",
    "hosted_vllm": "",
    "voyage": "/v1",
    "together_ai": "/v1",
    "fireworks_ai": "/v1",
}.items():
    client("litellm")(rank_with_litellm(provider, path))


def rank_with_rerankers(provider: str, path: str) -> Ranks:
    """Return a function that ranks with a provider of `rerankers`, which always asks for all results."""

    def rank(url: str, key: str, top_n: int) -> Rows:
        ranker = import_module("rerankers").Reranker(
            MODEL, model_type="APIRanker", api_provider=provider, api_key=key, url=url + path, verbose=0
        )
        results = ranker.rank(query="q", docs=DOCS)
        assert [row.text for row in results] == [DOCS[row.doc_id] for row in results]
        return [(row.doc_id, row.score) for row in results][:top_n]

    rank.__name__ = f"rank_with_rerankers_{provider}"
    return rank


for provider, path in {
    "cohere": "/v1/rerank",
    "jina": "/v1/rerank",
    "voyage": "/v1/rerank",
    "mixedbread.ai": "/v1/reranking",
    "text-embeddings-inference": "/rerank",
}.items():
    client("rerankers")(rank_with_rerankers(provider, path))


def rows_of_nodes(postprocessor: Any) -> Rows:
    """Return the rows of a postprocessor of LlamaIndex, whose nodes keep their metadata."""
    schema = import_module("llama_index.core.schema")
    nodes = [
        schema.NodeWithScore(
            node=schema.TextNode(text=text, metadata={"number": n}, excluded_embed_metadata_keys=["number"]), score=0.1
        )
        for n, text in enumerate(DOCS)
    ]
    ranked = postprocessor.postprocess_nodes(nodes, query_str="q")
    assert [node.text for node in ranked] == [DOCS[node.metadata["number"]] for node in ranked]
    return [(node.metadata["number"], node.score) for node in ranked]


@client("llama-index-postprocessor-jinaai-rerank")
def rank_with_llama_index_jina(url: str, key: str, top_n: int) -> Rows:
    module = import_module("llama_index.postprocessor.jinaai_rerank")
    return rows_of_nodes(module.JinaRerank(model=MODEL, base_url=f"{url}/v1", api_key=key, top_n=top_n))


@client("llama-index-postprocessor-siliconflow-rerank")
def rank_with_llama_index_siliconflow(url: str, key: str, top_n: int) -> Rows:
    module = import_module("llama_index.postprocessor.siliconflow_rerank")
    return rows_of_nodes(module.SiliconFlowRerank(model=MODEL, base_url=f"{url}/v1/rerank", api_key=key, top_n=top_n))


@client("llama-index-postprocessor-tei-rerank")
def rank_with_llama_index_tei(url: str, key: str, top_n: int) -> Rows:
    module = import_module("llama_index.postprocessor.tei_rerank")
    return rows_of_nodes(module.TextEmbeddingInference(base_url=url, auth_token=f"Bearer {key}", top_n=top_n))


def rows_of_ranker(make: Callable[[], Any]) -> Rows:
    """Return the rows of a ranker of Haystack, whose asynchronous interface gives the same."""
    haystack = import_module("haystack")
    documents = [haystack.Document(content=text, meta={"number": n}) for n, text in enumerate(DOCS)]
    ranked = make().run(query="q", documents=documents)["documents"]
    again = asyncio.run(make().run_async(query="q", documents=documents))["documents"]
    assert [document.id for document in again] == [document.id for document in ranked]
    assert [document.content for document in ranked] == [DOCS[document.meta["number"]] for document in ranked]
    return [(document.meta["number"], document.score) for document in ranked]


def secret(key: str) -> Any:
    return import_module("haystack.utils").Secret.from_token(key)


@client("cohere-haystack")
def rank_with_haystack_cohere(url: str, key: str, top_n: int) -> Rows:
    module = import_module("haystack_integrations.components.rankers.cohere")
    arguments = {"model": MODEL, "api_base_url": url, "api_key": secret(key), "top_k": top_n}
    return rows_of_ranker(lambda: module.CohereRanker(**arguments))


@client("jina-haystack")
def rank_with_haystack_jina(url: str, key: str, top_n: int) -> Rows:
    module = import_module("haystack_integrations.components.rankers.jina")
    arguments = {"model": MODEL, "base_url": f"{url}/v1/rerank", "api_key": secret(key), "top_k": top_n}
    return rows_of_ranker(lambda: module.JinaRanker(**arguments))


@client("vllm-haystack")
def rank_with_haystack_vllm(url: str, key: str, top_n: int) -> Rows:
    module = import_module("haystack_integrations.components.rankers.vllm")
    arguments = {"model": MODEL, "api_base_url": f"{url}/v1", "api_key": secret(key), "top_k": top_n}
    return rows_of_ranker(lambda: module.VLLMRanker(**arguments))


@client("huggingface-api-haystack")
def rank_with_haystack_tei(url: str, key: str, top_n: int) -> Rows:
    module = import_module("haystack_integrations.components.rankers.huggingface_api")
    return rows_of_ranker(lambda: module.HuggingFaceTEIRanker(url=url, token=secret(key), top_k=top_n))


@pytest.mark.parametrize(("distribution", "rank"), CLIENTS)
def test_order_and_scores(url: str, distribution: str, rank: Ranks) -> None:
    note_version(distribution)
    rows = rank(url, KEY, 3)
    assert [index for index, _ in rows] == [2, 1, 0]
    scores = [score for _, score in rows]
    assert all(before > after for before, after in itertools.pairwise(scores))
    assert 0 < min(scores) <= max(scores) <= 1


@pytest.mark.parametrize(("distribution", "rank"), CLIENTS)
def test_the_number_of_results(url: str, distribution: str, rank: Ranks) -> None:
    note_version(distribution)
    assert [index for index, _ in rank(url, KEY, 2)] == [2, 1]


@pytest.mark.parametrize(("distribution", "rank"), CLIENTS)
def test_a_wrong_key(url: str, distribution: str, rank: Ranks) -> None:
    """Every client raises an error; those with typed errors raise their own, with the server's message."""
    note_version(distribution)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        rank(url, "wrong", 3)
    if distribution in ("cohere", "voyageai", "mixedbread", "zeroentropy", "together", "contextual-client", "litellm"):
        assert type(caught.value).__name__ in ("UnauthorizedError", "AuthenticationError")
        assert "The key is missing or wrong" in str(caught.value)


def test_the_address_of_cohere_in_the_environment(url: str) -> None:
    """Frameworks that open Cohere's client without an address can be pointed at the server like this."""
    lines = f"import cohere; r = cohere.ClientV2().rerank(model={MODEL!r}, query='q', documents={DOCS}).results"
    command = [sys.executable, "-c", f"{lines}; print([row.index for row in r])"]
    variables = os.environ | {"CO_API_URL": url, "CO_API_KEY": KEY}
    assert subprocess.run(command, env=variables, text=True, capture_output=True, check=True).stdout == "[2, 1, 0]\n"


def test_a_client_without_keys(open_url: str) -> None:
    note_version("llama-index-postprocessor-xinference-rerank")
    module = import_module("llama_index.postprocessor.xinference_rerank")
    rows = rows_of_nodes(module.XinferenceRerank(model=MODEL, base_url=open_url, top_n=3))
    assert sorted(index for index, _ in rows) == [0, 1, 2]


def test_relevant_spans_of_cohere(open_url: str) -> None:
    cohere = import_module("cohere")
    documents = ["Snow falls in winter. The shop is open.", "🙂 We are closed. Much snow falls."]
    answer = cohere.ClientV2(api_key="any", base_url=open_url).rerank(
        model=MODEL, query="snow falls", documents=documents, relevant_spans={"mode": "enabled", "max_spans": 1}
    )
    shown = {
        row.index: documents[row.index][span.start : span.end] for row in answer.results for span in row.relevant_spans
    }
    assert "Snow falls in winter." in shown[0]
    assert "Much snow falls." in shown[1]


def test_errors_of_a_request(url: str) -> None:
    cohere = import_module("cohere")
    with pytest.raises(cohere.UnprocessableEntityError, match="has no text"):
        cohere.Client(api_key=KEY, base_url=url).rerank(model=MODEL, query="q", documents=[{"picture": None}])
