from __future__ import annotations

import pytest

from rerank.errors import UnknownNameError, UsageError
from rerank.judges import judges
from rerank.methods import Method, describe_methods, method_names, open_method
from rerank.strategies import open_strategy, strategies


def test_the_names_of_the_field_are_there() -> None:
    published = {"fullrank", "sliding", "multipass", "icr", "qrhead", "core", "first", "setwise", "tourrank", "topdown"}
    assert published | {"pairwise", "pointwise", "cross-encoder", "qlm", "psc"} <= set(method_names())
    assert method_names() == sorted(method_names())


@pytest.mark.parametrize("name", method_names())
def test_a_card_holds_what_it_should(name: str) -> None:
    method = open_method(name)
    assert method.name == name
    assert method.strategy in strategies.names()
    assert method.judge in judges.names()
    assert method.paper
    assert method.summary
    assert not method.summary.endswith(".")


def test_rows_and_the_formulas_behind_them() -> None:
    rows = {row["name"]: row for row in describe_methods()}
    assert list(rows) == method_names()
    size, stride = 20, 10
    assert rows["fullrank"]["calls_per_100"] == 1
    assert rows["sliding"]["calls_per_100"] == -(-(100 - size) // stride) + 1 == 9
    # Each pass freezes the head of the list, a stride at a time, and what is left is slid over again.
    lengths = range(100, size, -stride)
    assert rows["multipass"]["calls_per_100"] == sum(-(-(n - size) // stride) + 1 for n in lengths) + 1 == 45
    for row in rows.values():
        method = open_method(row["name"])
        windows = open_strategy(method.strategy_selector).calls(100)
        assert row["calls_per_100"] == windows * judges.get(method.judge).calls(100)
        assert (method.backend or "hf") in row["backends"]
    assert rows["icr"]["calls_per_100"] == rows["first-full"]["calls_per_100"] == 1
    assert rows["first"]["calls_per_100"] == 9
    assert rows["topdown"]["calls_per_100"] == 7
    assert rows["tourrank"]["calls_per_100"] == 13
    assert rows["pointwise"]["calls_per_100"] == 100
    assert rows["icr"]["backends"] == ["fake", "hf", "replay"]


def test_a_pair_without_a_card() -> None:
    assert open_method("multipass:generate") == Method(
        name="multipass:generate", strategy="multipass", judge="generate"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fulrank", "Unknown method 'fulrank'.*Did you mean 'fullrank'"),
        ("", "Unknown method ''"),
        ("slide:generate", "Unknown strategy 'slide'.*Did you mean 'sliding'"),
        ("sliding:generator", "Unknown judge 'generator'.*Did you mean 'generate'"),
        ("sliding:", "Unknown judge ''"),
        ("../sliding", "Unknown method"),
    ],
)
def test_unknown_methods(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        open_method(name)


def test_identifiers_of_letters_come_with_a_prompt_that_speaks_of_letters() -> None:
    assert open_method("sliding,identifiers=letters").own_prompt == "listwise_letters"
    assert open_method("sliding,identifiers=numbers").own_prompt == open_method("sliding").own_prompt == ""


@pytest.mark.parametrize("name", ["sliding,size", "sliding,size,stride=5", "sliding:generate,10"])
def test_an_option_without_a_value_is_not_dropped(name: str) -> None:
    with pytest.raises(UsageError, match="options as KEY=VALUE"):
        open_method(name)
