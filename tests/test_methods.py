"""Method cards, names of methods, and the table of methods."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from rerank.assemble import assemble_ranker
from rerank.backends import BACKENDS
from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError, UnknownNameError, UsageError
from rerank.judges import judges
from rerank.methods import Method, _read_card, backends_of_method, describe_methods, method_names, open_method
from rerank.selector import Selector
from rerank.strategies import open_strategy, strategies
from tests.raising import raises


def test_the_names_of_the_field_are_there() -> None:
    published = {"fullrank", "sliding", "multipass", "icr", "qrhead", "core", "first", "setwise", "tourrank", "topdown"}
    assert published | {"pairwise", "pointwise", "cross-encoder", "qlm", "psc"} <= set(method_names())
    assert method_names() == sorted(method_names())


@pytest.mark.parametrize("name", method_names())
def test_a_card_holds_what_it_should(name: str) -> None:
    method = open_method(name)
    assert method.name == name
    assert method.strategy.name in strategies.names()
    assert method.judge.name in judges.names()
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
        windows = open_strategy(method.strategy).calls(100)
        assert row["calls_per_100"] == windows * judges.get(method.judge.name).calls(100)
        assert (method.backend or "hf") in row["backends"]
    assert rows["icr"]["calls_per_100"] == rows["first-full"]["calls_per_100"] == 1
    assert rows["first"]["calls_per_100"] == 9
    assert rows["topdown"]["calls_per_100"] == 7
    assert rows["tourrank"]["calls_per_100"] == 13
    assert rows["pointwise"]["calls_per_100"] == 100
    assert rows["icr"]["backends"] == ["fake", "fake_server", "hf"]


def test_a_pair_without_a_card() -> None:
    assert open_method("multipass:generate") == Method(
        name="multipass:generate", strategy=Selector("multipass"), judge=Selector("generate")
    )


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("fulrank", ("'fulrank'", "'fullrank'")),
        ("", ("method ''",)),
        ("slide:generate", ("strategy 'slide'", "'sliding'")),
        ("sliding:generator", ("judge 'generator'", "'generate'")),
        ("sliding:", ("judge ''",)),
        ("../sliding", ("method",)),
    ],
)
def test_unknown_methods(name: str, named: tuple[str, ...]) -> None:
    with raises(UnknownNameError, *named):
        open_method(name)


def test_identifiers_of_letters_come_with_a_prompt_that_speaks_of_letters() -> None:
    assert open_method("sliding,identifiers=letters").own_prompt == "listwise_letters"
    assert open_method("sliding,identifiers=numbers").own_prompt == open_method("sliding").own_prompt == ""


@pytest.mark.parametrize("name", ["sliding,size", "sliding,size,stride=5", "sliding:generate,10"])
def test_an_option_without_a_value_is_not_dropped(name: str) -> None:
    with raises(UsageError, "KEY=VALUE"):
        open_method(name)


def test_a_strategy_alone_is_no_method() -> None:
    with raises(UsageError, "'full'", "full:generate", "full:JUDGE"):
        open_method("full")


def test_prompts_with_pictures_need_a_backend_that_sees_them() -> None:
    for name in ("fullrank-images", "pointwise-images"):
        assert backends_of_method(open_method(name)) == ["fake", "fake_server", "vlm"]
    assert {"hf", "openai", "vlm"} <= set(backends_of_method(open_method("fullrank")))


@pytest.mark.parametrize("name", method_names())
def test_the_list_and_the_check_before_a_run_agree(name: str) -> None:
    """A backend that is not in the list is refused before anything is searched or loaded."""
    served = backends_of_method(open_method(name))
    for backend in BACKENDS.names():
        setup = assemble_ranker({"model": f"{backend}:perfect", "method": name})
        if backend in served:
            with contextlib.suppress(UnknownNameError, MissingResourceError):  # there is no such model
                setup.check_backend()
        else:
            with pytest.raises(UsageError) as caught:
                setup.check_backend()
            assert not isinstance(caught.value, UnknownNameError)


CARD = 'strategy = "sliding"\njudge = "logits"\noptions = "size=4,stride=2"\npaper = "ours"\nsummary = "Short"\n'


def install_card(site: Path, name: str, content: str | bytes | None) -> None:
    """Install a distribution with a method card as pip would."""
    package = site / "cards"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode("utf-8")
        (package / f"{name}.toml").write_bytes(data)
    info = site / "cards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cards\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[rerank.methods]\n{name} = cards\n", encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions."""
    monkeypatch.syspath_prepend(tmp_path)
    _read_card.cache_clear()
    yield tmp_path
    _read_card.cache_clear()
    sys.modules.pop("cards", None)


