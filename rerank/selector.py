"""Selectors: texts of the form ``name:argument,key=value,key=value`` that select a plug-in and set its options.

Selectors are used for collections (``beir:data/scifact,split=dev``), first stages (``bm25,k1=1.2``), methods, models
(``fake:stutter,p=0.3``) and so on. A comma starts an option only if ``key=`` follows, so paths may contain commas. A
comma in parentheses does not start an option, so selectors may be nested: ``hybrid:(bm25,k1=1.2)+dense``.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from rerank.errors import UnknownNameError, UsageError, ensure
from rerank.registry import Registry

_OPTION = re.compile(r",(?=[A-Za-z_][A-Za-z0-9_-]*=)")


def split_outside_parentheses(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split text at the separators outside parentheses; an unpaired parenthesis is an ordinary character.

    >>> split_outside_parentheses("a+(b+c)+d", re.compile("[+]"))
    ['a', '(b+c)', 'd']
    """
    opened: list[int] = []
    pairs: list[tuple[int, int]] = []
    for position, character in enumerate(text):
        if character == "(":
            opened.append(position)
        elif character == ")" and opened:
            pairs.append((opened.pop(), position))
    cuts = [m.span() for m in separator.finditer(text) if not any(first < m.start() < last for first, last in pairs)]
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector, such as ``bm25,k1=1.2``; dashes in the keys of options are replaced by underscores."""

    name: str
    argument: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Parse ``name:argument,key=value``.

        >>> Selector.parse("beir:data/scifact,split=dev")
        Selector(name='beir', argument='data/scifact', options={'split': 'dev'})
        >>> Selector.parse("trec:docs=a.xml,topics=t.txt").options
        {'docs': 'a.xml', 'topics': 't.txt'}
        >>> Selector.parse("hybrid:(bm25,k1=1.2)+dense,depth=50")
        Selector(name='hybrid', argument='(bm25,k1=1.2)+dense', options={'depth': '50'})
        """
        head, *rest = split_outside_parentheses(text.strip(), _OPTION)
        name, _, argument = head.partition(":")
        if re.match(r"[A-Za-z_][A-Za-z0-9_-]*=", argument):
            rest.insert(0, argument)
            argument = ""
        options = {}
        for part in rest:
            key, _, value = part.partition("=")
            options[key.replace("-", "_")] = value
        if not name:
            raise UsageError(f"{text!r} has no name", expected="NAME or NAME:ARGUMENT,KEY=VALUE")
        return cls(name, argument, options)


def build_from_selector(registry: Registry, selector: str | Selector, **extra: Any) -> Any:
    """Build a plug-in from a selector; ``extra`` are further keyword arguments, which a selector may not set.

    The argument is passed as a positional argument, and the options as keyword arguments. The values are converted to
    the annotated types, so ``k1=1.2`` is a float if the class declares a float.
    """
    selector = Selector.parse(selector) if isinstance(selector, str) else selector
    arguments = (selector.argument,) if selector.argument else ()
    return build_from_selector_options(registry, selector.name, selector.options, *arguments, **extra)


def build_from_selector_options(
    registry: Registry, name: str, options: Mapping[str, Any], *arguments: Any, **extra: Any
) -> Any:
    """Build a plug-in from its name and options, as in a selector or a TOML table, and ``extra`` keyword arguments."""
    factory = registry.get(name)
    converted = convert_selector_options(name, factory, options, fixed=extra)
    try:
        inspect.signature(factory).bind(*arguments, **converted, **extra)
    except TypeError as error:
        text = ":".join([name, *map(str, arguments)])
        raise UsageError(_describe_fault(text, name, str(error)), expected=selector_syntax(name, factory)) from error
    return factory(*arguments, **converted, **extra)


def convert_selector_options(
    name: str, factory: Any, options: Mapping[str, Any], *, fixed: Container[str] = ()
) -> dict[str, Any]:
    """Convert options to the types that the class of a plug-in declares; ``fixed`` may not be among them."""
    annotated = factory if is_dataclass(factory) else getattr(factory, "__init__", factory)
    hints = get_type_hints(annotated, include_extras=True)
    parameters = inspect.signature(factory).parameters.items()
    keyword = [n for n, p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY and n not in fixed]
    keyword = [n for n in keyword if get_origin(hints.get(n)) is not Callable]  # only Python can pass a function
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for _, p in parameters):  # the plug-in checks further options itself
        keyword += [key for key in options if key not in hints]
        hints = dict.fromkeys(keyword, Any) | hints
    return convert_option_values(name, {key: hints.get(key, str) for key in keyword}, options)


def convert_option_values(name: str, types: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the values of options to the types of the options."""
    converted = {}
    for key, value in options.items():
        if key not in types:
            raise UnknownNameError(f"option of {name!r}:", key, types, if_none="It takes no options", limit=len(types))
        try:
            converted[key] = TypeAdapter(types[key]).validate_python(value)
        except ValidationError as error:
            raise UsageError(
                f"Option {key}={value!r} of {name!r} is invalid", expected=_describe_type(types[key])
            ) from error
        check_value(f"Option {key} of {name!r}", converted[key])
    return converted


def check_value(shown: str, value: Any) -> None:
    """Check what no option can mean: numbers that are not finite or exceed 64 bits, NULs, bytes that are not UTF-8."""
    if isinstance(value, float):
        ensure(math.isfinite(value), f"{shown} is {value}", expected="a finite number")
    elif isinstance(value, int):
        ensure(abs(value) < 2**63, f"{shown} is {value}", expected="a number of at most 18 digits")
    elif isinstance(value, str | Path):
        text = str(value)
        is_text = "\0" not in text and text.encode("utf-8", "ignore").decode() == text  # bytes become surrogates
        ensure(is_text, f"{shown} is {text!r}", expected="a text in UTF-8 without NUL characters")


def _describe_fault(text: str, name: str, problem: str) -> str:
    """Describe, in terms of selectors, why a plug-in cannot be created; ``problem`` is Python's message."""
    if problem.startswith("too many positional"):
        return f"{text!r} has an argument after the colon, but {name!r} accepts none"
    _, missing, parameter = problem.partition("missing a required ")
    return f"{text!r} lacks a required {parameter}" if missing else f"{text!r}: {problem}"


def selector_syntax(name: str, factory: Any) -> str:
    """Return the form of a plug-in's selector with all options, for messages, such as ``bm25,k1=...,b=...``."""
    parameters = inspect.signature(factory).parameters.values()
    positional = [p.name.upper() for p in parameters if p.kind is not p.KEYWORD_ONLY]
    keyword = [f",{p.name}=..." for p in parameters if p.kind is p.KEYWORD_ONLY]
    return f"{name}{':' if positional else ''}{' '.join(positional)}{''.join(keyword)}"


#: Keys of a JSON schema that limit a number, in words.
_BOUNDS = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "of at most", "exclusiveMaximum": "below"}


def _describe_type(annotation: Any) -> str:
    """Describe the type of an option for users who do not write Python."""
    choices = get_args(annotation)
    if get_origin(annotation) is Annotated and choices[0] in (int, float):  # a number and its range
        schema = TypeAdapter(annotation).json_schema()
        bounds = [f"{words} {schema[key]:g}" for key, words in _BOUNDS.items() if key in schema]
        return " ".join([_describe_type(choices[0]), " and ".join(bounds)]).rstrip()
    if get_origin(annotation) is Literal:
        return f"one of: {', '.join(map(str, choices))}"
    if choices:
        return " or ".join(_describe_type(choice) for choice in choices if choice is not type(None))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words.get(annotation, str(annotation))
