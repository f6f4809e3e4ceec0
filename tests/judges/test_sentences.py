"""Division of texts into sentences, in several scripts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.judges.attention.evidence import split_sentences, split_words


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


@pytest.mark.parametrize(
    "expected",
    [
        ["It rains.", "Snow (a lot!) falls.", "Is 3.5 much?", "Yes."],
        ["Mr. J. Smith of the U.S. Army came.", 'He said "no."', "(He left!)", "Why?!", "Fine..."],
        ["See e.g. this one, i.e. that one.", "See Fig. 3 and No. 5.", "He said no.", "Then he left."],
        ["a wing in a slipstream .", "an experimental study of drag ."],
        ["1. First item.", "2. Second."],
        ["Plus 5.", "مرحبا؟", "نعم۔", "मैं हूँ।", "तुम हो।"],
    ],
)
def test_sentences_end_where_readers_see_them_end(expected: list[str]) -> None:
    assert sentences(" ".join(expected)) == expected
    assert sentences("  " + " \n ".join(expected) + "\n") == expected


@pytest.mark.parametrize(
    "expected",
    [["我爱你。", "他说：「好！」", "然后走了"], ["雨が降る。", "雪も？", "はい！！"], ["မိုးရွာတယ်။", "နှင်းကျတယ်။"]],
)
def test_scripts_without_spaces(expected: list[str]) -> None:
    assert sentences("".join(expected)) == expected


def test_empty_lines_and_bullets_end_sentences_and_other_line_breaks_do_not() -> None:
    assert sentences("A title\n\nhard\nwrapped text\r\n \r\n- one\n- two") == [
        "A title",
        "hard\nwrapped text",
        "- one",
        "- two",
    ]


def test_texts_without_marks_are_divided_at_the_best_place() -> None:
    words = "word " * 300
    assert [len(sentence) for sentence in sentences(words)] == [399, 399, 399, 299]
    assert all(sentence.startswith("word") for sentence in sentences(words))
    commas = "one " * 45 + "\n" + "one two three, " * 60
    assert [len(sentence) for sentence in sentences(commas)] == [390, 389, 299]
    assert all(sentence.endswith(",") for sentence in sentences(commas))
    thai = "ฉันรักแมว " * 60
    assert len(sentences(thai)) > 3
    assert all(sentence.startswith("ฉัน") for sentence in sentences(thai))
    assert {len(sentence) for sentence in sentences("東" * 420)} == {140}
    assert {len(sentence) for sentence in sentences("東東東ab" * 84)} == {140}
    assert {len(sentence) for sentence in sentences("東東abc" * 80)} == {400}


@pytest.mark.parametrize(
    ("character", "lengths"),
    [("e\u0301", [401, 400]), ("\u0301", [401]), ("👩\u200d👧", [400, 402]), ("👩\u200d❤\ufe0f\u200d👩", [403, 402])],
)
def test_a_division_keeps_what_is_read_as_one_character_together(character: str, lengths: list[int]) -> None:
    """Letters with their marks, and pictures that are joined."""
    assert [len(sentence) for sentence in sentences("x" + character * 400)][:2] == lengths


def test_texts_without_letters() -> None:
    assert sentences("") == sentences(" \n ") == []
    assert sentences("...") == ["..."]
    assert sentences("1. 2. 3.") == ["1. 2. 3."]


@given(st.text(alphabet="ab A.!?。,\n\t\u3000\u0301'-1", max_size=900))
def test_every_character_except_white_space_is_in_one_sentence(text: str) -> None:
    found = split_sentences(text)
    inside = [index for start, end in found for index in range(start, end)]
    assert inside == sorted(set(inside))
    assert {index for index, character in enumerate(text) if not character.isspace()} <= set(inside)
    for start, end in found:
        assert text[start:end].strip() == text[start:end] != ""


@given(st.text())
def test_words_cover_everything_but_white_space(text: str) -> None:
    words = split_words(text)
    assert "".join(text[start:end] for start, end in words) == "".join(text.split())


def test_words_of_scripts_without_spaces_are_characters_with_their_marks() -> None:
    text = "no 3.5% 雨天 ดีที่"
    assert [text[start:end] for start, end in split_words(text)] == ["no", "3.5%", "雨", "天", "ดี", "ที่"]
