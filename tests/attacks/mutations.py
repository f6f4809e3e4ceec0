"""Seeded mutations of files: damaged bytes, odd values in otherwise valid text, and deep or long structures."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

#: Values that readers of numbers, texts and structures stumble over, as JSON, TOML, YAML or columns.
_ODD = (
    *(b"null", b"true", b"-1", b"0", b"1e999", b"-0.0", b"nan", b"inf", b"NaN", b"1_000", b"99999999999999999999"),
    *(b"9" * 5000, b"1." + b"0" * 400, b'""', b'"\\ud83d"', b'"\\u0000"', b"[]", b"{}", b"[[]]", b'{"a": {}}', b"''"),
    *(b"[" * 20_000, b'{"a":' * 20_000, b"(" * 20_000, b"{{" * 200, b"{%", b"a" * 300, b"../" * 30, b"\\", b"\t"),
    *(b"\0", b"\xff\xfe", b"\xed\xa0\xbd", b"\xef\xbb\xbf", b"\r", b"\n" * 1000, b"\xc2\x85", b"\xe2\x80\xa8", b"="),
    *(b"1979-05-27T07:32:00Z", b"0x10", b"~", b"|", b"&a *a", b"!!python/object:os.system", b"<", b">", b"<!--"),
)
_TOKEN = re.compile(rb'"(?:[^"\\\n]|\\.)*"|-?\d+(?:\.\d+)?|[\w.-]+')
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**400, 1e308, float("nan"), float("inf"), "", "\ud83d", "\0", "a" * 300, "../../x", "1"),
    *([], {}, [[]], [None], {"": None}, [{}], {"a": 1}, [1, "a"]),
)


def mutate(seed: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a file after one to three random changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        seed = rng.choice(_CHANGES)(seed, rng)
    return seed


def _cut(seed: bytes, rng: random.Random) -> bytes:
    return seed[: rng.randrange(len(seed) + 1)]


def _flip_bytes(seed: bytes, rng: random.Random) -> bytes:
    changed = bytearray(seed)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _move_slice(seed: bytes, rng: random.Random) -> bytes:
    """Delete, double or move a part."""
    start, end = sorted((rng.randrange(len(seed) + 1), rng.randrange(len(seed) + 1)))
    target = rng.randrange(len(seed) + 1)
    return rng.choice(
        (seed[:start] + seed[end:], seed[:end] + seed[start:], seed[:target] + seed[start:end] + seed[target:])
    )


def _insert_odd(seed: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(seed) + 1)
    return seed[:position] + rng.choice(_ODD) + seed[position:]


def _replace_token(seed: bytes, rng: random.Random) -> bytes:
    tokens = list(_TOKEN.finditer(seed))
    if not tokens:
        return _insert_odd(seed, rng)
    token = rng.choice(tokens)
    return seed[: token.start()] + rng.choice(_ODD) + seed[token.end() :]


def _replace_line(seed: bytes, rng: random.Random) -> bytes:
    lines = seed.split(b"\n")
    lines[rng.randrange(len(lines))] = rng.choice((b"", rng.choice(_ODD), rng.choice(lines)))
    return b"\n".join(lines)


def _replace_json_value(seed: bytes, rng: random.Random) -> bytes:
    """Replace a value in JSON, or in a line of JSON, by one of another type."""
    try:
        return _dump(_with_odd_value(json.loads(seed), rng))
    except (ValueError, RecursionError):
        pass
    lines = seed.split(b"\n")
    number = rng.randrange(len(lines))
    try:
        lines[number] = _dump(_with_odd_value(json.loads(lines[number]), rng))
    except (ValueError, RecursionError):
        return _replace_token(seed, rng)
    return b"\n".join(lines)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _with_odd_value(value: Any, rng: random.Random) -> Any:
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        if isinstance(value, dict) and rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        value[key] = _with_odd_value(value[key], rng)
        return value
    return rng.choice(_ODD_VALUES)


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_cut, _flip_bytes, _move_slice, _insert_odd, _replace_line),
    *(_replace_token, _replace_token, _replace_json_value, _replace_json_value, _replace_json_value),
)
