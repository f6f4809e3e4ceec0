"""Recipes of `openai:`, against stand-ins that refuse and ignore what the documentation of their providers says."""

from __future__ import annotations

from typing import Any

import pytest

from rerank import Reranker
from rerank.backends.base.responses import KeyRejectedError
from rerank.backends.openai import Openai
from rerank.backends.openai.recipes import RECIPES
from rerank.errors import BackendError, UsageError
from rerank.models import open_model_backend
from rerank.prompts.base import Message
from rerank.tasks import (
    BackendOptions,
    ContinuationTask,
    GenerationTask,
    PermutationTask,
    Reply,
    Request,
    Sampling,
    Task,
)
from tests.backends.faulty_server import Act, FaultyServer, error, models, raw, said, weighed
from tests.raising import raises

pytestmark = pytest.mark.enable_socket

KEY = "key-of-this-test"
ORDER = PermutationTask(items=("[1]", "[2]"), count=2)
PICK = ContinuationTask(continuations=("A", "B"))


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.backends.base.connection.FIRST_WAIT", 0.0)
    for name in ("RERANK_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for recipe in RECIPES.values():
        monkeypatch.setenv(recipe.provider.keys[-1], KEY)


def gemini(body: dict[str, Any]) -> Act:
    """Unknown fields are errors, in a list; Gemma has no system turns."""
    message = ""
    if unknown := body.keys() & {"seed", "logprobs", "top_logprobs"}:
        message = f'Invalid JSON payload received. Unknown name "{min(unknown)}": Cannot find field.'
    elif "gemma" in body["model"] and body["messages"][0]["role"] == "system":
        message = f"Developer instruction is not enabled for models/{body['model']}"
    fault = {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}
    return raw([fault], status=400) if message else said("[2] > [1]")


def anthropic(body: dict[str, Any]) -> Act:
    """Fields that are not supported are ignored."""
    return said("[2] > [1]")


def openrouter(body: dict[str, Any]) -> Act:
    """Without ``require_parameters``, log-probabilities may be missing; with it, a model may have no provider."""
    if "logprobs" not in body:
        return said('{"order": ["[2]", "[1]"]}')
    if body.get("provider") != {"require_parameters": True}:
        return said("B")
    if "plain" in body["model"]:
        return error(404, "No endpoints found that can handle the requested parameters.", code=404)
    return weighed(A=-2.0, B=-0.1)


def groq(body: dict[str, Any]) -> Act:
    """Log-probabilities are an error; only some models have JSON schemas."""
    if "logprobs" in body:
        return error(400, "property 'logprobs' is unsupported", type="invalid_request_error")
    if "response_format" in body and "gpt-oss" not in body["model"]:
        return error(
            400,
            "This model does not support response format `json_schema`. See supported models at "
            "https://console.groq.com/docs/structured-outputs#supported-models",
            type="invalid_request_error",
            param="response_format",
        )
    return said('{"order": ["[2]", "[1]"]}' if "response_format" in body else "[2] > [1]")


def ollama(body: dict[str, Any]) -> Act:
    """Unknown fields are ignored; log-probabilities are there since version 0.12.11."""
    assert body.get("top_logprobs", 0) <= 20
    return weighed(A=-2.0, B=-0.1) if body.get("logprobs") else said('{"order": ["[2]", "[1]"]}')


def lmstudio(body: dict[str, Any]) -> Act:
    """Log-probabilities are ignored; the chat templates of some models have no system turns."""
    if "gemma" in body["model"] and body["messages"][0]["role"] == "system":
        return raw({"error": 'Error rendering prompt with jinja template: "System role not supported"'}, status=400)
    return said('{"order": ["[2]", "[1]"]}')


STAND_INS = {
    "gemini": gemini,
    "anthropic": anthropic,
    "openrouter": openrouter,
    "groq": groq,
    "ollama": ollama,
    "lmstudio": lmstudio,
}


def ask(recipe: str, task: Task, model: str = "m", **sampling: Any) -> tuple[Reply, FaultyServer]:
    turns = (Message("system", "You rank."), Message("user", "Rank these."))
    request = Request(prompt=turns, sampling=Sampling(**{"max_tokens": 20, **sampling}), task=task)
    with FaultyServer([STAND_INS[recipe]], listing=models(model)) as server:
        backend = Openai.connect(f"{recipe}:{model}", BackendOptions(base_url=server.url, context_size=4096))
        (reply,) = backend.generate([request])
        backend.close()
    return reply, server


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_is_sent_that_the_provider_lacks(recipe: str) -> None:
    model = "gpt-oss-20b" if recipe == "groq" else "m"
    for task in (GenerationTask(), ORDER):
        reply, server = ask(recipe, task, model, temperature=0.5, seed=3)
        assert (reply.finish, reply.error, reply.text.startswith(("[2]", "{"))) == ("stop", "", True)
        (body,) = server.asked  # no request was refused and sent again
        assert not body.keys() & RECIPES[recipe].lacks
        assert body["model"] == model
        assert server.keys == [f"Bearer {KEY}"]
    assert ("response_format" in body) is (recipe != "anthropic")
    assert ("seed" in body) is (recipe not in ("gemini", "anthropic"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_log_probabilities_are_read_or_refused_before_a_request(recipe: str) -> None:
    if recipe in ("openrouter", "ollama"):
        assert ask(recipe, PICK)[0].scores == (-2.0, -0.1)
        return
    with raises(UsageError, f"{recipe} returns no log-probabilities", "--method sliding"):
        Reranker.from_pretrained(f"openai:{recipe}:m", method="first", context_size=4096)
    Reranker.from_pretrained(f"openai:{recipe}:m", method="sliding", context_size=4096).close()


def test_a_model_without_log_probabilities_at_openrouter() -> None:
    with raises(BackendError, "requested parameters", "--method sliding"):
        ask("openrouter", PICK, "org/plain")


@pytest.mark.parametrize(("recipe", "model"), [("gemini", "gemma-3-27b-it"), ("lmstudio", "gemma-2-9b")])
def test_system_turns_that_a_model_lacks_become_part_of_the_first_turn(recipe: str, model: str) -> None:
    with pytest.warns(UserWarning, match="'system turns', now part of the user's turn"):
        reply, server = ask(recipe, GenerationTask(), model)
    assert reply.text
    assert server.asked[-1]["messages"] == [{"role": "user", "content": "You rank.\n\nRank these."}]


def test_schemas_that_a_model_of_groq_lacks() -> None:
    with pytest.warns(UserWarning, match="'constraint', which is now omitted"):
        reply, server = ask("groq", ORDER, "llama-3.3-70b-versatile")
    assert (reply.text, len(server.asked)) == ("[2] > [1]", 2)


def test_a_wrong_key_of_gemini_ends_the_run() -> None:
    """Google answers with 400."""
    fault = {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}
    with FaultyServer([raw([fault], status=400)]) as server, raises(KeyRejectedError, "GEMINI_API_KEY"):
        backend = Openai.connect("gemini:m", BackendOptions(base_url=server.url, context_size=4096))
        backend.generate([Request(prompt=(Message("user", "q"),), sampling=Sampling(max_tokens=5))])


def test_addresses_and_names() -> None:
    for name, recipe in RECIPES.items():
        backend = open_model_backend(f"openai:{name}:org/m:1b")
        assert isinstance(backend, Openai)
        assert recipe.provider.url.endswith(backend.identity["server"])
        assert backend.identity["model"] == f"{name}:org/m:1b"
        assert not hasattr(backend, "batches")
    with raises(UsageError, "openai:gemini:NAME"):
        open_model_backend("openai:gemini:")
    with raises(UsageError, "openai:anthropic:m"):
        open_model_backend("openai:anthropic/m")
    gateway = BackendOptions(base_url="https://openrouter.ai/api/v1")
    assert open_model_backend("openai:anthropic/m", gateway).identity["model"] == "anthropic/m"
