"""How a request is put to a server of some kind: what every server understands, and what only some do.

OpenAI's interface has no words for "go on with this beginning", "only these identifiers" or "do not think"; servers
have words of their own, and ignore or refuse those of others. Fields that may be left out stand apart, so that one that
is refused can be. Knows fields, not connections.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from rerank.backends.openai.server import Kind
from rerank.prompts.base import Prompt, opening
from rerank.tasks import ContinuationTask, PermutationTask, Request, Sampling

#: Servers that go on with a last turn of the assistant.
CONTINUES: frozenset[Kind] = frozenset({"vllm", "sglang", "llamacpp"})
#: Likelihoods that a server gives for one position: OpenAI's most, and vLLM's unless it is started with more.
TOP, TOP_LLAMACPP = 20, 200
#: JSON takes up to so many times the tokens of a bare chain: quotes, commas, and line breaks where a server likes them.
_JSON = 3
#: The name of the constraint among the fields that can be given up.
CONSTRAINT = "constraint"
#: What a complaint about a field may call it, beside its own name.
_ALIASES = {
    CONSTRAINT: ("response_format", "json_schema", "schema", "structured_outputs", "regex", "grammar", "guided"),
    "chat_template_kwargs": ("chat_template",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrased:
    """A request as it is sent.

    Attributes:
        body: The whole of it.
        optional: Names of what may be left out of it: fields, or `CONSTRAINT`.
        begun: The beginning of the reply that the server was given to go on with.
        constraint: How the reply was constrained: ``chain`` (as text), ``json``, or not at all.
    """

    body: dict[str, Any]
    optional: frozenset[str]
    begun: str = ""
    constraint: str = ""


@dataclass(slots=True, kw_only=True)
class Dialect:
    """A server's way of putting things, less what it turned out not to take.

    Attributes:
        kind: The server.
        model: The model's name there.
        refused: What it refuses; grows.
    """

    kind: Kind
    model: str
    refused: set[str] = field(default_factory=set)

    @property
    def continues(self) -> bool:
        """Whether a last turn of the assistant is gone on with."""
        return self.kind in CONTINUES

    def phrase(self, request: Request) -> Phrased:
        """Put a request into words.

        The beginning of a reply is dropped where the server would not go on with it, and where a constraint says it.
        """
        constrained = isinstance(request.task, PermutationTask) and CONSTRAINT not in self.refused
        begun = opening(request.prompt) if self.continues and not constrained else ""
        weighs = isinstance(request.task, ContinuationTask)
        # the first token of a thought says nothing about the answer
        sampling = replace(request.sampling, thinking=0) if weighs else request.sampling
        optional = {key: value for key, value in self._optional(sampling).items() if key not in self.refused}
        body = {"model": self.model, "messages": self._turns(request.prompt, begun=begun), **optional}
        count, form = sampling.max_tokens, ""
        if weighs:
            count = 1
            body |= {"logprobs": True, "top_logprobs": TOP_LLAMACPP if self.kind == "llamacpp" else TOP}
        if begun and self.kind in ("vllm", "sglang"):
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if constrained and isinstance(request.task, PermutationTask):
            words, form = constraint(self.kind, request.task)
            body |= words
            count *= _JSON if form == "json" else 1
        body["max_completion_tokens" if "max_tokens" in self.refused else "max_tokens"] = count + sampling.thinking
        given_up = {*optional, CONSTRAINT} if form else {*optional}
        return Phrased(body=body, optional=frozenset(given_up), begun=begun, constraint=form)

    def complaint(self, phrased: Phrased, message: str, named: str) -> str:
        """What of a request a server's complaint is about, if that can be changed; empty otherwise.

        Args:
            phrased: What was sent.
            message: What the server says.
            named: The field that it names; empty if it names none.
        """
        if "max_completion_tokens" in message and "max_completion_tokens" not in phrased.body:
            return "max_tokens"
        for name in sorted(phrased.optional):
            words = (name, *_ALIASES.get(name, ()))
            if named.partition(".")[0] in words or (
                not named and any(re.search(rf"\b{word}\b", message) for word in words)
            ):
                return name
        return ""

    def _turns(self, prompt: Prompt, *, begun: str) -> list[dict[str, str]]:
        ends = len(prompt) - (prompt[-1].role == "assistant" and not begun)
        return [{"role": turn.role, "content": turn.content} for turn in prompt[:ends]]

    def _optional(self, sampling: Sampling) -> dict[str, Any]:
        """How to decode. What a model's maker or a server's user set as defaults is undone where there is a way."""
        fields: dict[str, Any] = {"temperature": sampling.temperature}
        if sampling.temperature > 0:
            fields |= {"top_p": sampling.top_p, "seed": sampling.seed}
        if self.kind != "plain":
            fields["chat_template_kwargs"] = {"enable_thinking": sampling.thinking > 0}
        if self.kind == "llamacpp":
            fields |= {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
        elif self.kind != "plain":
            fields |= {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
            if sampling.min_tokens:
                fields["min_tokens"] = sampling.min_tokens
        return fields


def constraint(kind: Kind, task: PermutationTask) -> tuple[dict[str, Any], str]:
    """The fields that let a server write nothing but identifiers, ``task.count`` of them, and the form that gives.

    None of these languages can say "none twice" in a size that a server would take: a regular expression or grammar of
    all orders doubles with every identifier, and JSON schema's ``uniqueItems`` is refused. So repeats can come, and are
    for the parser to drop.
    """
    if kind == "llamacpp":
        items = " | ".join(map(json.dumps, task.items))
        more = f" ({json.dumps(task.separator)} item){{{task.count - 1}}}" if task.count > 1 else ""
        return {"grammar": f"root ::= item{more}\nitem ::= {items}"}, "chain"
    if kind in ("vllm", "sglang"):
        regex = chain_pattern(task)
        return ({"structured_outputs": {"regex": regex}} if kind == "vllm" else {"regex": regex}), "chain"
    order = {
        "type": "array",
        "items": {"type": "string", "enum": list(task.items)},
        "minItems": task.count,
        "maxItems": task.count,
    }
    schema = {"type": "object", "properties": {"order": order}, "required": ["order"], "additionalProperties": False}
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "order", "strict": True, "schema": schema}}
    }, "json"


def chain_pattern(task: PermutationTask) -> str:
    """A regular expression for ``task.count`` identifiers with separators between them."""
    item = f"({'|'.join(map(re.escape, task.items))})"
    return item + (f"({_literal(task.separator)}{item}){{{task.count - 1}}}" if task.count > 1 else "")


def _literal(text: str) -> str:
    """Escaped, but for blanks and ``>``: not every server's dialect knows those as escapes."""
    return "".join(char if char in " >,-" else re.escape(char) for char in text)
