"""Convert requests to the body of a chat completion, for each kind of server.

OpenAI's interface has no fields to continue a given beginning of a reply, to allow only identifiers, or to switch off
thinking. Servers have their own fields for these purposes, and ignore or refuse the fields of other servers. Fields
that can be omitted are listed separately, so that they can be dropped if a server refuses them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from rerank.backends.openai.server import ServerKind
from rerank.prompts.base import Prompt, reply_prefix_of_prompt
from rerank.tasks import ContinuationTask, PermutationTask, Request, Sampling

#: Kinds of servers that can continue a final assistant turn.
CONTINUES: frozenset[ServerKind] = frozenset({"vllm", "sglang", "llamacpp"})
#: Number of log-probabilities per position: the maximum of OpenAI and default maximum of vLLM; llama.cpp allows more.
TOP, TOP_LLAMACPP = 20, 200
#: Factor by which a JSON reply may have more tokens than a plain permutation, due to quotes, commas and line breaks.
_JSON_FACTOR = 3
#: Name that stands for the constraint among the fields that can be omitted.
CONSTRAINT = "constraint"
#: Other names by which an error message may refer to a field.
_ALIASES = {
    CONSTRAINT: ("response_format", "json_schema", "schema", "structured_outputs", "regex", "grammar", "guided"),
    "chat_template_kwargs": ("chat_template",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRequest:
    """A request as it is sent to a server.

    Attributes:
        body: The JSON body.
        optional: Names of the parts of the request that can be omitted: fields of the body, or `CONSTRAINT`.
        reply_prefix: The beginning of the reply that the server should continue; empty for none.
        constraint: Form of the constrained reply: ``chain`` for identifiers as plain text, ``json``, or empty for no
            constraint.
    """

    body: dict[str, Any]
    optional: frozenset[str]
    reply_prefix: str = ""
    constraint: str = ""


@dataclass(slots=True, kw_only=True)
class Dialect:
    """The request format of a server, without the fields that the server has refused.

    Attributes:
        kind: The kind of server.
        model: Name of the model on the server.
        refused: Fields that the server has refused so far.
    """

    kind: ServerKind
    model: str
    refused: set[str] = field(default_factory=set)

    @property
    def continues(self) -> bool:
        """Whether the server can continue a reply whose beginning is given as a final assistant turn."""
        return self.kind in CONTINUES

    def build_request(self, request: Request) -> ServerRequest:
        """Convert a request to the form that the server expects.

        The beginning of the reply is dropped if the server cannot continue it, or if a constraint includes it.
        """
        constrained = isinstance(request.task, PermutationTask) and CONSTRAINT not in self.refused
        prefix = reply_prefix_of_prompt(request.prompt) if self.continues and not constrained else ""
        scores = isinstance(request.task, ContinuationTask)
        # With thinking, the log-probabilities of the first token would belong to a thought, not to the answer.
        sampling = replace(request.sampling, thinking=0) if scores else request.sampling
        optional = {key: value for key, value in self._optional_fields(sampling).items() if key not in self.refused}
        body = {"model": self.model, "messages": self._turns(request.prompt, prefix=prefix), **optional}
        max_tokens, form = sampling.max_tokens, ""
        if scores:
            max_tokens = 1
            body |= {"logprobs": True, "top_logprobs": TOP_LLAMACPP if self.kind == "llamacpp" else TOP}
        if prefix and self.kind in ("vllm", "sglang"):
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if constrained and isinstance(request.task, PermutationTask):
            constraint, form = server_constraint_fields(self.kind, request.task)
            body |= constraint
            max_tokens *= _JSON_FACTOR if form == "json" else 1
        body["max_completion_tokens" if "max_tokens" in self.refused else "max_tokens"] = max_tokens + sampling.thinking
        omittable = {*optional, CONSTRAINT} if form else {*optional}
        return ServerRequest(body=body, optional=frozenset(omittable), reply_prefix=prefix, constraint=form)

    def find_refused_field(self, request: ServerRequest, message: str, named: str) -> str:
        """Return the name of the refused part of a request, if this part can be omitted or renamed; empty otherwise.

        Args:
            request: The request that the server refused.
            message: The server's error message.
            named: Name of the field in the server's error; empty if the error names none.
        """
        if "max_completion_tokens" in message and "max_completion_tokens" not in request.body:
            return "max_tokens"
        for name in sorted(request.optional):
            words = (name, *_ALIASES.get(name, ()))
            if named.partition(".")[0] in words or (
                not named and any(re.search(rf"\b{word}\b", message) for word in words)
            ):
                return name
        return ""

    def _turns(self, prompt: Prompt, *, prefix: str) -> list[dict[str, str]]:
        end = len(prompt) - (prompt[-1].role == "assistant" and not prefix)
        return [
            {"role": "user" if turn.role == "text" else turn.role, "content": turn.content} for turn in prompt[:end]
        ]

    def _optional_fields(self, sampling: Sampling) -> dict[str, Any]:
        """Return the fields for decoding settings; they override the model's and server's defaults if possible."""
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


def server_constraint_fields(kind: ServerKind, task: PermutationTask) -> tuple[dict[str, Any], str]:
    """Return the fields that restrict a reply to ``task.count`` identifiers, and the form of the reply.

    Repeated identifiers cannot be excluded: a regular expression or grammar for all permutations doubles in size with
    every identifier, and servers refuse ``uniqueItems`` in a JSON schema. The parser drops repetitions.
    """
    if kind == "llamacpp":
        items = " | ".join(map(json.dumps, task.items))
        more = f" ({json.dumps(task.separator)} item){{{task.count - 1}}}" if task.count > 1 else ""
        return {"grammar": f"root ::= item{more}\nitem ::= {items}"}, "chain"
    if kind in ("vllm", "sglang"):
        regex = permutation_pattern_for_server(task)
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


def permutation_pattern_for_server(task: PermutationTask) -> str:
    """Return a regular expression for ``task.count`` identifiers with separators between them."""
    item = f"({'|'.join(map(re.escape, task.items))})"
    return item + (f"({_escape_server_pattern(task.separator)}{item}){{{task.count - 1}}}" if task.count > 1 else "")


def _escape_server_pattern(text: str) -> str:
    """Escape a text for a regular expression, except spaces and ``>``, whose escapes not every server accepts."""
    return "".join(char if char in " >,-" else re.escape(char) for char in text)
