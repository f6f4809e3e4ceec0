from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.errors import UnknownNameError, UsageError
from rerank.indexing.text_analysis import TREATED, make_analyzer, split_into_terms
from tests.raising import raises


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("a . !", []),
        ("Wings of 2 F-16s", ["wings", "of", "16s"]),
        ("os.path read_text", ["os", "path", "read_text"]),
        ("naïve CAFÉ", ["naïve", "café"]),
        ("cafe\u0301", ["café"]),
        ("हिन्दी किताब", ["हिन्दी", "किताब"]),
        ("ﬁn ＡＢ", ["fin", "ab"]),
        ("é", []),
        ("搜索引擎", ["搜索", "索引", "引擎"]),
        ("搜", ["搜"]),
        ("用bm25搜索，x好", ["用", "bm25", "搜索", "好"]),
        ("ｶﾞｷﾞﾉ", ["ガギ", "ギノ"]),
        ("한국어 검색", ["한국", "국어", "검색"]),
        ("ภาษา", ["ภา", "าษ", "ษา"]),
        ("𠀀𠀁x", ["𠀀𠀁"]),
        ("\ud800 half a pair", ["half", "pair"]),
    ],
)
def test_split(text: str, terms: list[str]) -> None:
    assert split_into_terms(text) == terms


@given(st.text(alphabet=st.characters(max_codepoint=0x7F)))
def test_split_of_plain_ascii_is_the_rule_of_bm25s(text: str) -> None:
    assert split_into_terms(text) == re.findall(r"(?u)\b\w\w+\b", text.lower())


@given(st.text())
def test_split_is_total_and_gives_no_empty_term(text: str) -> None:
    assert all(split_into_terms(text))


@given(st.lists(st.text(alphabet="漢字仮名éxy1", min_size=1), max_size=5))
def test_terms_of_separate_words_do_not_mix(words: list[str]) -> None:
    assert split_into_terms(" ".join(words)) == [term for word in words for term in split_into_terms(word)]


def test_english_drops_stop_words_before_it_stems() -> None:
    assert make_analyzer("en")("The wings are flying with this") == ["wing", "fli"]


def test_another_language_has_its_own_words() -> None:
    assert make_analyzer("de")("Die Häuser und der Flug") == ["haus", "flug"]


@pytest.mark.parametrize("code", ["no", "nb", "nn-NO"])
def test_norwegian_has_one_analyzer(code: str) -> None:
    assert make_analyzer(code)("fuglene og husene") == ["fugl", "hus"]


def test_region_and_case_of_the_code_do_not_matter() -> None:
    assert make_analyzer("EN-us")("the wings") == ["wing"]
    pairs = make_analyzer("zh_TW", segmenting="pairs")
    assert pairs("我们的") == ["我们", "们的"]  # though bm25s lists stop words for zh


@pytest.mark.parametrize("code", ["sw", "und", "mul", "th"])
def test_a_language_without_rules_is_only_split(code: str) -> None:
    assert make_analyzer(code)("the wings") == ["the", "wings"]


@pytest.mark.parametrize("code", ["xx", "", "english", "12"])
def test_unknown_language_is_refused_with_a_list(code: str) -> None:
    with pytest.raises(UsageError, match=rf"Unknown language '{code}'.*ISO 639-1.*\bde, .*\bzh\b.*und") as caught:
        make_analyzer(code)
    assert caught.value.exit_code == 2


def test_country_for_language() -> None:
    with pytest.raises(UsageError):
        make_analyzer("jp")


@pytest.mark.parametrize("code", TREATED)
def test_languages_with_rules_have_some(code: str) -> None:
    made = make_analyzer(code, segmenting="pairs")
    assert made.stem or made.stop_words or made("搜索引擎") == ["搜索", "索引", "引擎"]


def test_options_override_the_language() -> None:
    assert make_analyzer("en", stemmer="none", stop_words="none")("the wings") == ["the", "wings"]
    assert make_analyzer("und", stemmer="english", stop_words="en")("the wings") == ["wing"]
    assert "about" not in make_analyzer("en", stop_words="english_plus")("about wings")


def test_unknown_stemmer_is_suggested() -> None:
    with raises(UnknownNameError, "'englsh'", "'english'"):
        make_analyzer("en", stemmer="englsh")


def test_unknown_stop_words() -> None:
    with raises(UsageError, "'klingon'"):
        make_analyzer("en", stop_words="klingon")
