"""The ways in which a hostile server answers; `test_hostile_server.py` runs the command against each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from gzip import compress as _gzipped
from typing import Any, Literal

from tests.backends.faulty_server import Act, error, models, raw, said

#: What becomes of a request that is answered in this way. ``read``: the reply is read. ``empty``: a reply arrived and
#: cannot be read. ``refused``: the model declined. ``error``: no reply arrived. ``ends``: the run ends, and goes on
#: when it is resumed.
Outcome = Literal["read", "empty", "refused", "error", "ends"]

TEXT = "[3] > [1] > [2]"
FINE = said(TEXT)
DEEP = 5000
#: Largest response that the command reads in these tests.
MAX_BYTES = 2 << 20


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A way to answer, and what has to become of the request.

    Attributes:
        act: The answer.
        outcome: What becomes of the request.
        flags: Additional flags of the command.
    """

    act: Act
    outcome: Outcome
    flags: tuple[str, ...] = ()


def _completion(**parts: Any) -> Act:
    """A proper answer with some parts replaced; a part that is Ellipsis is omitted."""
    body = {**json.loads(FINE.body), **parts}
    return raw({key: value for key, value in body.items() if value is not ...})


def _message(**parts: Any) -> Act:
    message = {"role": "assistant", "content": TEXT, **parts}
    return _completion(choices=[{"message": message, "finish_reason": "stop"}])


def _usage(**parts: Any) -> Act:
    return _completion(usage={"prompt_tokens": 50, "completion_tokens": 7, **parts})


def _literal(**parts: str) -> Act:
    """A proper answer in which JSON is inserted that the json module would not write."""
    text = FINE.body.decode()
    for key, value in parts.items():
        text = text.replace(*{"text": (json.dumps(TEXT), value), "tokens": ("50", value)}[key])
    return Act(body=text.encode())


def _headers(**headers: str) -> Act:
    return replace(FINE, headers={name.replace("_", "-"): value for name, value in headers.items()})


def _wire(*parts: bytes, **more: Any) -> Act:
    return Act(wire=parts, **more)


def _nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


_CHOICE = json.loads(FINE.body)["choices"][0]
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_WHOLE = _HEAD + b"Content-Length: %d\r\n\r\n" % len(FINE.body) + FINE.body
_CHUNK = b"%x\r\n%s\r\n" % (len(FINE.body), FINE.body)
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_SSE = b'data: {"choices": [{"delta": {"content": "[1]"}}]}\n\ndata: [DONE]\n\n'
_GZIP = {"Content-Encoding": "gzip"}
_PLAIN = ("--retries", "1")
#: No slow server is waited for longer.
_SOON = ("--retries", "0", "--timeout", "0.25")

