"""Ranking methods: a strategy combined with a judge, described by one TOML card each.

A card has the keys ``strategy``, ``judge``, ``paper`` and ``summary``. Optional keys are ``options`` (of the strategy
and the judge), ``backend`` and ``prompt``. A combination without a card is written as ``strategy:judge``. Another
distribution adds a card with an entry point in the group ``rerank.methods``: the name of the entry point is the name of
the method, and its value is the package that contains ``NAME.toml``.
"""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint
from importlib.resources import files
from inspect import signature
from typing import Any

from rerank.backends import BACKENDS
from rerank.errors import DataError, MissingPrerequisiteError, RerankError, UnknownNameError, UsageError
from rerank.judges import judge_specific_option_names, judges
from rerank.prompts import load_prompt
from rerank.registry import plugin_entry_points
from rerank.selector import Selector, convert_selector_options
from rerank.strategies import open_strategy, strategies
from rerank.tasks import (
    task_backend_is_selectable,
    task_backend_sees_pictures,
    task_backend_takes_verbatim,
    tasks_supported_by_backend,
)

__all__ = [
    "Method",
    "backends_of_method",
    "count_requests_of_method",
    "describe_methods",
    "method_names",
    "open_method",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A strategy and a judge with their options."""

    name: str  # the name in ``--method``, without options
    strategy: Selector
    judge: Selector
    #: The backend that runs the method's models; empty for the default, language models with transformers.
    backend: str = ""
    prompt: str = ""  # the shipped prompt for the method; empty to use the judge's prompt
    paper: str = ""  # the publication that describes the method; empty for a combination without a card
    summary: str = ""  # one-line description of the method

    @property
    def own_prompt(self) -> str:
        """The prompt to use with every model; empty if the method works with every listwise prompt."""
        return self.prompt or str(judges.get(self.judge.name).suggest_prompt(self.judge.options))

    @property
    def options(self) -> Mapping[str, Any]:
        return {**self.strategy.options, **self.judge.options}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    """The content of a card, the TOML file that describes a method."""

    strategy: str
    judge: str
    options: str = ""
    backend: str = ""
    prompt: str = ""
    paper: str = ""
    summary: str = ""
    parsed: Mapping[str, str] = field(default_factory=dict)


def method_names() -> list[str]:
    """Return the names of all methods that have a card, sorted."""
    return sorted({*_built_in_names(), *_added_cards()})


def open_method(text: str) -> Method:
    """Look up a method by its name or as ``strategy:judge``, followed by options of the strategy or the judge.

    Examples:
        >>> open_method("sliding,size=10,stride=5").strategy
        Selector(name='sliding', argument='', options={'size': '10', 'stride': '5'})

    Raises:
        UnknownNameError: No method, strategy or judge has this name; the message suggests the most similar name.
        UsageError: The options are not written as KEY=VALUE, or the name is only a strategy or only a judge.
    """
    name, _, rest = text.partition(",")
    options = _parse_options(rest)
    if options is None:
        raise UsageError(
            f"The options of the method in {text!r} are not written as KEY=VALUE",
            expected="options as KEY=VALUE after the name, as in sliding,size=10",
        )
    return _build(name, _find_card(name), options)


def describe_methods() -> list[dict[str, Any]]:
    """Return one row per card; ``calls_per_100`` is the maximum number of requests for 100 documents.

    Cards that cannot be used are omitted with a warning, so that they do not affect other methods.
    """
    rows = []
    for name in method_names():
        try:
            card = _find_card(name)
            method = _build(name, card, {})
            row = {
                "name": name,
                "strategy": method.strategy.name,
                "judge": method.judge.name,
                "options": card.options,
                "backends": backends_of_method(method),
                "calls_per_100": count_requests_of_method(method, 100),
                "paper": method.paper,
                "summary": method.summary,
            }
            rows.append(row)
        except RerankError as error:
            warnings.warn(f"The method {name!r} is ignored: {error}", stacklevel=2)
    return rows


def backends_of_method(method: Method) -> list[str]:
    """Return the names of the backends with which a method can be used.

    These backends support a task of the method's judge and, if the method's prompt contains pictures or must be sent
    verbatim, such prompts.
    """
    needed = set(judges.get(method.judge.name).needs)
    prompt = load_prompt(method.own_prompt) if method.own_prompt else None
    return [
        name
        for name, backend in BACKENDS.usable().items()
        if task_backend_is_selectable(backend)
        and needed & tasks_supported_by_backend(backend)
        and (not (prompt and prompt.pictures) or task_backend_sees_pictures(backend))
        and (not (prompt and prompt.verbatim) or task_backend_takes_verbatim(backend))
    ]


def count_requests_of_method(method: Method, n: int) -> int:
    """Return the maximum number of requests for ``n`` documents: number of windows times requests per window.

    For a pointwise judge, a single window contains all documents.
    """
    windows = open_strategy(method.strategy).calls(n)
    return windows * int(judges.get(method.judge.name).calls(n))


def _build(name: str, card: _Card, options: Mapping[str, Any]) -> Method:
    strategy, judge = _split_options(card, {**card.parsed, **options})
    about = {key: getattr(card, key) for key in ("backend", "prompt", "paper", "summary")}
    return Method(name=name, strategy=strategy, judge=judge, **about)


def _find_card(name: str) -> _Card:
    added = _added_cards()
    if name in _built_in_names():
        if name in added:
            warnings.warn(
                f"The method {name!r} in the package {added[name].value!r} is ignored, because a built-in method has "
                "this name",
                stacklevel=2,
            )
        return _read_card(__name__, name)
    if name in added:
        return _read_card(added[name].value, name)
    strategy, colon, judge = name.partition(":")
    if colon:
        strategies.get(strategy)
        judges.get(judge)
        return _Card(strategy=strategy, judge=judge)
    if name and name in strategies:
        raise UsageError(
            f"{name!r} is a strategy, not a method",
            expected=f"a method, or a strategy with a judge, as in {name}:generate",
            remedy=f"Write --method {name}:JUDGE or {name}:JUDGE,KEY=VALUE, where JUDGE is one of: "
            f"{', '.join(judges.names()).replace('_', '-')}",
        )
    if name and name in judges:
        raise UsageError(
            f"{name!r} is a judge, not a method",
            expected=f"a method, or a strategy with a judge, as in full:{name}",
            remedy=f"Write --method STRATEGY:{name}, where STRATEGY is one of: "
            f"{', '.join(strategies.names()).replace('_', '-')}",
        )
    raise UnknownNameError("method", name, method_names())


@cache
def _read_card(package: str, name: str) -> _Card:
    """Read ``NAME.toml`` from a package, only once, and check everything except its prompt."""
    try:
        data = (files(package) / f"{name}.toml").read_bytes()
    except Exception as error:  # a package may raise anything when it is imported
        raise MissingPrerequisiteError(
            f"The card of the method {name!r} cannot be read from the package {package!r}: {error}",
            expected=f"a file {name}.toml in the package",
            remedy="Repair or uninstall the distribution that contains it",
        ) from error
    try:
        table = tomllib.loads(data.decode("utf-8"))
        for key, value in table.items():
            if not isinstance(value, str):
                raise ValueError(f"{key} = {value!r} is not a text")
        if (options := _parse_options(table.get("options", ""))) is None:
            raise ValueError(f"options = {table['options']!r} is not written as KEY=VALUE,KEY=VALUE")
        card = _Card(**table, parsed=options)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"The card of the method {name!r} in the package {package!r} is invalid: {error}",
            expected="texts for strategy and judge, and optionally for options, backend, prompt, paper and summary",
        ) from error
    strategy, judge = _split_options(card, card.parsed)
    open_strategy(strategy)
    convert_selector_options(judge.name, judges.get(judge.name), judge.options)
    if card.backend and card.backend not in BACKENDS:
        raise UnknownNameError("backend", card.backend, BACKENDS.names())
    return card


def _parse_options(text: str) -> Mapping[str, Any] | None:
    """Parse ``key=value,key=value``; return None if the text has another form."""
    selector = Selector.parse(f"x,{text}") if text else Selector("x")
    return selector.options if (selector.name, selector.argument) == ("x", "") else None


def _split_options(card: _Card, options: Mapping[str, Any]) -> tuple[Selector, Selector]:
    """Return the strategy and the judge of a card with their options; an option that both have is set for the judge."""
    of_judge = judge_specific_option_names(card.judge)
    known = {*of_judge, *signature(strategies.get(card.strategy)).parameters}
    for key in options:
        if key not in known:
            pair = f"{card.strategy}:{card.judge}"
            raise UnknownNameError(f"option of {pair!r}:", key, known, if_none="It takes no options", limit=len(known))
    return (
        Selector(card.strategy, options={key: value for key, value in options.items() if key not in of_judge}),
        Selector(card.judge, options={key: value for key, value in options.items() if key in of_judge}),
    )


@cache
def _built_in_names() -> frozenset[str]:
    return frozenset(
        card.name.removesuffix(".toml") for card in files(__name__).iterdir() if card.name.endswith(".toml")
    )


def _added_cards() -> dict[str, EntryPoint]:
    return {point.name: point for point in plugin_entry_points("rerank.methods")}
