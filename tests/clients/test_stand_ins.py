"""The servers that our own backends are tested against, asked by the vendors' packages: they answer as documented.

A client that checks the form of an answer would refuse a stand-in that our backend alone can read.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from rerank.backends.api import Api
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, CrossEncoderTask, Request, Sampling
from tests.backends.faulty_server import APIS, AWS, decided, open_decision_server, open_server, scored, sign_as_aws
from tests.clients.conftest import DOCS, Rows, note_version

pytestmark = [pytest.mark.clients, pytest.mark.allow_hosts(["127.0.0.1"])]


def _rank_with_cohere(root: str) -> Rows:
    client = import_module("cohere").ClientV2(api_key="k", base_url=root)
    answer = client.rerank(model="m", query="q", documents=DOCS)
    assert answer.meta.billed_units.search_units == 2
    return [(row.index, row.relevance_score) for row in answer.results]


def _rank_with_voyage(root: str) -> Rows:
    client = import_module("voyageai").Client(api_key="k", base_url=f"{root}/v1", max_retries=0)
    answer = client.rerank("q", DOCS, model="m")
    assert answer.total_tokens == APIS["voyage"].tokens
    return [(row.index, row.relevance_score) for row in answer.results]


def _rank_with_zeroentropy(root: str) -> Rows:
    client = import_module("zeroentropy").ZeroEntropy(api_key="k", base_url=f"{root}/v1", max_retries=0)
    answer = client.models.rerank(model="m", query="q", documents=DOCS)
    assert answer.total_tokens == APIS["zeroentropy"].tokens
    return [(row.index, row.relevance_score) for row in answer.results]


def _rank_with_bedrock(root: str) -> Rows:
    model = "arn:aws:bedrock:us-west-2::foundation-model/m"
    answer = import_module("litellm").rerank(model=f"bedrock/{model}", query="q", documents=DOCS, api_base=root)
    return [(row["index"], row["relevance_score"]) for row in answer.results]


def _rank_with_nim(root: str) -> Rows:
    document = import_module("langchain_core.documents").Document
    compressor = import_module("langchain_nvidia_ai_endpoints").NVIDIARerank(
        model="m", api_key="k", base_url=f"{root}/v1", truncate="END"
    )
    documents = [document(page_content=text, metadata={"number": n}) for n, text in enumerate(DOCS)]
    ranked = compressor.compress_documents(documents, "q")
    return [(document.metadata["number"], document.metadata["relevance_score"]) for document in ranked]


#: Package and API -> what the package returns.
CLIENTS: dict[tuple[str, str], Callable[[str], Rows]] = {
    ("cohere", "cohere"): _rank_with_cohere,
    ("voyageai", "voyage"): _rank_with_voyage,
    ("zeroentropy", "zeroentropy"): _rank_with_zeroentropy,
    ("litellm", "bedrock"): _rank_with_bedrock,
    ("langchain-nvidia-ai-endpoints", "nim"): _rank_with_nim,
}


@pytest.mark.parametrize(("package", "name"), CLIENTS)
def test_rerank_stand_ins(package: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = CLIENTS[package, name]
    note_version(package)
    monkeypatch.setenv("RERANK_API_KEY", "")
    for variable, value in AWS.items():
        monkeypatch.setenv(variable, value)
    with open_server(name, [scored(name)]) as server:
        rows = rank(server.root)
        by_client = server.asked[-1]
        if name == "bedrock":
            assert server.keys[-1] == sign_as_aws(server)  # what is computed from a request by botocore
        backend = Api.connect(f"{name}/m", BackendOptions(base_url=server.root))
        prompt = tuple(Message("user", text) for text in ("q", *DOCS))
        (reply,) = backend.generate([Request(prompt=prompt, sampling=Sampling(max_tokens=0), task=CrossEncoderTask())])
        backend.close()
        by_us = server.asked[-1]
    assert [index for index, _ in rows] == [2, 1, 0]
    assert [reply.scores[index] for index, _ in rows] == [score for _, score in rows]
    shared = {"model", "query", "documents", "queries", "sources", "rerankingConfiguration", "passages", "truncate"}
    assert {key: by_us.get(key) for key in shared} == {key: by_client.get(key) for key in shared}


def test_decision_stand_in() -> None:
    note_version("openai")
    levels: list[dict[str, Any]] = [{"label": "0"}, {"label": "1"}]
    with open_decision_server(decided()) as server:
        decision = (
            import_module("openai")
            .OpenAI(api_key="k", base_url=server.url, max_retries=0)
            .decisions.create(
                model="m",
                input=[{"role": "user", "content": "Query: q"}],
                questions=[
                    {"type": "predicate", "instructions": "Passage: text 5 Does the passage help?", "name": "0"},
                    {
                        "type": "choice",
                        "instructions": "Which?",
                        "choices": [{"value": "A"}, {"value": "B"}],
                        "name": "1",
                    },
                    {"type": "score", "instructions": "How good?", "levels": levels, "name": "2"},
                ],
            )
        )
    predicate, choice, score = decision.answers
    assert predicate.probability == pytest.approx(0.006)
    assert [row.value for row in choice.probabilities] == ["A", "B"]
    assert [(row.label, row.value) for row in score.probabilities] == [("0", 0), ("1", 1)]
    assert [answer.name for answer in decision.answers] == ["0", "1", "2"]
    assert decision.usage.input_tokens_details.cached_tokens == 7