def test_another_distribution_adds_a_card(site: Path) -> None:
    install_card(site, "short", CARD)
    assert "short" in method_names()
    assert open_method("short,stride=1") == Method(
        name="short",
        strategy=Selector("sliding", options={"size": "4", "stride": "1"}),
        judge=Selector("logits"),
        paper="ours",
        summary="Short",
    )
    (row,) = [row for row in describe_methods() if row["name"] == "short"]
    assert row["options"] == "size=4,stride=2"


def test_a_card_cannot_replace_a_built_in_method(site: Path) -> None:
    install_card(site, "fullrank", CARD)
    with pytest.warns(UserWarning, match="'fullrank' in the package 'cards' is ignored"):
        assert open_method("fullrank").strategy == Selector("full")
    with pytest.warns(UserWarning, match="'cards'"):
        assert [row["name"] for row in describe_methods()].count("fullrank") == 1


#: The content of invalid cards, the error, and what it names.
INVALID: Mapping[str, tuple[str | bytes | None, type[Exception], str]] = {
    "no file": (None, MissingPrerequisiteError, "'short'"),
    "no TOML": ("strategy = ", DataError, "'short'"),
    "no judge": ('strategy = "sliding"', DataError, "judge"),
    "an unknown key": (CARD + 'colour = "red"', DataError, "colour"),
    "no UTF-8": (CARD.replace("ours", "M\u00fcller").encode("latin-1"), DataError, "'short'"),
    "an unknown strategy": (CARD.replace("sliding", "slidin"), UnknownNameError, "'sliding'"),
    "an unknown judge": (CARD.replace("logits", "logit"), UnknownNameError, "'logits'"),
    "an unknown option": (CARD.replace("stride", "strides"), UnknownNameError, "'stride'"),
    "an invalid option": (CARD.replace("size=4", "size=four"), UsageError, "size='four'"),
    "an invalid option of the judge": (
        CARD.replace("logits", "generate").replace("size=4", "constrain=perhaps"),
        UsageError,
        "constrain='perhaps'",
    ),
    "a number as options": (CARD.replace('"size=4,stride=2"', "5"), DataError, "options = 5"),
    "a word as options": (CARD.replace("size=4,stride=2", "constrain"), DataError, "KEY=VALUE"),
    "a list as summary": (CARD.replace('"Short"', "[]"), DataError, "summary"),
    "an unknown backend": (CARD + 'backend = "nosuch"\n', UnknownNameError, "'nosuch'"),
}


@pytest.mark.parametrize("card", INVALID)
def test_an_invalid_card(site: Path, card: str) -> None:
    content, error, named = INVALID[card]
    install_card(site, "short", content)
    with raises(error, named):
        open_method("short")
    with pytest.warns(UserWarning, match="The method 'short' is ignored"):
        rows = describe_methods()
    assert [row["name"] for row in rows] == [name for name in method_names() if name != "short"]


def test_an_unknown_prompt_is_reported_where_it_is_needed(site: Path) -> None:
    install_card(site, "short", CARD + 'prompt = "nosuch"\n')
    with pytest.warns(UserWarning, match="'nosuch'"):
        assert "fullrank" in {row["name"] for row in describe_methods()}
    with raises(UnknownNameError, "'nosuch'"):
        assemble_ranker({"model": "fake:perfect", "method": "short"})
