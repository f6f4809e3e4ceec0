"""What differs between servers with OpenAI's interface: their kind, bodies of requests, refused fields, replies.

OpenAI's interface has no fields to continue a given beginning of a reply, to allow only identifiers, or to switch off
thinking. Servers have their own fields for these purposes, and ignore or refuse the fields of other servers. Fields
that can be omitted are listed separately, so that they can be dropped if a server refuses them.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from rerank.backends.base import token_estimate
from rerank.backends.base.responses import (
    Attempts,
    KeyRejectedError,
    RequestFailedError,
    RequestRejectedError,
    ServerResponse,
    count_in,
    decode_json_object,
    describe_content,
    name_in,
    object_in,
    shorten,
)
from rerank.backends.openai.recipes import Recipe
from rerank.backends.openai.thinking import MORE_ROOM, ROOM, thinks_by_default
from rerank.errors import BackendError, error_repr
from rerank.prompts.base import reply_prefix_of_prompt
from rerank.tasks import ContinuationTask, Finish, PermutationTask, Reply, Request

if TYPE_CHECKING:
    from rerank.backends.base.connection import ServerConnection

#: Kinds of servers with fields beyond OpenAI's interface; ``plain`` is any other server, including OpenAI and Ollama.
ServerKind = Literal["plain", "vllm", "sglang", "llamacpp"]
_KINDS: dict[str, ServerKind] = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp"}
#: Maximum number of model names in a message.
_SHOWN = 12
#: Number of log-probabilities per position: the maximum of OpenAI and default maximum of vLLM; llama.cpp allows more.
TOP, TOP_LLAMACPP = 20, 200
#: Factor by which a JSON reply may have more tokens than a plain permutation, due to quotes, commas and line breaks.
_JSON_FACTOR = 3
#: Names that stand for the constraint and for system turns among the fields that can be omitted.
CONSTRAINT, SYSTEM = "constraint", "system turns"
#: Other names by which an error message may refer to a field.
_ALIASES = {
    CONSTRAINT: ("response_format", "json_schema", "schema", "structured_outputs", "regex", "grammar", "guided"),
    "chat_template_kwargs": ("chat_template",),
    # Gemma on Google's interface; chat templates of Gemma and Mistral in LM Studio and vLLM
    SYSTEM: ("Developer instruction", "System role", "system role", "Only user and assistant roles"),
}
#: Fields for decoding without the defaults of the model or the server, per kind of server.
_PLAIN_DECODING: dict[ServerKind, dict[str, Any]] = {
    "plain": {},
    "vllm": {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "sglang": {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "llamacpp": {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRequest:
    """A request as it is sent to a server."""

    body: dict[str, Any]
    #: Names of the parts of the request that can be omitted: fields of the body, or `CONSTRAINT`.
    optional: frozenset[str]
    #: The beginning of the reply that the server should continue; empty for none.
    reply_prefix: str = ""
    #: Form of the constrained reply: ``chain`` for identifiers as plain text, ``json``, or empty for no constraint.
    constraint: str = ""
    #: Number of tokens for thoughts, which the limit of the reply includes.
    room: int = 0


@dataclass(slots=True, kw_only=True)
class Dialect:
    """A server's description of itself, and what its replies have shown: the request format that it understands."""

    kind: ServerKind
    model: str  # name of the model on the server
    url: str = ""
    models: tuple[str, ...] = ()  # names of all models on the server
    #: Maximum number of tokens of prompt and reply together for the model in use; None if not stated.
    context_size: int | None = None
    #: Fields that the server has refused so far, or that its provider lacks.
    refused: set[str] = field(default_factory=set)
    #: Further fields of requests for log-probabilities.
    scoring: Mapping[str, Any] = field(default_factory=dict)
    #: Whether the model is known to think although it was not asked to, by its name or its replies.
    thinks: bool = False
    #: Maximum number of tokens for thoughts that the user did not ask for; 0 once the server has refused them.
    most_room: int = MORE_ROOM
    _has_warned_of_thoughts: bool = False
    _has_warned_of_model: bool = False

    @property
    def continues(self) -> bool:
        """Whether the server can continue a reply whose beginning is given as a final assistant turn."""
        return self.kind != "plain"

    def build_request(self, request: Request, *, has_more_room: bool = False) -> ServerRequest:
        """Convert a request to the form that the server expects.

        The beginning of the reply is dropped if the server cannot continue it, or if a constraint includes it. The
        thoughts of a model that thinks unasked get `ROOM`, or `MORE_ROOM`, within the context that the server states.
        """
        prompt, task = request.prompt, request.task
        constrained = isinstance(task, PermutationTask) and CONSTRAINT not in self.refused
        prefix = reply_prefix_of_prompt(prompt) if self.continues and not constrained else ""
        scores = isinstance(task, ContinuationTask)
        # With thinking, the log-probabilities of the first token would belong to a thought, not to the answer.
        sampling = replace(request.sampling, thinking=0) if scores else request.sampling
        fields: dict[str, Any] = {"temperature": sampling.temperature}
        if sampling.temperature > 0:
            fields |= {"top_p": sampling.top_p, "seed": sampling.seed}
        if self.kind != "plain":
            fields["chat_template_kwargs"] = {"enable_thinking": sampling.thinking > 0}
        fields |= _PLAIN_DECODING[self.kind]
        if sampling.min_tokens and self.kind in ("vllm", "sglang"):
            fields["min_tokens"] = sampling.min_tokens
        optional = {key: value for key, value in fields.items() if key not in self.refused}
        end = len(prompt) - (prompt[-1].role == "assistant" and not prefix)
        turns = [{"role": "user" if t.role == "text" else t.role, "content": t.content} for t in prompt[:end]]
        has_system = [turn["role"] for turn in turns[:2]] == ["system", "user"]
        if has_system and SYSTEM in self.refused:
            turns[:2] = [{"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}]
        body = {"model": self.model, "messages": turns, **optional}
        max_tokens, form = sampling.max_tokens, ""
        if scores:
            max_tokens = 1
            body |= {"logprobs": True, "top_logprobs": TOP_LLAMACPP if self.kind == "llamacpp" else TOP}
            body |= self.scoring
        if prefix and self.kind in ("vllm", "sglang"):
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if isinstance(task, PermutationTask) and constrained:
            constraint, form = constraint_fields(self.kind, task)
            body |= constraint
            max_tokens *= _JSON_FACTOR if form == "json" else 1
        if not (room := sampling.thinking) and not scores and (self.thinks or has_more_room):
            room = min(self.most_room, MORE_ROOM if has_more_room else ROOM)
            if self.context_size:
                room = min(room, max(0, self.context_size - token_estimate.estimate_prompt(prompt) - max_tokens))
        body["max_completion_tokens" if "max_tokens" in self.refused else "max_tokens"] = max_tokens + room
        omittable = {*optional, *[CONSTRAINT] * bool(form), *[SYSTEM] * (has_system and SYSTEM not in self.refused)}
        return ServerRequest(body=body, optional=frozenset(omittable), reply_prefix=prefix, constraint=form, room=room)

    def omit_refused_field(self, sent: ServerRequest, error: RequestRejectedError) -> bool:
        """If a refused field can be omitted, warn and omit it from now on; return whether it can be omitted."""
        name, message = "", str(error)
        if error.status in (400, 422):
            if "max_completion_tokens" in message and "max_completion_tokens" not in sent.body:
                name = "max_tokens"
            else:
                named = error.field.partition(".")[0]  # else the field is looked for in the message

                def is_meant(optional: str) -> bool:
                    words = (optional, *_ALIASES.get(optional, ()))
                    return named in words or (not named and any(re.search(rf"\b{word}\b", message) for word in words))

                # In reverse, so that top_p is omitted if a server accepts either it or the temperature.
                name = next(filter(is_meant, sorted(sent.optional, reverse=True)), "")
        if name and name not in self.refused:
            self.refused.add(name)
            now = "now part of the user's turn" if name == SYSTEM else "which is now omitted"
            if name != "max_tokens":  # the limit is then sent under its other name
                warnings.warn(f"The server refuses the field {name!r}, {now}: {error}", stacklevel=2)
        return bool(name)

    def refuses_room(self, sent: ServerRequest, request: Request, error: RequestRejectedError) -> bool:
        """Return whether a server refuses the limit of a reply, which is then sent without room for thoughts."""
        is_refused = (
            sent.room > request.sampling.thinking
            and error.status in (400, 422)
            and re.search(r"max_(completion_)?tokens|context (length|window|size)|maximum context", str(error))
            is not None
        )
        if is_refused:
            self.most_room = 0
        return is_refused

    @staticmethod
    def is_without_room(error: RequestRejectedError) -> bool:
        """Return whether an error, which Azure sends instead of a reply, says that thoughts used up the limit."""
        return error.status == 400 and "output limit was reached" in str(error)

    def check_reply(self, sent: ServerRequest, request: Request, reply: Reply) -> None:
        """Warn if another model answered, the constraint was silently ignored, or thoughts used up all tokens."""
        if not self._has_warned_of_model and not is_same_model(self.model, reply.served_model):
            self._has_warned_of_model = True
            warnings.warn(
                f"The model {self.model!r} was requested, but {reply.served_model!r} answered; "
                "summary.json counts the replies of each model",
                stacklevel=2,
            )
        if (
            sent.constraint
            and CONSTRAINT not in self.refused
            and isinstance(request.task, PermutationTask)
            and reply.finish == "stop"
            and reply.text
            and not re.fullmatch(permutation_pattern(request.task), reply.text.strip())
        ):
            self.refused.add(CONSTRAINT)
            warnings.warn(
                "The server ignores the constraint that replies contain identifiers only; replies are now generated "
                f"freely and repaired: {reply.text[:60]!r}",
                stacklevel=2,
            )
        if not self._has_warned_of_thoughts and "--thinking-tokens" in reply.error:
            self._has_warned_of_thoughts = True
            warnings.warn(reply.error, stacklevel=2)

    def unknown_model(self, message: str) -> BackendError:
        """Return the error for a model or a path that does not exist on the server, given the server's message."""
        if "requested parameters" in message:  # OpenRouter, if no provider of the model has all of `scoring`
            return BackendError(message, remedy="Use another model, or a method that generates text: --method sliding")
        if not self.models:
            remedy = "Check --base-url, which usually ends with /v1; then check the model's name"
            return BackendError(message, remedy=remedy)
        more = f" and {len(self.models) - _SHOWN} more" if len(self.models) > _SHOWN else ""
        return BackendError(
            f"Model {self.model!r}: {message}",
            expected=f"one of: {', '.join(self.models[:_SHOWN])}{more}",
            remedy="Use --model openai:NAME",
        )


def constraint_fields(kind: ServerKind, task: PermutationTask) -> tuple[dict[str, Any], str]:
    """Return the fields that restrict a reply to ``task.count`` identifiers, and the form of the reply.

    Repeated identifiers cannot be excluded: a regular expression or grammar for all permutations doubles in size with
    every identifier, and servers refuse ``uniqueItems`` in a JSON schema. The parser drops repetitions.
    """
    if kind == "llamacpp":
        items = " | ".join(map(json.dumps, task.items))
        more = f" ({json.dumps(task.separator)} item){{{task.count - 1}}}" if task.count > 1 else ""
        return {"grammar": f"root ::= item{more}\nitem ::= {items}"}, "chain"
    if kind in ("vllm", "sglang"):
        regex = permutation_pattern(task)
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


def permutation_pattern(task: PermutationTask) -> str:
    """Return a regular expression for ``task.count`` identifiers with separators between them."""
    item = f"({'|'.join(map(re.escape, task.items))})"
    # Not every server accepts escaped spaces, commas, dashes and ``>``.
    separator = "".join(char if char in " >,-" else re.escape(char) for char in task.separator)
    return item + (f"({separator}{item}){{{task.count - 1}}}" if task.count > 1 else "")


def is_same_model(requested: str, answered: str) -> bool:
    """Return whether the model that answered is the requested model; true if ``answered`` is empty.

    Servers may add a date or a number to an alias, and may omit the organisation or add a folder or a gateway. Servers
    of a single file, such as llama.cpp's, state the name of the file whatever name was requested.

    >>> is_same_model("gpt-4o", "gpt-4o-2024-08-06"), is_same_model("gpt-4o", "gpt-4o-mini")
    (True, False)
    """
    names = [name.lower().rpartition("/")[2] for name in (requested, answered)]
    if not answered or names[1].endswith(".gguf"):
        return True
    return re.fullmatch(re.escape(names[0]) + r"([-@:.]\d[\d.-]*)?", names[1]) is not None


async def inspect_server(connection: ServerConnection, model: str, recipe: Recipe) -> Dialect:
    """Request a server's list of models, and derive its kind and context size; a server without one is plain."""
    attempts = Attempts(connection)
    plain = Dialect(kind="plain", model=model, url=connection.address.url, thinks=thinks_by_default(model))
    plain.refused, plain.scoring = set(recipe.lacks), recipe.scoring
    try:
        rows = await connection.ask("/models", read=_model_rows, attempts=attempts)
    except (RequestRejectedError, KeyRejectedError):  # some keys may be used for chats only
        return plain
    except RequestFailedError as error:
        if not attempts.is_silent and (connection.has_other_server is None or await connection.is_up()):
            return plain
        remedy = f"Start the server at {connection.address.url}, or set another address with --base-url"
        raise attempts.unavailable(error, remedy) from error
    owners = (name_in(row.get("owned_by")) for row in rows)
    kind: ServerKind = next((_KINDS[owner] for owner in owners if owner in _KINDS), "plain")
    by_id = {name: row for row in rows if (name := name_in(row.get("id")))}
    own = by_id.get(model, rows[0] if len(rows) == 1 else {})
    size = _context_size(own) or _context_size(by_id.get(name_in(own.get("parent")), {}))
    if kind == "llamacpp" and size is None:  # older versions state the context size per request only in ``/props``
        with suppress(RequestFailedError, RequestRejectedError):
            props = await connection.ask(f"{connection.address.root}/props", read=lambda answer: answer.body)
            size = count_in(object_in(props.get("default_generation_settings")).get("n_ctx")) or None
    # Other kinds of servers switch thinking off on request.
    return replace(plain, kind=kind, models=tuple(by_id), context_size=size, thinks=plain.thinks and kind == "plain")


def _model_rows(answer: ServerResponse) -> list[dict[str, Any]]:
    if not answer.body:
        raise RequestFailedError(f"The list of models is not a JSON object: {describe_content(answer.text)}")
    rows = answer.body.get("data")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _context_size(row: dict[str, Any]) -> int | None:
    """Return the size that vLLM and SGLang, some gateways, and llama.cpp state in a model's description, if any."""
    sizes = (row.get("max_model_len"), row.get("context_length"), object_in(row.get("meta")).get("n_ctx"))
    return next(filter(None, map(count_in, sizes)), None)


# Replies. A response that cannot be parsed becomes a reply without text, so that the ranking parser never gets it.

_ENDS: Mapping[str, Finish] = {"length": "length", "max_tokens": "length", "content_filter": "refused"}
_OPEN, _CLOSE = "<think>", "</think>"
#: Remedy for replies that are unusable because of the server's settings, but are committed like all other replies.
_ASK_AGAIN = "use a new --out or --overwrite, since --resume keeps this reply"
_QUOTED = re.compile(r'"[^"\\\x00-\x1f]*"')
#: Lower bound for log-probabilities. Servers represent minus infinity in several ways, but sums need finite numbers.
_LEAST = -1e4


class _UnreadableReplyError(Exception):
    """Raised if a response contains no usable reply; if it has no content at all, another attempt may succeed."""

    def __init__(self, reason: str, *, has_content: bool = True) -> None:
        super().__init__(reason)
        self.has_content = has_content


@dataclass(frozen=True, slots=True)
class ParsedReply:
    """A reply, without its seconds and retries, and what the response shows besides it."""

    reply: Reply
    has_content: bool = True
    #: Whether the model thought before its answer.
    thinks: bool = False
    #: Whether thoughts used up tokens of the answer, which is therefore missing or truncated.
    lacks_room: bool = False


def parse_reply(answer: ServerResponse, request: Request, sent: ServerRequest) -> ParsedReply:
    """Convert a response to a reply.

    Every complete response has been billed and therefore becomes a reply. If the response cannot be parsed, the
    text of the reply is empty and ``error`` states the reason.
    """
    body = answer.body
    if body.get("error") and not body.get("choices"):
        raise RequestFailedError(f"The server responded with an error: {answer.text}")
    usage = object_in(body.get("usage"))
    cached = count_in(object_in(usage.get("prompt_tokens_details")).get("cached_tokens"))
    tokens_in = count_in(usage.get("prompt_tokens"))
    tokens_out, thought_tokens = _completion_tokens(usage, tokens_in, cached)
    reply = Reply(
        tokens_in=tokens_in or token_estimate.estimate_prompt(request.prompt),  # if the server states no count
        tokens_out=tokens_out,
        tokens_cached=cached,
        served_model=name_in(body.get("model")),
        fingerprint=name_in(body.get("system_fingerprint")),
    )
    try:
        choice = _choice(answer)
        processed, words = tokens_in + cached, token_estimate.lower_bound(request.prompt)
        if 0 < processed < words // 2:  # with cached tokens, since some servers count them separately
            raise _UnreadableReplyError(
                f"The server processed {processed} tokens of a prompt of {words} words, so it truncated the prompt; "
                "increase its context size (Ollama: OLLAMA_CONTEXT_LENGTH), or set --context-size to its current size; "
                f"then {_ASK_AGAIN}"
            )
        reply = _add_content(reply, choice, request, sent)
    except _UnreadableReplyError as error:
        return ParsedReply(replace(reply, error=shorten(str(error))), has_content=error.has_content)
    if isinstance(request.task, ContinuationTask) or reply.finish not in ("length", "stop"):
        return ParsedReply(reply, thinks=bool(thought_tokens or reply.thoughts))
    return _check_thoughts(reply, thought_tokens, sent)


def _check_thoughts(reply: Reply, thought_tokens: int, sent: ServerRequest) -> ParsedReply:
    """Return a generated reply, with an error if it has no answer after its thoughts."""
    thinks, is_cut = bool(thought_tokens or reply.thoughts), reply.finish == "length"
    if reply.text.strip() or (reply.text and not thinks):  # white space alone is no sign of thoughts
        return ParsedReply(reply, thinks=thinks, lacks_room=is_cut and thought_tokens > sent.room)
    limit = sent.body.get("max_tokens") or sent.body.get("max_completion_tokens")
    found = f"used its limit of {limit} tokens{'' if thinks else ', probably'} for thoughts and gave no answer"
    more = f"more than {sent.room}" if sent.room else f"a number such as {ROOM}"
    error = f"The model {found if is_cut else 'ended its reply without an answer after its thoughts'}"
    reply = replace(reply, error=f"{error}; set --thinking-tokens to {more}, or use a model that does not think")
    return ParsedReply(reply, thinks=thinks, lacks_room=True)


def _completion_tokens(usage: Mapping[str, Any], tokens_in: int, cached: int) -> tuple[int, int]:
    """Return the number of completion tokens, including thoughts, and how many of them the server states as thoughts.

    OpenAI counts thoughts among the completion tokens. xAI counts them beside these, and Gemini's interface only in the
    total.
    """
    completion, total = count_in(usage.get("completion_tokens")), count_in(usage.get("total_tokens"))
    thoughts = count_in(object_in(usage.get("completion_tokens_details")).get("reasoning_tokens"))
    beside = max(0, total - tokens_in - completion) if tokens_in else 0
    if thoughts and beside != thoughts:
        return max(completion, thoughts), thoughts
    if not thoughts and beside in (0, cached):  # some servers count cached tokens separately
        return completion, 0
    return completion + beside, beside


def _choice(answer: ServerResponse) -> dict[str, Any]:
    if answer.unreadable:
        raise _UnreadableReplyError(answer.unreadable)
    choices = answer.body.get("choices")
    if isinstance(choices, list) and len(choices) > 1:
        raise _UnreadableReplyError(f"The answer contains {len(choices)} choices instead of one")
    choice = object_in(choices[0]) if isinstance(choices, list) and choices else {}
    if not object_in(choice.get("message")):
        found = describe_content(answer.text)
        raise _UnreadableReplyError(f"The answer contains no message: {found}", has_content=False)
    return choice


def _add_content(reply: Reply, choice: Mapping[str, Any], request: Request, sent: ServerRequest) -> Reply:
    message = object_in(choice.get("message"))
    finish: Finish = "refused" if message.get("refusal") else _ENDS.get(name_in(choice.get("finish_reason")), "stop")
    text, thoughts = _split_thoughts(message)
    tokens = reply.tokens_out or sum(map(token_estimate.estimate_text, (text, thoughts)))
    most = request.sampling.max_tokens * (_JSON_FACTOR if sent.constraint == "json" else 1)
    if finish == "stop" and not _text(message.get("content")).strip() and tokens <= most:
        # A reply that ends within the tokens of the answer is the answer. Servers take it for thoughts if the end of
        # the thoughts is missing, as when thinking is switched off (github.com/vllm-project/vllm, issue 30139).
        text, thoughts = thoughts, ""
    if isinstance(request.task, ContinuationTask):
        scores = () if finish == "refused" else _scores(choice, request.task)
        # A single token was requested, so the reply is not truncated.
        return replace(reply, scores=scores, thoughts=thoughts, finish="refused" if finish == "refused" else "stop")
    if finish == "stop" and not text and not thoughts:
        raise _UnreadableReplyError("The reply has no content", has_content=False)
    if sent.reply_prefix and text and not text.startswith(sent.reply_prefix):
        text = sent.reply_prefix + text  # llama.cpp repeats the prefix, vLLM does not
    elif sent.constraint == "json" and isinstance(request.task, PermutationTask):
        text = _permutation_in_json(text, request.task)
    return replace(reply, text=text, thoughts=thoughts, tokens_out=tokens, finish=finish)


def _split_thoughts(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return the answer and the thoughts, which are in a separate field or precede the answer."""
    text = _text(message.get("content"))
    separate = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
    head, closed, answer = text.partition(_CLOSE)
    if closed or head.lstrip().startswith(_OPEN):  # if not closed, the thoughts are unfinished
        return answer.lstrip(), separate or head.lstrip().removeprefix(_OPEN).strip()
    return text, separate


def _text(content: Any) -> str:
    """Return the content of a message as text; it may be a text, or a list of parts, whose texts are concatenated."""
    if isinstance(content, list):
        return "".join(_text(object_in(part).get("text")) for part in content)
    return content if isinstance(content, str) else ""


def _permutation_in_json(text: str, task: PermutationTask) -> str:
    """Convert a JSON reply, up to the last complete identifier if truncated, to the text of a permutation."""
    order = decode_json_object(text).get("order")
    if isinstance(order, list) and order:
        return task.separator.join(str(item) for item in order if isinstance(item, str | int))
    if not text.lstrip().startswith("{"):
        return text
    strings = [quoted[1:-1] for quoted in _QUOTED.findall(text)]
    return task.separator.join(item for item in strings if item in task.items) or text


def _scores(choice: Mapping[str, Any], task: ContinuationTask) -> tuple[float, ...]:
    """Return one log-probability per continuation.

    A server lists only the most likely tokens. A continuation that is not listed gets the lowest listed value, an
    upper bound of its log-probability. Likely continuations can thus be distinguished, while unlikely continuations
    tie.
    """
    try:
        rows = choice["logprobs"]["content"][0]["top_logprobs"]
        # In ascending order, so that the most likely of several tokens with the same text is kept.
        listed = {name_in(row["token"]): float(row["logprob"]) for row in reversed(rows)}
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise _UnreadableReplyError(
            "The server returns no log-probabilities (logprobs), which this method needs; use a method that generates "
            f"text, or run the model through transformers: --model hf:NAME; if the server can return them, {_ASK_AGAIN}"
        ) from error
    if not listed or any(math.isnan(value) or value > 1e-3 for value in listed.values()):
        raise _UnreadableReplyError(f"Log-probabilities are missing, NaN or positive: {listed}")
    listed = {token: max(value, _LEAST) for token, value in listed.items()}
    scores = [_log_probability(text, listed) for text in task.continuations]
    if all(score is None for score in scores):
        top = ", ".join(map(repr, sorted(listed, key=listed.__getitem__, reverse=True)[:5]))
        raise _UnreadableReplyError(
            f"None of {error_repr(list(task.continuations))} is among the {len(listed)} most likely first tokens "
            f"that the server lists ({top} ...); servers return log-probabilities of single tokens only. Use a method "
            "that generates text, or run the model through transformers: --model hf:NAME"
        )
    floor = min(listed.values())
    return tuple(floor if score is None else score for score in scores)


def _log_probability(text: str, listed: Mapping[str, float]) -> float | None:
    """Return the log-probability of ``text``, or of all tokens together that differ only in whitespace."""
    if text in listed:
        return listed[text]
    matching = [value for token, value in listed.items() if token.strip() == text.strip() != ""]
    return math.log(sum(map(math.exp, matching))) if matching and sum(map(math.exp, matching)) > 0 else None
