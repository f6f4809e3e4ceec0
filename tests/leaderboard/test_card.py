"""Cards: what they say, what they leave unknown, and that every fault is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from rerank.errors import DataError, MissingResourceError
from rerank.leaderboard.card import Card, parse_card, read_card
from tests.raising import raises


def test_what_a_card_leaves_out_is_unknown() -> None:
    card = Card(name="a")
    assert (card.tokens, card.seconds, card.cost, card.depth) == (None, None, None, None)
    assert card.group == ""


def test_a_card_goes_over_another() -> None:
    card = Card(name="a", tokens=0).with_defaults(Card(name="b", tokens=5, group="official"))
    assert (card.name, card.tokens, card.group) == ("a", 0, "official")
    assert card.with_name("c").name == "a"
    assert Card().with_name("c").name == "c"


def test_a_card_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\ndepth = 100\nseconds = 1.5\n')
    assert read_card(tmp_path / "a.toml") == Card(name="a", depth=100, seconds=1.5)
    with pytest.raises(MissingResourceError):
        read_card(tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name = ", "TOML"),
        ("nmae = 'a'", "'name'"),
        ("depth = 0", "depth = 0"),
        ("tokens = -1", "tokens = -1"),
        ("seconds = nan", "seconds"),
        ("cost = inf", "cost"),
        ("sha256 = 'abc'", "sha256 = 'abc'"),
        ("tokens = 'many'", "tokens = 'many'"),
    ],
)
def test_a_wrong_card(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with raises(DataError, "a.toml", fault):
        read_card(tmp_path / "a.toml")


def test_every_fault_is_told() -> None:
    card, problems = parse_card({"nmae": "a", "depth": -1, "tokens": "many", "model": "m"})
    assert card == Card(model="m")
    assert len(problems) == 3
