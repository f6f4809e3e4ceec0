"""The text of methods in the hash of a run. Whole folders of 2d4cd24 are in tests/test_format_compatibility.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, make_dataclass
from typing import Any

import pytest

from rerank.judges import judge_specific_option_names, judges
from rerank.judges.generate import Generate
from rerank.pipeline import method_identity as identity
from rerank.pipeline.method_identity import describe_judge, describe_strategy
from rerank.selector import Selector
from rerank.strategies import strategies
from rerank.strategies.sliding import Full


@dataclass(frozen=True, kw_only=True)
class Careful(Generate):
    patience: float = 3.0


def is_in_the_tables(options: set[str], first: tuple[str, ...], later: Mapping[str, Any]) -> bool:
    return options == {*first, *later} and not {*first} & {*later}


def test_the_tables_hold_every_option_of_the_classes_that_2d4cd24_had() -> None:
    """An option that is missing here changes the hashes of existing runs: add it to the table of later options."""
    for name, first in identity._FIRST_STRATEGY_OPTIONS.items():
        options = {field.name for field in fields(strategies.get(name)) if field.repr}
        assert is_in_the_tables(options, first, identity._LATER_STRATEGY_OPTIONS.get(name, {})), name
    for name, first in identity._FIRST_JUDGE_OPTIONS.items():
        later = {**identity._LATER_OPTIONS_OF_ALL_JUDGES, **identity._LATER_JUDGE_OPTIONS.get(name, {})}
        added = {option: value for option, value in later.items() if option not in first}
        assert is_in_the_tables({*judge_specific_option_names(name)}, first, added), name


@pytest.mark.parametrize("default", [2, 3])
def test_a_changed_default_of_a_plugin_changes_the_hash(default: int) -> None:
    added = make_dataclass("Added", [("size", int, default)], bases=(), frozen=True, kw_only=True)
    assert describe_strategy("added", added()) == f"Added(size={default})"
    assert describe_strategy("added", added(size=7)) == "Added(size=7)"


def test_options_of_a_plugin_judge_are_all_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "get", lambda name: Careful)
    assert describe_judge(Selector("careful")) == "careful(constrain=True, identifiers=numbers, patience=3.0)"
    given = describe_judge(Selector("careful", options={"patience": "4"}))
    assert given == "careful(constrain=True, identifiers=numbers, patience=4)"


def test_the_weight_of_the_first_stage_is_written_where_it_counts() -> None:
    texts = {
        "likelihood": "likelihood()",
        "likelihood,first_stage=0": "likelihood()",
        "likelihood,first_stage=0.5": "likelihood(first_stage=0.5)",
        "pick,first_stage=2": "pick(by=likelihood, first_stage=2)",
    }
    assert {text: describe_judge(Selector.parse(text)) for text in texts} == texts
    assert describe_judge(Selector("attention")).endswith("first_stage=0.0)"), "as 2d4cd24 wrote it"


def test_a_later_option_is_written_unless_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value that reproduces 2d4cd24 decides, not today's default, and values are compared, not their texts."""
    monkeypatch.setattr(identity, "_FIRST_JUDGE_OPTIONS", {"attention": ("heads",)})
    reproducing = {"layers": "", "calibrate": True, "best_first": False, "first_stage": 1.0}
    monkeypatch.setattr(identity, "_LATER_JUDGE_OPTIONS", {"attention": reproducing})
    assert describe_judge(Selector("attention")) == "attention(heads=, first_stage=0.0)"
    assert describe_judge(Selector("attention", options={"first_stage": "1"})) == "attention(heads=)"
    assert describe_judge(Selector("attention", options={"first_stage": "1", "calibrate": "no"})) == (
        "attention(heads=, calibrate=no)"
    )
    monkeypatch.setattr(identity, "_FIRST_STRATEGY_OPTIONS", {"full": ()})
    monkeypatch.setattr(identity, "_LATER_STRATEGY_OPTIONS", {"full": {"top_k": 10}})
    assert describe_strategy("full", Full()) == "Full(top_k=None)"
    assert describe_strategy("full", Full(top_k=10)) == "Full()"
