"""OpenAI's decisions, asked by OpenAI's own package and by a reranker that is built on it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from tests.clients.conftest import DOCS, KEY, MODEL, note_version

pytestmark = [pytest.mark.clients, pytest.mark.allow_hosts(["127.0.0.1"])]


def open_client(url: str, key: str = KEY) -> Any:
    note_version("openai")
    return import_module("openai").OpenAI(api_key=key, base_url=f"{url}/v1", max_retries=0)


def test_decisions(url: str) -> None:
    decision = open_client(url).decisions.create(
        model=MODEL,
        input="Snow falls in winter.",
        questions=[
            {"type": "predicate", "instructions": "Is it about snow?", "name": "snow"},
            {"type": "choice", "instructions": "Which?", "choices": [{"value": "x"}, {"value": True}]},
            {"type": "score", "instructions": "How good?", "levels": [{"label": "bad"}, {"label": "good"}]},
        ],
    )
    predicate, choice, score = decision.answers
    assert (predicate.type, predicate.name) == ("predicate", "snow")
    assert 0 <= predicate.probability <= 1
    assert sum(row.probability for row in choice.probabilities) == pytest.approx(1)
    assert choice.choice is True
    assert [row.label for row in score.probabilities] == ["bad", "good"]
    assert decision.usage.total_tokens > 0


def test_models_and_errors(url: str) -> None:
    openai = import_module("openai")
    assert [model.id for model in open_client(url).models.list()] == [MODEL]
    with pytest.raises(openai.AuthenticationError, match="The key is missing or wrong"):
        open_client(url, "wrong").models.list()
    with pytest.raises(openai.UnprocessableEntityError):
        open_client(url).decisions.create(model=MODEL, input="a text", questions=[])


def test_a_reranker_of_decisions(url: str) -> None:
    note_version("decisions-reranker")
    module = import_module("decisions_reranker.reranker")
    documents = [module.Document(str(n), text) for n, text in enumerate(DOCS)]
    ranked = module.DecisionsReranker(client=open_client(url), model=MODEL).rerank("q", documents)
    assert sorted(row.text for row in ranked) == sorted(DOCS)
    assert all(0 <= row.score <= 1 for row in ranked)
