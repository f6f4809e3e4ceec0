"""The one grammar in which a thing and its options are named: ``name:argument,key=value,key=value``.

Used for collections (``beir:data/scifact,split=dev``), first stages (``bm25,k1=1.2``) and fake models
(``fake:stutter,p=0.3``). A comma starts an option only where ``key=`` follows, so paths may hold commas, and not inside
parentheses, so a selector may stand in another: ``hybrid:(bm25,k1=1.2)+dense``. This module knows the grammar and how
options become arguments of a class, not what they mean.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from rerank.errors import UnknownNameError, UsageError
from rerank.registry import Registry

_OPTION = re.compile(r",(?=[A-Za-z_][A-Za-z0-9_-]*=)")


def split_outside(text: str, at: re.Pattern[str]) -> list[str]:
    """Cut text at the matches of ``at`` that no pair of parentheses encloses; one without its partner is a letter.

    >>> split_outside("a+(b+c)+d", re.compile("[+]"))
    ['a', '(b+c)', 'd']
    """
    opened: list[int] = []
    pairs: list[tuple[int, int]] = []
    for position, character in enumerate(text):
        if character == "(":
            opened.append(position)
        elif character == ")" and opened:
            pairs.append((opened.pop(), position))
    cuts = [m.span() for m in at.finditer(text) if not any(first < m.start() < last for first, last in pairs)]
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector.

    Attributes:
        name: What to look up in a registry.
        argument: The part after the colon, empty if there is none.
        options: The ``key=value`` pairs, keys with underscores.
    """

    name: str
    argument: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Read ``name:argument,key=value``.

        >>> Selector.parse("beir:data/scifact,split=dev")
        Selector(name='beir', argument='data/scifact', options={'split': 'dev'})
        >>> Selector.parse("trec:docs=a.xml,topics=t.txt").options
        {'docs': 'a.xml', 'topics': 't.txt'}
        >>> Selector.parse("hybrid:(bm25,k1=1.2)+dense,depth=50")
        Selector(name='hybrid', argument='(bm25,k1=1.2)+dense', options={'depth': '50'})
        """
        head, *rest = split_outside(text.strip(), _OPTION)
        name, _, argument = head.partition(":")
        if re.match(r"[A-Za-z_][A-Za-z0-9_-]*=", argument):
            rest.insert(0, argument)
            argument = ""
        options = {}
        for part in rest:
            key, _, value = part.partition("=")
            options[key.replace("-", "_")] = value
        if not name:
            raise UsageError(f"{text!r} names nothing", expected="NAME or NAME:ARGUMENT,KEY=VALUE")
        return cls(name, argument, options)


def build(registry: Registry, text: str, **given: Any) -> Any:
    """Look a selector up and make the thing: its argument comes first, its options are keyword arguments.

    ``given`` are further keyword arguments, which a selector cannot name.

    Option values are converted to the annotated types, so ``k1=1.2`` is a float where the class says so.

    Raises:
        UnknownNameError: No such thing, or no such option; the message suggests the nearest.
        UsageError: An option's value does not fit, or the argument is missing or too much.
    """
    selector = Selector.parse(text)
    arguments = (selector.argument,) if selector.argument else ()
    return make(registry, selector.name, selector.options, *arguments, **given)


def make(registry: Registry, name: str, options: Mapping[str, Any], *arguments: Any, **given: Any) -> Any:
    """Look a name up and make the thing from options as a selector or a TOML table holds them.

    Args:
        registry: Where to look.
        name: What for.
        options: Keyword arguments, converted to the annotated types.
        arguments: Positional arguments.
        given: Further keyword arguments, which options cannot name.

    Raises:
        UnknownNameError: No such thing, or no such option; the message suggests the nearest.
        UsageError: An option's value does not fit, or the argument is missing or too much.
    """
    made = registry.get(name)
    signature = inspect.signature(made)
    hints = get_type_hints(made if is_dataclass(made) else getattr(made, "__init__", made), include_extras=True)
    keyword = {n: p for n, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    keyword = {n: parameter for n, parameter in keyword.items() if n not in given}
    converted = {}
    for key, value in options.items():
        if key not in keyword:
            raise UnknownNameError(f"option of {name!r}:", key, keyword, if_none="It takes no options")
        try:
            converted[key] = TypeAdapter(hints.get(key, str)).validate_python(value)
        except ValidationError as error:
            raise UsageError(
                f"Option {key}={value!r} of {name!r}: {error.errors()[0]['msg']}",
                expected=_kind(hints.get(key, str)),
            ) from error
    try:
        signature.bind(*arguments, **converted, **given)
    except TypeError as error:
        raise UsageError(f"{':'.join([name, *map(str, arguments)])!r}: {error}", expected=usage(name, made)) from error
    return made(*arguments, **converted, **given)


def usage(name: str, made: Any) -> str:
    """How a thing is written as a selector, with every option it has."""
    parameters = inspect.signature(made).parameters.values()
    positional = [p.name.upper() for p in parameters if p.kind is not p.KEYWORD_ONLY]
    keyword = [f",{p.name}=..." for p in parameters if p.kind is p.KEYWORD_ONLY]
    return f"{name}{':' if positional else ''}{' '.join(positional)}{''.join(keyword)}"


def _kind(annotation: Any) -> str:
    """A type in words, for people who do not write Python."""
    choices = get_args(annotation)
    if get_origin(annotation) is Literal:
        return f"one of: {', '.join(map(str, choices))}"
    if choices:
        return " or ".join(_kind(choice) for choice in choices if choice is not type(None))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words.get(annotation, str(annotation))
