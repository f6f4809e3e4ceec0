"""Judges, which order the documents of a window by means of a model."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

from rerank.judges.base import (
    FAILURES,
    STATUSES,
    Judge,
    Limits,
    PromptJudge,
    Status,
    Verdict,
    check_judge_prompt_runs_on_backend,
)
from rerank.prompts.template import PromptTemplate
from rerank.registry import Registry
from rerank.selector import Selector, build_from_selector
from rerank.tasks import Backend

__all__ = [
    "FAILURES",
    "STATUSES",
    "Judge",
    "Limits",
    "PromptJudge",
    "Status",
    "Verdict",
    "check_judge_prompt_runs_on_backend",
    "check_judge_runs_on_backend",
    "judge_specific_option_names",
    "judges",
    "open_judge",
]

judges = Registry(
    "judges",
    "judge",
    shared={
        "judges.generate": "fuse generate logits pick rate select",
        "judges.pointwise": "head likelihood relate score word_logit",
    },
)
_COMMON_FIELDS = ("backend", "template", "limits")


def judge_specific_option_names(name: str) -> tuple[str, ...]:
    """Return the names of a judge's options: its fields except the fields that all judges have."""
    return tuple(f.name for f in fields(judges.get(name)) if f.init and f.name not in _COMMON_FIELDS)


def check_judge_runs_on_backend(selector: str | Selector, backend: Any, model: str) -> None:
    """Check that a backend, or its class before a model is loaded, supports a task that the judge needs."""
    selector = Selector.parse(selector) if isinstance(selector, str) else selector
    judges.get(selector.name).check(backend, model)


def open_judge(
    selector: str | Selector, backend: Backend, template: PromptTemplate, limits: Limits | None = None
) -> PromptJudge:
    """Build a judge from its selector, such as ``"generate"`` or ``"pick,by=likelihood"``.

    Raises:
        UnknownNameError: No judge or option has this name.
        UsageError: The value of an option is invalid, or the backend does not support the judge.
    """
    common = dict(zip(_COMMON_FIELDS, (backend, template, limits or Limits()), strict=True))
    return cast(PromptJudge, build_from_selector(judges, selector, **common))
