"""Ranking methods: a strategy combined with a judge, described by one TOML card each.

A card has the keys ``strategy``, ``judge``, ``paper`` and ``summary``, and optionally ``options`` of either, and the
``backend`` and ``prompt`` that the method uses. A pair without a card is written as ``strategy:judge``. Another
distribution adds a card with an entry point of the group ``rerank.methods``, named like the method, whose value is the
package that contains ``NAME.toml``.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from typing import Any

from rerank.backends import BACKENDS
from rerank.errors import DataError, MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.judges import judges, options_of
from rerank.prompts import load_prompt
from rerank.selector import Selector
from rerank.strategies import open_strategy, strategies
from rerank.tasks import is_selectable, sees_pictures, supported_tasks

__all__ = ["Method", "backends_of", "count_calls", "describe_methods", "method_names", "open_method"]

_GROUP = "rerank.methods"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A strategy and a judge with their options.

    Attributes:
        name: The name in ``--method``, without options.
        strategy: The strategy and its options.
        judge: The judge and its options.
        backend: The backend of the method's models; empty for the default, language models with transformers.
        prompt: The shipped prompt that suits the method; empty if the judge decides.
        paper: The publication; empty for a pair without a card.
        summary: One line about the method.
    """

    name: str
    strategy: Selector
    judge: Selector
    backend: str = ""
    prompt: str = ""
    paper: str = ""
    summary: str = ""

    @property
    def own_prompt(self) -> str:
        """The prompt that suits the method with any model; empty if every listwise prompt does."""
        return self.prompt or str(judges.get(self.judge.name).suggest_prompt(self.judge.options))

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the strategy and of the judge."""
        return {**self.strategy.options, **self.judge.options}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Card:
    """The content of a card file."""

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
    return sorted({*_built_in(), *_added()})


def open_method(text: str) -> Method:
    """Look up a method by its name or ``strategy:judge``, followed by options of either.

    >>> open_method("sliding,size=10,stride=5").strategy
    Selector(name='sliding', argument='', options={'size': '10', 'stride': '5'})

    Raises:
        UnknownNameError: No method, strategy or judge has this name; the message suggests the nearest.
        UsageError: The options are not written as KEY=VALUE, or the name is that of a strategy or a judge.
    """
    name, _, rest = text.partition(",")
    options = Selector.parse(f"{name.partition(':')[0]},{rest}") if rest else Selector(name)
    if "," in options.name:
        raise UsageError(f"Method {text!r}", expected="options as KEY=VALUE after its name, as in sliding,size=10")
    card = _find_card(name)
    merged = {**card.parsed, **options.options}
    of_judge = options_of(card.judge)
    return Method(
        name=name,
        strategy=Selector(card.strategy, options={key: value for key, value in merged.items() if key not in of_judge}),
        judge=Selector(card.judge, options={key: value for key, value in merged.items() if key in of_judge}),
        backend=card.backend,
        prompt=card.prompt,
        paper=card.paper,
        summary=card.summary,
    )


def describe_methods() -> list[dict[str, Any]]:
    """Return one row per card; ``calls_per_100`` is the maximum number of requests for 100 documents."""
    return [_describe(name) for name in method_names()]


def backends_of(method: Method) -> list[str]:
    """Return the names of the backends with which a method can be used.

    They support a task of its judge, and pictures if its prompt shows them.
    """
    needed = set(judges.get(method.judge.name).needs)
    shows_pictures = bool(method.own_prompt) and load_prompt(method.own_prompt).pictures
    return [
        name
        for name, backend in BACKENDS.usable().items()
        if is_selectable(backend)
        and needed & supported_tasks(backend)
        and (not shows_pictures or sees_pictures(backend))
    ]


def count_calls(method: Method, n: int) -> int:
    """Return the maximum number of requests for ``n`` documents: windows of the strategy times requests per window.

    The windows of a pointwise judge contain all documents.
    """
    windows = open_strategy(method.strategy).calls(n)
    return windows * int(judges.get(method.judge.name).calls(n))


def _describe(name: str) -> dict[str, Any]:
    method, card = open_method(name), _find_card(name)
    return {
        "name": name,
        "strategy": method.strategy.name,
        "judge": method.judge.name,
        "options": card.options,
        "backends": backends_of(method),
        "calls_per_100": count_calls(method, 100),
        "paper": method.paper,
        "summary": method.summary,
    }


def _find_card(name: str) -> _Card:
    """Return the card with this name, or a new one for ``strategy:judge``."""
    added = _added()
    if name in _built_in():
        if name in added:
            raise UsageError(
                f"The method {name!r} is built in, and {added[name].value!r} claims the same name",
                remedy="Rename or uninstall the added one",
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
            f"{', '.join(judges.names())}",
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
    """Read ``NAME.toml`` from a package, once."""
    try:
        text = (files(package) / f"{name}.toml").read_text(encoding="utf-8")
    except (ImportError, OSError, TypeError) as error:
        raise MissingPrerequisiteError(
            f"The card of the method {name!r} cannot be read from the package {package!r}: {error}",
            expected=f"a file {name}.toml in the package",
            remedy="Repair or uninstall the distribution that contains it",
        ) from error
    try:
        table = tomllib.loads(text)
        card = _Card(**table, parsed=Selector.parse(f"x,{table['options']}").options if table.get("options") else {})
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise DataError(
            f"The card of the method {name!r} in the package {package!r} is invalid: {error}",
            expected="the keys strategy and judge, and optionally options, backend, prompt, paper and summary",
        ) from error
    strategies.get(card.strategy)
    judges.get(card.judge)
    return card


@cache
def _built_in() -> frozenset[str]:
    return frozenset(
        card.name.removesuffix(".toml") for card in files(__name__).iterdir() if card.name.endswith(".toml")
    )


def _added() -> dict[str, EntryPoint]:
    return _entry_points(tuple(sys.path))


@cache
def _entry_points(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Return the cards of other distributions; cached, since this reads the metadata of all of them."""
    return {point.name: point for point in entry_points(group=_GROUP)}
