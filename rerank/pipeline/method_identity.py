"""The text that represents a method in the hash of a run. It is part of the format on disk.

The tables contain the strategies and judges of commit 2d4cd24 and the options that they had then. These options are
always written, and the text does not change if a class is renamed. An option that was added later is written only if
its value makes the method behave differently than at 2d4cd24, so a new option does not change the hashes of existing
runs. All other classes, such as those of other distributions, are written as every class was at 2d4cd24: with the class
name and all options, so a changed default changes the hash.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from rerank.judges import judge_specific_option_names, judges
from rerank.pipeline.passages import PassageAggregation
from rerank.registry import plugin_class_name
from rerank.selector import Selector, convert_selector_options
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
#: Mapping strategy -> option added after 2d4cd24 -> the value with which the strategy behaves as it did then, whatever
#: the default is now. An option that is in neither table is always written, which changes the hashes of existing runs.
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
#: Mapping judge -> option added after 2d4cd24 -> value, with the same meaning as in `_LATER_STRATEGY_OPTIONS`.
_LATER_JUDGE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "pick": {"constrain": True, "identifiers": "letters"},
    "relate": {"together": False},
}
#: The same for options of the base class of judges; the judge ``attention``, which had such an option before, still
#: writes it.
_LATER_OPTIONS_OF_ALL_JUDGES: Mapping[str, Any] = {"first_stage": 0.0}
_FIRST_PASSAGES_OPTIONS = ("aggregate", "size", "stride")


def describe_strategy(name: str, strategy: Strategy) -> str:
    """Return the text representing a strategy in a run's hash, as in ``Multipass(size=20, stride=10, top_k=None)``."""
    name = name.replace("-", "_")
    values = _option_values(strategy)
    written = _option_names(values, _FIRST_STRATEGY_OPTIONS.get(name, ()), _LATER_STRATEGY_OPTIONS.get(name, {}))
    shown_name = plugin_class_name(name) if name in _FIRST_STRATEGY_OPTIONS else type(strategy).__qualname__
    return _format(shown_name, {option: repr(values[option]) for option in written})


def describe_passages(passages: PassageAggregation) -> str:
    """Return the text that represents a passage aggregation in the hash of a run."""
    values = _option_values(passages)
    return _format(
        "Passages", {option: repr(values[option]) for option in _option_names(values, _FIRST_PASSAGES_OPTIONS)}
    )


def describe_judge(judge: Selector) -> str:
    """Return the text that represents a judge in a run's hash, like ``generate(constrain=True, identifiers=numbers)``.

    Options are written as the user gave them, except that paths are shortened to file names, so the hash does not
    depend on the machine. The content of a file is part of the judge's own identity.
    """
    name = judge.name.replace("-", "_")
    judge_class = judges.get(name)
    defaults = {
        field.name: _option_default(field)
        for field in fields(judge_class)
        if field.name in judge_specific_option_names(name)
    }
    values = defaults | convert_selector_options(judge.name, judge_class, judge.options)
    later = {**_LATER_OPTIONS_OF_ALL_JUDGES, **_LATER_JUDGE_OPTIONS.get(name, {})}
    written = _option_names(values, _FIRST_JUDGE_OPTIONS.get(name, ()), later)
    texts = defaults | {key: str(value).rpartition("/")[2] for key, value in judge.options.items()}
    return _format(judge.name, {option: str(texts[option]) for option in written})


def _option_names(
    values: Mapping[str, Any], first: tuple[str, ...], later: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Return the options that a method's text contains: those in ``first``, then others that differ from ``later``."""
    unchanged = {name for name, value in (later or {}).items() if values.get(name) == value}
    return (*first, *(name for name in values if name not in first and name not in unchanged))


def _format(name: str, options: Mapping[str, str]) -> str:
    return f"{name}({', '.join(f'{option}={text}' for option, text in options.items())})"


def _option_values(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value) if field.repr}


def _option_default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
