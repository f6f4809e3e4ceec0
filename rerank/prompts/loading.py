"""A YAML file -> a `PromptTemplate`. Reads rank_llm's keys beside our own; knows nothing of rendering."""

from __future__ import annotations

import re
from typing import Any, cast

from rerank.errors import DataError, UnknownNameError
from rerank.prompts.sections import Syntax
from rerank.prompts.template import METHODS, Example, Method, PromptTemplate

#: Key in the file -> field of the template. The keys with ``_user`` are rank_llm's for chats of many turns.
_SECTIONS = {
    "system_message": "system",
    "prefix": "prefix",
    "prefix_user": "prefix",
    "prefix_assistant": "prefix_assistant",
    "body": "body",
    "body_user": "body",
    "body_assistant": "body_assistant",
    "suffix": "suffix",
    "suffix_user": "suffix",
}
#: rank_llm's rules for reading replies. Ours reads any reply, so they are accepted and have no effect.
_WITHOUT_EFFECT = ("output_validation_regex", "output_extraction_regex", "output_pattern", "output_patterns")
_KEYS = (
    "method",
    "description",
    "template",
    "escape_brackets",
    "reply_prefix",
    "examples",
    "shows",
    *_SECTIONS,
    *_WITHOUT_EFFECT,
)
_JINJA = re.compile(r"\{%|\{\{-?\s*(?:query|num|rank|candidate|score|psg_ids|passages|loop)\b")


def template_from_yaml(text: str, name: str) -> PromptTemplate:
    """Read a prompt file's text.

    Args:
        text: YAML: a mapping of the keys that docs/prompts.md lists.
        name: What to call the prompt in messages.

    Raises:
        DataError: No YAML, no mapping, a value of a wrong kind, a method that is not listwise.
        UnknownNameError: An unknown key or placeholder; the message suggests the nearest.
    """
    table = _mapping(text, name)
    for key in table:
        if key not in _KEYS:
            raise UnknownNameError(f"key in prompt {name!r}:", str(key), _KEYS)
    sections: dict[str, str] = {}
    for key, section in _SECTIONS.items():
        if table.get(key) is None:
            continue
        if section in sections:
            raise DataError(f"Prompt {name!r} has both {section!r} and {key!r}", expected="one of them")
        if not isinstance(table[key], str):
            raise _wrong(name, key, table[key], "text")
        sections[section] = table[key]
    reply_prefix = table.get("reply_prefix", "")
    if not isinstance(reply_prefix, str):
        raise _wrong(name, "reply_prefix", reply_prefix, "text")
    escape = table.get("escape_brackets", True)
    if not isinstance(escape, bool):
        raise _wrong(name, "escape_brackets", escape, "true or false")
    shows = table.get("shows", "text")
    if shows not in ("text", "pictures"):
        raise _wrong(name, "shows", shows, "'text' or 'pictures'")
    return PromptTemplate(
        name=name,
        method=_method(table, name),
        syntax=_syntax(table, name, sections),
        escape_brackets=escape,
        reply_prefix=reply_prefix,
        pictures=shows == "pictures",
        examples=_examples(table, name),
        **sections,
    )


def _mapping(text: str, name: str) -> dict[Any, Any]:
    import yaml

    try:
        table = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"Prompt {name!r} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(table, dict):
        raise DataError(f"Prompt {name!r} holds a {type(table).__name__}", expected="a mapping of keys to texts")
    return table


def _method(table: dict[Any, Any], name: str) -> Method:
    method = table.get("method", "listwise")
    if method not in METHODS:
        raise _wrong(name, "method", method, f"one of: {', '.join(METHODS)}")
    return cast(Method, method)


def _examples(table: dict[Any, Any], name: str) -> tuple[Example, ...]:
    rows = table.get("examples") or []
    try:
        parts = [(str(row["query"]), tuple(map(str, row["passages"])), tuple(map(int, row["order"]))) for row in rows]
    except (TypeError, KeyError, ValueError) as error:
        raise _wrong(name, "examples", rows, "a list of mappings with query, passages and order") from error
    return tuple(Example(query=query, passages=passages, order=order) for query, passages, order in parts)


def _syntax(table: dict[Any, Any], name: str, sections: dict[str, str]) -> Syntax:
    """What the key ``template`` says; without it, Jinja where a section holds ``{%`` or ``{{ query`` and the like."""
    syntax = table.get("template")
    if syntax is None:
        return "jinja" if any(_JINJA.search(text) for text in sections.values()) else "braces"
    if syntax not in ("braces", "jinja"):
        raise _wrong(name, "template", syntax, "'braces' or 'jinja'")
    return cast(Syntax, syntax)


def _wrong(name: str, key: str, value: object, expected: str) -> DataError:
    return DataError(f"Key {key!r} of prompt {name!r} is {value!r}", expected=expected)
