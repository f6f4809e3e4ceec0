"""The text of methods in the hash of a run. It is part of the format on disk and independent of class names.

The tables hold the strategies and judges of commit 2d4cd24 with the options that they had then, which are always
written. Options that they got later are written only if they change what the method did at 2d4cd24, so a new option
does not change the hashes of existing runs. Other classes, such as those of another distribution, are written as
2d4cd24 wrote every class: under their own name, with all their options, so that a changed default changes the hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from rerank.judges import judges, options_of_judge
from rerank.pipeline.passages import PassageAggregation
from rerank.registry import plugin_class_name
from rerank.selector import Selector, convert_plugin_options
from rerank.strategies import Strategy

#: The options that strategies had at commit 2d4cd24, in the order in which they are written.
_FIRST_STRATEGY_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "all_pairs": (),
    "bubblesort": ("size", "top_k", "both_orders"),
    "full": ("top_k",),
    "heapsort": ("size", "top_k", "both_orders", "children"),
    "multipass": ("size", "stride", "top_k"),
    "self_consistency": ("passes", "top_k", "seed"),
    "sliding": ("size", "stride", "passes", "top_k"),
    "top_down": ("size", "budget", "top_k"),
    "tournament": ("size", "passes", "seed"),
}
#: Options that these strategies got later -> the value with which they do what they did at 2d4cd24, whatever the
#: default is today. An option that is in neither table is always written, which changes the hashes of existing runs.
_LATER_STRATEGY_OPTIONS: Mapping[str, Mapping[str, Any]] = {}
#: The options that judges had at commit 2d4cd24, in the order in which they are written.
_FIRST_JUDGE_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "attention": ("heads", "layers", "calibrate", "best_first", "first_stage"),
    "generate": ("constrain", "identifiers"),
    "likelihood": (),
    "logits": (),
    "pick": ("by",),
    "relate": (),
    "score": ("yes", "no"),
}
#: Options that these judges got later, as in `_LATER_STRATEGY_OPTIONS`.
_LATER_JUDGE_OPTIONS: Mapping[str, Mapping[str, Any]] = {}
_FIRST_PASSAGES_OPTIONS = ("aggregate", "size", "stride")


def strategy_identity_text(name: str, strategy: Strategy) -> str:
    """Return the text of a strategy in a run's hash, such as ``Multipass(size=20, stride=10, top_k=None)``."""
    name = name.replace("-", "_")
    values = _shown_option_values(strategy)
    written = _written_option_names(
        values, _FIRST_STRATEGY_OPTIONS.get(name, ()), _LATER_STRATEGY_OPTIONS.get(name, {})
    )
    shown_name = plugin_class_name(name) if name in _FIRST_STRATEGY_OPTIONS else type(strategy).__qualname__
    return _format_method_identity(shown_name, {option: repr(values[option]) for option in written})


def passages_identity_text(passages: PassageAggregation) -> str:
    """Return the text of a passage aggregation in a run's hash."""
    values = _shown_option_values(passages)
    return _format_method_identity(
        "Passages", {option: repr(values[option]) for option in _written_option_names(values, _FIRST_PASSAGES_OPTIONS)}
    )


def judge_identity_text(judge: Selector) -> str:
    """Return the text of a judge in a run's hash, such as ``generate(constrain=True, identifiers=numbers)``.

    Options are written as the user gave them. Files are shortened to their names, so that the hash does not depend on
    the machine. The content of a file is part of the judge's own identity.
    """
    name = judge.name.replace("-", "_")
    judge_class = judges.get(name)
    defaults = {
        field.name: _default_of_option(field) for field in fields(judge_class) if field.name in options_of_judge(name)
    }
    values = defaults | convert_plugin_options(judge.name, judge_class, judge.options)
    written = _written_option_names(values, _FIRST_JUDGE_OPTIONS.get(name, ()), _LATER_JUDGE_OPTIONS.get(name, {}))
    texts = defaults | {key: str(value).rpartition("/")[2] for key, value in judge.options.items()}
    return _format_method_identity(judge.name, {option: str(texts[option]) for option in written})


def _written_option_names(
    values: Mapping[str, Any], first: tuple[str, ...], later: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Return the names of the options that are written: first ones, then others unless they change nothing."""
    unchanged = {name for name, value in (later or {}).items() if values[name] == value}
    return (*first, *(name for name in values if name not in first and name not in unchanged))


def _format_method_identity(name: str, options: Mapping[str, str]) -> str:
    return f"{name}({', '.join(f'{option}={text}' for option, text in options.items())})"


def _shown_option_values(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value) if field.repr}


def _default_of_option(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
