"""The grammar of selectors, and options that become arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import UnknownNameError, UsageError
from rerank.selector import Selector, build_from_selector, selector_syntax
from rerank.strategies import strategies as STRATEGIES
from rerank.strategies.sliding import Sliding
from tests.raising import raises


@given(
    st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True),
    st.text("abc/., ", max_size=12).filter(lambda s: s.strip() == s),
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True), st.text("abc/.", max_size=5), max_size=3),
)
def test_round_trip(name: str, argument: str, options: dict[str, str]) -> None:
    text = f"{name}:{argument}" + "".join(f",{key}={value}" for key, value in options.items())
    assert Selector.parse(text) == Selector(name, argument, options)


def test_commas_in_paths_and_dashes_in_keys() -> None:
    assert Selector.parse("beir:a,b/c,drop-self=no") == Selector("beir", "a,b/c", {"drop_self": "no"})
    assert Selector.parse("bm25,k1=1.2").options == {"k1": "1.2"}


@pytest.mark.parametrize("text", ["", ":", ":path", ",k=v"])
def test_a_selector_names_something(text: str) -> None:
    with raises(UsageError, repr(text)):
        Selector.parse(text)


def test_build_converts_options() -> None:
    assert build_from_selector(STRATEGIES, "sliding,size=4,stride=2") == Sliding(size=4, stride=2)


def test_build_says_what_is_wrong() -> None:
    with raises(UnknownNameError, "'stride'"):
        build_from_selector(STRATEGIES, "sliding,strid=2")
    with raises(UsageError, "size='many'"):
        build_from_selector(STRATEGIES, "sliding,size=many")
    with raises(UsageError, "sliding,size="):
        build_from_selector(STRATEGIES, "sliding:argument")


def test_an_unknown_option_says_which_there_are() -> None:
    with pytest.raises(UnknownNameError) as caught:
        build_from_selector(STRATEGIES, "full,size=3")
    assert str(caught.value) == "Unknown option of 'full': 'size'; expected one of: top_k"


def test_usage_shows_every_option() -> None:
    assert selector_syntax("sliding", Sliding) == "sliding,size=...,stride=...,passes=...,top_k=..."


@pytest.mark.parametrize(
    ("text", "argument", "options"),
    [
        ("hybrid:(bm25,k1=1,b=0)+dense,depth=5", "(bm25,k1=1,b=0)+dense", {"depth": "5"}),
        ("trec:docs=a(1,b=2).xml,topics=t", "", {"docs": "a(1,b=2).xml", "topics": "t"}),
        ("beir:a(1,split=dev", "a(1", {"split": "dev"}),
        ("beir:a)1,split=dev", "a)1", {"split": "dev"}),
        ("x:((a,b=1),c=2),d=3", "((a,b=1),c=2)", {"d": "3"}),
    ],
)
def test_commas_in_parentheses_start_no_option(text: str, argument: str, options: dict[str, str]) -> None:
    assert Selector.parse(text) == Selector(text.partition(":")[0], argument, options)
