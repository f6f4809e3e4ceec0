"""Recipes for other providers with OpenAI's interface, selected as ``openai:RECIPE:MODEL``: one row per provider.

A colon separates the recipe, since names of models contain slashes: ``anthropic/NAME`` is a model of OpenRouter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rerank.backends.base.addresses import OPENAI, ServerProvider
from rerank.errors import UsageError

#: What a provider may lack besides fields of requests: log-probabilities.
LOGPROBS = "logprobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A provider, and what its interface lacks.

    What only some of its models lack is found by asking: a refused part is omitted from then on, with a warning.
    """

    provider: ServerProvider = OPENAI
    #: The optional parts of requests that the provider refuses or ignores (`Dialect.refused`), and `LOGPROBS`.
    lacks: frozenset[str] = frozenset()
    #: Further fields of requests for log-probabilities.
    scoring: Mapping[str, Any] = field(default_factory=dict)


def _row(url: str, key: str, *lacks: str, **scoring: Any) -> Recipe:
    provider = replace(OPENAI, url=url, keys=("RERANK_API_KEY", key), url_variable="")
    return Recipe(provider=provider, lacks=frozenset(lacks), scoring=scoring)


#: The recipes by name, each after its source.
RECIPES: Mapping[str, Recipe] = {
    # ai.google.dev/gemini-api/docs/openai; github.com/Vali-98/ChatterUI, issue 227 (the field seed)
    "gemini": _row("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", "seed", LOGPROBS),
    # platform.claude.com/docs/en/api/openai-sdk
    "anthropic": _row("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", "seed", "constraint", LOGPROBS),
    # openrouter.ai/docs/parameters; github.com/block/buzz, issue 3018. Otherwise, providers may ignore the request for
    # log-probabilities.
    "openrouter": _row("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", provider={"require_parameters": True}),
    # console.groq.com/docs/openai and console.groq.com/docs/structured-outputs
    "groq": _row("https://api.groq.com/openai/v1", "GROQ_API_KEY", LOGPROBS),
    # docs.ollama.com/api/openai-compatibility
    "ollama": _row("http://localhost:11434/v1", "OLLAMA_API_KEY"),
    # lmstudio.ai/docs/developer/openai-compat/chat-completions; github.com/lmstudio-ai/lms, issue 60
    "lmstudio": _row("http://localhost:1234/v1", "LMSTUDIO_API_KEY", LOGPROBS),
}


def find_recipe(name: str) -> tuple[Recipe, str]:
    """Split what follows ``openai:`` into the recipe, or else OpenAI's own interface, and the name of the model.

    >>> find_recipe("ollama:llama3.2:3b")[1], find_recipe("llama3.2:3b")[1]
    ('llama3.2:3b', 'llama3.2:3b')
    """
    first, _, model = name.partition(":")
    recipe, model = (RECIPES[first], model) if first in RECIPES else (Recipe(), name)
    if not model:
        start = f"openai:{first}:" if first in RECIPES else "openai:"
        raise UsageError(
            f"--model {start} does not contain the name of a model",
            expected=f"{start}NAME, with a name that the server lists",
        )
    return recipe, model
