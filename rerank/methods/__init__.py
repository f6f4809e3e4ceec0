"""Published methods by name: a strategy times a judge, one small TOML card each.

A card holds ``strategy``, ``judge``, ``paper`` and ``summary``, and perhaps ``options`` of either, and the ``backend``
and ``prompt`` that it is meant for. A pair without a card is asked for as ``strategy:judge``. This module knows names;
what they stand for is in ``strategies`` and ``judges``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

from rerank.errors import UnknownNameError, UsageError
from rerank.judges import judges, options_of
from rerank.registry import Registry
from rerank.selector import Selector
from rerank.strategies import open_strategy, strategies
from rerank.tasks import tasks_of

__all__ = ["Method", "backends_of", "describe_methods", "method_names", "open_method"]

_backends = Registry("backends", "backend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A strategy times a judge.

    Attributes:
        name: As after ``--method``.
        strategy: Name in the strategies' registry.
        judge: Name in the judges' registry.
        options: Options of the strategy, the judge or both, e.g. ``size=10,by=likelihood``.
        backend: The backend that reads the method's models, where it is not the one for language models.
        prompt: The shipped prompt that suits it, where it is not the judge's own.
        paper: Where it was published; empty for a pair that nobody named.
        summary: One line on what it does.
    """

    name: str
    strategy: str
    judge: str
    options: str = ""
    backend: str = ""
    prompt: str = ""
    paper: str = ""
    summary: str = ""

    @property
    def strategy_selector(self) -> str:
        """The strategy with its options, as `open_strategy` reads it."""
        return self._selector(self.strategy, lambda key: key not in options_of(self.judge))

    @property
    def judge_selector(self) -> str:
        """The judge with its options, as `open_judge` reads it."""
        return self._selector(self.judge, lambda key: key in options_of(self.judge))

    @property
    def own_prompt(self) -> str:
        """The prompt that suits it whatever the model; empty if any listwise one does."""
        return self.prompt or str(judges.get(self.judge).suits(Selector.parse(self.judge_selector).options))

    def with_options(self, more: str) -> Method:
        """The same method with options that win over those it has."""
        return replace(self, options=",".join(part for part in (self.options, more) if part))

    def _selector(self, name: str, wanted: Callable[[str], bool]) -> str:
        options = Selector.parse(f"{name},{self.options}" if self.options else name).options
        return name + "".join(f",{key}={value}" for key, value in options.items() if wanted(key))


def method_names() -> list[str]:
    """The names that have a card, sorted."""
    return sorted(card.name.removesuffix(".toml") for card in files(__name__).iterdir() if card.name.endswith(".toml"))


def open_method(name: str) -> Method:
    """Find a method by its name, or by ``strategy:judge``; options of either may follow, after a comma.

    >>> open_method("sliding,size=10,stride=5").strategy_selector
    'sliding,size=10,stride=5'

    Raises:
        UnknownNameError: There is none; the message suggests the nearest.
    """
    whole, (name, _, options) = name, name.partition(",")
    if options and "," in Selector.parse(f"{name.partition(':')[0]},{options}").name:
        raise UsageError(f"Method {whole!r}", expected="options as KEY=VALUE after its name, as in sliding,size=10")
    if name in method_names():
        card = tomllib.loads((files(__name__) / f"{name}.toml").read_text(encoding="utf-8"))
        return Method(name=name, **card).with_options(options)
    strategy, colon, judge = name.partition(":")
    if not colon:
        raise UnknownNameError("method", name, method_names())
    strategies.get(strategy)
    judges.get(judge)
    return Method(name=name, strategy=strategy, judge=judge, options=options)


def describe_methods() -> list[dict[str, Any]]:
    """A row for every card; ``calls_per_100`` are the requests for 100 documents, at most."""
    rows = []
    for name in method_names():
        method = open_method(name)
        rows.append(
            {
                "name": name,
                "strategy": method.strategy,
                "judge": method.judge,
                "options": method.options,
                "backends": backends_of(method.judge),
                "calls_per_100": calls(method, 100),
                "paper": method.paper,
                "summary": method.summary,
            }
        )
    return rows


def backends_of(judge: str) -> list[str]:
    """The backends that can do what a judge needs, by name."""
    needed = set(judges.get(judge).needs)
    return [name for name, backend in _backends.usable().items() if needed & tasks_of(backend)]


def calls(method: Method, n: int) -> int:
    """Requests that a list of ``n`` documents takes, at most: the strategy's windows, times the judge's requests.

    A judge that asks about one document at a time is driven with windows of all of them.
    """
    windows = open_strategy(method.strategy_selector).calls(n)
    return windows * int(judges.get(method.judge).calls(n))