_TEXTS: Mapping[str, Act] = {
    "half a surrogate pair": _message(content="\ud83d [3] > [1] > [2]"),
    "all surrogates in thoughts": _message(reasoning_content="".join(map(chr, range(0xD800, 0xE000)))),
    "control characters": _message(content="\x00\x1b[2J\x9b[3] > [1] > [2]\x07"),
    "bidi and tags": _message(content="\u202e[3] > [1] > [2]\u2066\U000e0041"),
    "a long line of brackets": _message(content="[" * 50_000 + TEXT),
    "a long line of words": _message(content="word " * 50_000 + TEXT),
    "identifiers of 5,000 digits": _message(content=f"[{'9' * 5000}] > [3] > [1] > [2]"),
    "brackets nested deep": _message(content="[" * 1100),
    "JSON nested deep in text": _message(content=_nested(DEEP).decode()),
    "JSON with an order nested deep": _message(content=f'{{"order": [{_nested(600).decode()}]}}'),
    "JSON of the wrong type": _message(content='{"order": {"a": 1}}'),
    "JSON with nulls": _message(content='{"order": [null, true, 1.5, {}]}'),
    "JSON with a huge number": _message(content='{"order": [' + "9" * 5000 + "]}"),
    "open thoughts": _message(content="<think>" * 2000),
    "a list of parts": _message(content=[{"type": "text", "text": TEXT}, {"type": "image"}, 3, None]),
    "parts nested deep": _message(content=[{"text": json.loads(_nested(600))}]),
    "content that is a number": _message(content=17),
    "content that is an object": _message(content={"text": TEXT}),
    "no text": _message(content=""),
    "null": _message(content=None),
    "a tool call": _message(content=None, tool_calls=[{"type": "function", "function": {"name": "rm"}}]),
    "thoughts of the wrong type": _message(reasoning_content=[1, {"text": 5}], reasoning={"a": []}),
}
_FIELDS: Mapping[str, Act] = {
    "usage above 2^63": _usage(prompt_tokens=2**63, completion_tokens=2**80, prompt_tokens_details={}),
    "usage at the limit": _usage(prompt_tokens=2**63 - 1, completion_tokens=2**63 - 1),
    "usage below 0": _usage(prompt_tokens=-5, completion_tokens=-(2**70)),
    "usage of wrong types": _usage(prompt_tokens="many", completion_tokens=[1], prompt_tokens_details=[]),
    "usage of booleans": _usage(prompt_tokens=True, completion_tokens=False),
    "usage in fractions": _usage(prompt_tokens=1e300, completion_tokens=0.5),
    "usage that is a list": _completion(usage=[1, 2]),
    "no usage": _completion(usage=...),
    "usage that is NaN": _literal(tokens="NaN"),
    "usage that is infinite": _literal(tokens="1e999"),
    "usage of 6,000 digits": _literal(tokens="9" * 6000),
    "another model": _completion(model="another-model-v2"),
    "a model with surrogates": _completion(model="\udc00" * 500, system_fingerprint="\ud800"),
    "a model of the wrong type": _completion(model=["m"], system_fingerprint={"a": 1}),
    "a model name of a megabyte": _completion(model="m" * 1_000_000),
    "finish reason of the wrong type": _completion(choices=[{**_CHOICE, "finish_reason": json.loads(_nested(600))}]),
    "unknown fields nested": _completion(extra=json.loads(_nested(600))),
}
_SHAPES: Mapping[str, Act] = {
    "no choices": _completion(choices=[]),
    "choices missing": _completion(choices=...),
    "choices that are null": _completion(choices=None),
    "choices that are an object": _completion(choices={"0": _CHOICE}),
    "a choice that is null": _completion(choices=[None]),
    "two choices": _completion(choices=[_CHOICE] * 2),
    "a thousand choices": _completion(choices=[_CHOICE] * 1000),
    "a message that is a text": _completion(choices=[{"message": TEXT}]),
    "no message": _completion(choices=[{}]),
    "a choice of text": _completion(choices=[{"text": TEXT}]),
    "a prompt that was truncated": _usage(prompt_tokens=1),
    "an empty object": raw({}),
    "a list": raw([1]),
    "a number": raw(7),
    "too deep to read": Act(body=b'{"choices": ' + _nested(DEEP) + b"}"),
    "only brackets": Act(body=b"[" * DEEP),
    "an empty body": Act(body=b""),
    "no content (204)": _wire(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "HTML": Act(body=b"<html><b>Welcome</b>\x1b[2J</html>", headers={"Content-Type": "text/html"}),
    "a stream of events": Act(body=_SSE, headers={"Content-Type": "text/event-stream"}),
    "half of the JSON": Act(body=FINE.body[:40]),
    "gzip that is truncated": Act(body=_gzipped(FINE.body)[:-20], headers=_GZIP),
    "longer than is read": replace(FINE, body=FINE.body + b" " * MAX_BYTES),
    "gzip that is longer than is read": Act(body=_gzipped(FINE.body + b" " * MAX_BYTES), headers=_GZIP),
    "deflate that is none": Act(body=b"\x00" * 50, headers={"Content-Encoding": "deflate"}),
    "gzip in gzip": Act(body=_gzipped(_gzipped(FINE.body)), headers={"Content-Encoding": "gzip, gzip"}),
    "not UTF-8": Act(body=b"\xff\xfe\x00"),
    "a redirect without a status": replace(
        FINE, status=250, body=b"moved", headers={"Location": "http://other.example"}
    ),
}
_READ: Mapping[str, Act] = {
    "a byte that is not UTF-8": Act(body=FINE.body.replace(b"assistant", b"assi\xfftant")),
    "UTF-16": Act(body=FINE.body.decode().encode("utf-16")),
    "a wrong content type": _headers(Content_Type="image/png"),
    "an unknown charset": _headers(Content_Type="application/json; charset=klingon"),
    "a charset that is no charset": _headers(Content_Type="application/json; charset=hex"),
    "a charset that fails": _headers(Content_Type="application/json; charset=undefined"),
    "gzip": Act(body=_gzipped(FINE.body), headers=_GZIP),
    "deflate that is none": Act(body=b"\x00" * 50, headers={"Content-Encoding": "deflate"}),
    "gzip that is none": replace(FINE, headers=_GZIP),
    "an unknown content encoding": _headers(Content_Encoding="rot13"),
    "a hundred headers": _headers(**{f"X_{n}": "x" * 100 for n in range(90)}),
    "informational responses first": _wire(
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", _WHOLE
    ),
    "in chunks": _wire(_CHUNKED + _CHUNK + b"0\r\n\r\n"),
    "in two parts": _wire(_WHOLE[:-9], _WHOLE[-9:], pause=0.02),
    "two responses": _wire(_WHOLE + _WHOLE),
    "until the connection is closed": _wire(_HEAD + b"Connection: close\r\n\r\n" + FINE.body),
    "another success (201)": replace(FINE, status=201),
}
_BROKEN: Mapping[str, Act] = {
    "closed without a word": Act(close=True),
    "reset without a word": Act(reset=True),
    "reset after the headers": _wire(_HEAD + b"Content-Length: 500\r\n\r\n", reset=True),
    "closed in the body": _wire(_WHOLE[:-9]),
    "a length that is too great": Act(body=FINE.body, headers={"Content-Length": "9999"}),
    "a length that is no number": _wire(_HEAD + b"Content-Length: many\r\n\r\n" + FINE.body),
    "two lengths": _wire(_HEAD + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\n" + FINE.body),
    "a chunk that is too short": _wire(_CHUNKED + b"ffff\r\nabc"),
    "a chunk size that is no number": _wire(_CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n"),
    "chunks without an end": _wire(_CHUNKED + _CHUNK),
    "not HTTP": _wire(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a status that is no number": _wire(b"HTTP/1.1 OK 200\r\n\r\n"),
    "a header without a colon": _wire(b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"),
    "a header of a megabyte": _wire(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 1_000_000 + b"\r\n\r\n"),
    "an error with status 200": raw({"error": {"message": "overloaded \ud83d\x1b[2J", "code": ["a"]}}),
    "an error text with status 200": raw({"error": "overloaded"}),
    "overloaded (503)": error(503, "\ud83d" * 900),
    "a gateway that fails (502)": Act(status=502, body=b"<html>\x00</html>"),
    "an error nested deep (500)": Act(status=500, body=b'{"error": ' + _nested(DEEP) + b"}"),
    "an error of wrong types (500)": raw({"error": {"message": {"a": 1}, "code": {"b": 2}, "param": [3]}}, status=500),
    "an error in a strange charset (500)": Act(status=500, body=b"\xff", headers={"Content-Type": "a; charset=hex"}),
    "a status of our own (999)": Act(status=999, body=b"?"),
    "a bad request (400)": error(400, "temperature and everything else", param="\ud83d"),
    "an invalid request (422)": raw({"detail": [{"loc": ["body"], "msg": "no"}]}, status=422),
    "too many requests (429)": error(429, headers={"Retry-After": "0.01"}),
    "wait for ages": error(429, headers={"Retry-After": "99999999999"}),
    "wait until the year 99999999999": error(429, headers={"Retry-After": "Fri, 27 Nov 99999999999 10:00:00 GMT"}),
    "wait until the year 9999": error(503, headers={"Retry-After": "Fri, 31 Dec 9999 23:59:59 -2359"}),
    "wait for nan": error(429, headers={"Retry-After": "nan"}),
    "wait for infinity": error(429, headers={"Retry-After": "inf"}),
    "wait less than nothing": error(429, headers={"Retry-After": "-1e308"}),
}
_SLOW: Mapping[str, Act] = {
    "never a byte": replace(FINE, wait=30.0),
    "never an end": _wire(_HEAD + b"Content-Length: 500\r\n\r\n", b" ", pause=30.0),
    "a byte at a time": _wire(_HEAD + b"Content-Length: 500\r\n\r\n", *[b" "] * 500, pause=0.05),
    "chunks for ever": _wire(_CHUNKED, *[b"1\r\n \r\n"] * 500, pause=0.05),
}
_ENDING: Mapping[str, Act] = {
    "a refused key (401)": error(401, "who \ud83d"),
    "no credit (402)": error(402),
    "no such model (404)": error(404, "no \x1b[2J"),
    "a redirect (307)": Act(status=307, headers={"Location": "http://elsewhere.example/\x7f"}),
    "a redirect to nowhere (302)": Act(status=302),
    "no credit (429)": error(429, code="insufficient_quota"),
}
_REFUSING: Mapping[str, Act] = {
    "a refusal": _message(content=None, refusal="I cannot \ud83d"),
    "a filter": _completion(choices=[{"message": {"content": ""}, "finish_reason": "content_filter"}]),
    "a filter (400)": error(400, "filtered", code="content_filter"),
}
_EMPTY_TEXTS = (
    "brackets nested deep",
    "JSON nested deep in text",
    "JSON with an order nested deep",
    "JSON of the wrong type",
    "JSON with nulls",
    "JSON with a huge number",
    "open thoughts",
    "parts nested deep",
    "content that is a number",
    "content that is an object",
    "no text",
    "null",
    "a tool call",
)

#: All modes by name.
MODES: Mapping[str, Mode] = {
    **{
        name: Mode(act=act, outcome="empty" if name in _EMPTY_TEXTS else "read", flags=_PLAIN)
        for name, act in _TEXTS.items()
    },
    **{name: Mode(act=act, outcome="read", flags=_PLAIN) for name, act in {**_FIELDS, **_READ}.items()},
    **{name: Mode(act=act, outcome="empty", flags=_PLAIN) for name, act in _SHAPES.items()},
    **{name: Mode(act=act, outcome="error", flags=_PLAIN) for name, act in _BROKEN.items()},
    **{name: Mode(act=act, outcome="error", flags=_SOON) for name, act in _SLOW.items()},
    **{name: Mode(act=act, outcome="ends", flags=_PLAIN) for name, act in _ENDING.items()},
    **{name: Mode(act=act, outcome="refused", flags=_PLAIN) for name, act in _REFUSING.items()},
}
#: Answers to the question for the models of a server, which concern the whole run.
LISTINGS: Mapping[str, Act] = {
    "HTML": Act(body=b"<html>"),
    "nothing": Act(body=b""),
    "nested deep": Act(body=b'{"data": ' + _nested(DEEP) + b"}"),
    "a huge context": models("m", max_model_len=2**80),
    "a context below 0": models("m", max_model_len=-1),
    "a context of true": models("m", max_model_len=True),
    "a context of infinity": Act(body=b'{"data": [{"id": "m", "max_model_len": 1e999}]}'),
    "rows of wrong types": raw({"data": [1, None, {"id": {"a": 1}, "owned_by": ["vllm"], "parent": [2]}]}),
    "a name with surrogates": models("\ud83d", owner="\udc00"),
    "vLLM that is none": models("m", owner="vllm", max_model_len=4096),
    "llama.cpp that is none": models("m", owner="llamacpp"),
    "an error (500)": Act(status=500, body=b"\x00"),
}


def _logprobs(value: Any) -> Act:
    return _completion(choices=[{**_CHOICE, "logprobs": value}])


def _top(*rows: Any) -> Act:
    return _logprobs({"content": [{"token": "A", "logprob": 0.0, "top_logprobs": list(rows)}]})


#: Answers to a request for log-probabilities that contain none that can be used.
SCORES: Mapping[str, Act] = {
    "none": FINE,
    "null": _logprobs(None),
    "a list": _logprobs([1]),
    "no content": _logprobs({"content": []}),
    "no rows": _top(),
    "rows of wrong types": _top(1, None, "A"),
    "not the identifiers": _top({"token": "Z", "logprob": -1}),
    "positive": _top({"token": "A", "logprob": 5}),
    "NaN": _top({"token": "A", "logprob": float("nan")}),
    "infinite": _top({"token": "A", "logprob": float("inf")}),
    "of 400 digits": _top({"token": "A", "logprob": -(10**400)}),
    "texts": _top({"token": "A", "logprob": "likely"}),
    "of a token that is a list": _top({"token": ["A"], "logprob": -1}),
    "of half a character": _top({"token": "\ud83d", "logprob": -1}),
}
