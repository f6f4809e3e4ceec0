"""Ways of putting one window in order: one a file, opened by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

from rerank.judges.base import FAILURES, STATUSES, Asking, Judge, Limits, Status, Verdict
from rerank.prompts.template import PromptTemplate
from rerank.registry import Registry
from rerank.selector import Selector, build
from rerank.tasks import Backend

__all__ = [
    "FAILURES",
    "STATUSES",
    "Asking",
    "Judge",
    "Limits",
    "Status",
    "Verdict",
    "check_judge",
    "judges",
    "open_judge",
    "options_of",
]

judges = Registry("judges", "judge")
_GIVEN = ("backend", "template", "limits")


def options_of(name: str) -> tuple[str, ...]:
    """The options of a judge: its fields, less those that every judge is given."""
    return tuple(f.name for f in fields(judges.get(name)) if f.init and f.name not in _GIVEN)


def check_judge(selector: str, backend: Any, model: str) -> None:
    """Refuse a backend that cannot answer what a judge asks; its class will do, before a model is loaded.

    Raises:
        UnknownNameError: No such judge.
        UsageError: It cannot.
    """
    judges.get(Selector.parse(selector).name).check(backend, model)


def open_judge(selector: str, backend: Backend, template: PromptTemplate, limits: Limits | None = None) -> Asking:
    """Make a judge from its selector, e.g. ``"generate"`` or ``"pick,by=likelihood"``.

    Raises:
        UnknownNameError: No such judge or option.
        UsageError: A value that does not fit, or a backend that cannot answer what this judge asks.
    """
    given = dict(zip(_GIVEN, (backend, template, limits or Limits()), strict=True))
    return cast(Asking, build(judges, selector, **given))
