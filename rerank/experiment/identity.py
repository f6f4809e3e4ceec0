"""The text of methods in the hash of a run. It is part of the format on disk and independent of class names.

Strategies and judges of commit 2d4cd24 are written with all the options that they had then. Options added later, and
the options of later strategies and judges, are written only if they differ from their default. A new option therefore
does not change the hashes of existing runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rerank.judges import judges, options_of
from rerank.pipeline.passages import PassageAggregation
from rerank.registry import class_name
from rerank.selector import Selector
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
_FIRST_PASSAGES_OPTIONS = ("aggregate", "size", "stride")


def strategy_text(name: str, strategy: Strategy) -> str:
    """Return the text of a strategy in a run's hash, such as ``Multipass(size=20, stride=10, top_k=None)``."""
    name = name.replace("-", "_")
    return _object_text(class_name(name), strategy, _FIRST_STRATEGY_OPTIONS.get(name, ()))


def passages_text(passages: PassageAggregation) -> str:
    """Return the text of a passage aggregation in a run's hash."""
    return _object_text("Passages", passages, _FIRST_PASSAGES_OPTIONS)


def judge_text(judge: Selector) -> str:
    """Return the text of a judge in a run's hash, such as ``generate(constrain=True, identifiers=numbers)``.

    Files in options are shortened to their names, so that the hash does not depend on the machine. The content of a
    file is part of the judge's own identity.
    """
    first = _FIRST_JUDGE_OPTIONS.get(judge.name.replace("-", "_"), ())
    defaults = {field.name: field.default for field in fields(judges.get(judge.name))}
    values = defaults | {key: str(value).rpartition("/")[2] for key, value in judge.options.items()}
    names = [name for name in options_of(judge.name) if name not in first and str(values[name]) != str(defaults[name])]
    return f"{judge.name}({', '.join(f'{name}={values[name]}' for name in (*first, *names))})"


def _object_text(name: str, value: Any, first: tuple[str, ...]) -> str:
    later = [f.name for f in fields(value) if f.repr and f.name not in first and getattr(value, f.name) != f.default]
    return f"{name}({', '.join(f'{option}={getattr(value, option)!r}' for option in (*first, *later))})"
