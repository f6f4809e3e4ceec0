"""Load prompts from YAML that uses the keys of this project or of rank_llm."""

from __future__ import annotations

import re
from typing import Any, cast

from rerank.errors import DataError, UnknownNameError
from rerank.prompts.sections import Syntax
from rerank.prompts.template import METHODS, PromptExample, PromptMethod, PromptTemplate

#: Mapping from each key in the file to the section of the template that it sets. rank_llm uses the keys with ``_user``
#: for multi-turn chats.
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
#: rank_llm's settings for parsing replies. They are accepted but have no effect, since this package has its own parser.
_WITHOUT_EFFECT = ("output_validation_regex", "output_extraction_regex", "output_pattern", "output_patterns")
#: Mapping from each key that sets the field with the same name to the type of its value.
_SIMPLE = {
    "escape_brackets": bool,
    "plain_text": bool,
    "verbatim": bool,
    "tokenize_sections": bool,
    "reply_prefix": str,
    "instruction": str,
}
_KEYS = ("method", "description", "template", "examples", "shows", *_SIMPLE, *_SECTIONS, *_WITHOUT_EFFECT)
_JINJA = re.compile(r"\{%|\{\{-?\s*(?:query|num|rank|candidate|score|psg_ids|passages|loop)\b")


def prompt_template_from_yaml(text: str, name: str) -> PromptTemplate:
    """Convert the YAML text of a prompt to a `PromptTemplate`.

    Args:
        text: A YAML mapping with the keys listed in docs/prompts.md.
        name: Name of the prompt.
    """
    table = _prompt_mapping(text, name)
    for key in table:
        if key not in _KEYS:
            raise UnknownNameError(f"key in prompt {name!r}:", str(key), _KEYS)
    sections: dict[str, Any] = {}
    for key, section in _SECTIONS.items():
        if table.get(key) is None:
            continue
        if section in sections:
            raise DataError(f"Prompt {name!r} has both {section!r} and {key!r}", expected="only one of them")
        if not isinstance(table[key], str):
            raise _wrong_prompt_key_error(name, key, table[key], "text")
        sections[section] = table[key]
    shows = table.get("shows", "text")
    if shows not in ("text", "pictures"):
        raise _wrong_prompt_key_error(name, "shows", shows, "'text' or 'pictures'")
    return PromptTemplate(
        name=name,
        method=_prompt_template_method(table, name),
        syntax=_prompt_template_syntax(table, name, sections),
        pictures=shows == "pictures",
        examples=_examples_of_prompt(table, name),
        **_simple_prompt_keys(table, name),
        **sections,
    )


def _simple_prompt_keys(table: dict[Any, Any], name: str) -> dict[str, Any]:
    """Return, after a check, the values of a prompt's keys that set a template field with the same name."""
    values = {key: table[key] for key in _SIMPLE if key in table}
    for key, value in values.items():
        if not isinstance(value, _SIMPLE[key]):
            raise _wrong_prompt_key_error(name, key, value, "text" if _SIMPLE[key] is str else "true or false")
    return values


def _prompt_mapping(text: str, name: str) -> dict[Any, Any]:
    import yaml

    try:
        table = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"Prompt {name!r} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(table, dict):
        raise DataError(
            f"The top level of prompt {name!r} is a {type(table).__name__}", expected="a mapping from keys to values"
        )
    return table


def _prompt_template_method(table: dict[Any, Any], name: str) -> PromptMethod:
    method = table.get("method", "listwise")
    if method not in METHODS:
        raise _wrong_prompt_key_error(name, "method", method, f"one of: {', '.join(METHODS)}")
    return cast(PromptMethod, method)


def _examples_of_prompt(table: dict[Any, Any], name: str) -> tuple[PromptExample, ...]:
    rows = table.get("examples") or []
    try:
        parts = [(str(row["query"]), tuple(map(str, row["passages"])), tuple(map(int, row["order"]))) for row in rows]
    except (TypeError, KeyError, ValueError) as error:
        raise _wrong_prompt_key_error(
            name, "examples", rows, "a list of mappings with query, passages and order"
        ) from error
    return tuple(PromptExample(query=query, passages=passages, order=order) for query, passages, order in parts)


def _prompt_template_syntax(table: dict[Any, Any], name: str, sections: dict[str, str]) -> Syntax:
    """Return the syntax of a prompt: the key ``template`` or, without it, Jinja if a section has any, else braces."""
    syntax = table.get("template")
    if syntax is None:
        return "jinja" if any(_JINJA.search(text) for text in sections.values()) else "braces"
    if syntax not in ("braces", "jinja"):
        raise _wrong_prompt_key_error(name, "template", syntax, "'braces' or 'jinja'")
    return cast(Syntax, syntax)


def _wrong_prompt_key_error(name: str, key: str, value: object, expected: str) -> DataError:
    return DataError(f"Key {key!r} of prompt {name!r} is {value!r}", expected=expected)
