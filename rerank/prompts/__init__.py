"""Prompt templates in YAML, their rendering as chats, and the token budget.

Built-in prompts are loaded by name, other prompts by the path of their file.
"""

import re
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from rerank.errors import DataError, RerankError, UnknownNameError, ensure
from rerank.io.paths import named_path_errors
from rerank.prompts.template import METHODS, PromptExample, PromptTemplate

__all__ = ["PromptTemplate", "load_prompt", "prompt_names", "prompt_text"]

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


def prompt_names() -> list[str]:
    """Return the names of the built-in prompts, sorted."""
    names = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


@named_path_errors()
def prompt_text(name_or_path: str | Path) -> str:
    """Return the YAML text of a prompt.

    A path is a string that ends with .yaml or .yml, contains a slash or is an existing file; others are names of
    built-in prompts. Raises `UnknownNameError` for an unknown name, with similar ones; `MissingResourceError` if the
    file does not exist; and `DataError` if it is not a text file.
    """
    if (name := str(name_or_path)) in prompt_names():
        return (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
    if not (name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name or (name and Path(name).exists())):
        raise UnknownNameError("prompt", name, prompt_names())
    from rerank.io.text_files import open_text_file

    with open_text_file(name_or_path) as file:
        return file.read()


def load_prompt(name_or_path: str | Path) -> PromptTemplate:
    """Load a prompt template from the name of a built-in prompt or a path (`prompt_text`).

    Raises `UnknownNameError` if the name, or a key or placeholder in the prompt, is unknown; `MissingResourceError` if
    the file does not exist; and `DataError` if the file is not a valid prompt, or takes more than 5 seconds or 1 GB.
    """
    from rerank.io.forks import ends_in_child_process

    text, name = prompt_text(name_or_path), Path(name_or_path).stem

    # A loop in a prompt of the user may have no end.
    if str(name_or_path) not in prompt_names():
        if not ends_in_child_process(partial(_render_sample, text, name)):
            raise DataError(
                f"Prompt {name!r} was not rendered within 5 seconds and 1 GB of memory",
                expected="a template whose loops end",
                remedy="Check the loops and the aliases in the file",
            )
        _render_sample(text, name)
    return parse_template(text, name)


def _render_sample(text: str, name: str) -> None:
    """Render a prompt for 20 passages; only limits raise an error, since a prompt for pairs need not fit them."""
    from jinja2 import TemplateRuntimeError

    template = parse_template(text, name)
    try:
        template.render("query", ["passage"] * 20, scores=[0.0] * 20 if template.shows_scores else None)
    except RerankError as error:
        if type(error.__cause__) is TemplateRuntimeError:  # not one of its subclasses, such as undefined variables
            raise


def parse_template(text: str, name: str) -> PromptTemplate:
    """Convert the YAML text of a prompt, a mapping with the keys listed in docs/prompts.md, to a `PromptTemplate`."""
    import yaml

    try:
        table = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"Prompt {name!r} is not valid YAML: {' '.join(str(error).split())}") from error
    ensure(
        isinstance(table, dict),
        f"The top level of prompt {name!r} is a {type(table).__name__}",
        expected="a mapping from keys to values",
        error=DataError,
    )

    def wrong(key: str, expected: str) -> DataError:
        return DataError(f"Key {key!r} of prompt {name!r} is {table[key]!r}", expected=expected)

    for key in table:
        if key not in _KEYS:
            raise UnknownNameError(f"key in prompt {name!r}:", str(key), _KEYS)
    fields: dict[str, Any] = {}
    for key, section in _SECTIONS.items():
        if table.get(key) is None:
            continue
        if section in fields:
            raise DataError(f"Prompt {name!r} has both {section!r} and {key!r}", expected="only one of them")
        if not isinstance(table[key], str):
            raise wrong(key, "text")
        fields[section] = table[key]
    # Without the key ``template``, the syntax is Jinja if a section has any.
    syntax: Any = "jinja" if any(map(_JINJA.search, fields.values())) else "braces"
    if table.get("template") is not None and (syntax := table["template"]) not in ("braces", "jinja"):
        raise wrong("template", "'braces' or 'jinja'")
    for key, kind in _SIMPLE.items():
        if key in table and not isinstance(table[key], kind):
            raise wrong(key, "text" if kind is str else "true or false")
        if key in table:
            fields[key] = table[key]
    if (shows := table.get("shows", "text")) not in ("text", "pictures", "both"):
        raise wrong("shows", "'text', 'pictures' or 'both'")
    if table.get("method", "listwise") not in METHODS:
        raise wrong("method", f"one of: {', '.join(METHODS)}")
    try:
        if any(row.keys() - {"query", "passages", "order"} for row in table.get("examples") or []):
            raise ValueError("unknown keys")
        examples = [
            (str(row["query"]), tuple(map(str, row["passages"])), tuple(map(int, row["order"])))
            for row in table.get("examples") or []
        ]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise wrong("examples", "a list of mappings with query, passages and order") from error
    return PromptTemplate(
        name=name,
        method=table.get("method", "listwise"),
        syntax=syntax,
        pictures=shows != "text",
        mixed=shows == "both",
        examples=tuple(PromptExample(query=query, passages=shown, order=order) for query, shown, order in examples),
        **fields,
    )
