"""Words, character pairs, stop words, stems and segmenters."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank.collections.base import Corpus
from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.indexing import text_analysis
from rerank.indexing.text_analysis import TREATED, make_analyzer, split_into_terms
from rerank.retrieval import open_first_stage
from rerank.types import Query
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


MakeCorpus = Callable[..., Corpus]


def need(*modules: str) -> None:
    """Skip where one is not installed; not imported here, since jieba's source makes Python warn."""
    for name in modules:
        if find_spec(name) is None:
            pytest.skip(f"the extra cjk is not installed (no {name})")


@pytest.fixture
def chinese() -> Callable[[str], list[str]]:
    need("jieba")
    return make_analyzer("zh")


@pytest.fixture
def japanese() -> Callable[[str], list[str]]:
    need("unidic_lite", "fugashi")
    return make_analyzer("ja")


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("，。！", []),
        ("北京是中国的首都。", ["北京", "是", "中国", "的", "首都"]),
        ("研究生命的起源", ["研究", "生命", "的", "起源"]),
        ("用Ｐｙｔｈｏｎ搜索引擎", ["用", "python", "搜索", "索引", "引擎", "搜索引擎"]),
        ("验证码，收不到？", ["验证", "验证码", "不到", "收不到"]),
        ("猫", ["猫"]),
        ("中文カタカナ中文", ["中文", "カタ", "タカ", "カナ", "中文"]),
        ("中文 한국어", ["中文", "한국", "국어"]),
        ("𠀀", ["𠀀"]),
        ("the wings", ["the", "wings"]),
    ],
)
def test_chinese(chinese: Callable[[str], list[str]], text: str, terms: list[str]) -> None:
    assert chinese(text) == terms


def test_traditional_and_simplified_are_not_converted(chinese: Callable[[str], list[str]]) -> None:
    assert not set(chinese("龍馬")) & set(chinese("龙马")) - {"馬", "马"}


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("猫が魚を食べました。", ["猫", "が", "魚", "を", "食べる", "ます", "た"]),
        ("走らなかった", ["走る", "ない", "た"]),
        ("関西国際空港", ["関西", "国際", "空港"]),
        ("ＣＰＵの速度、100倍", ["cpu", "の", "速度", "100", "倍"]),
        ("ｺﾝﾋﾟｭｰﾀｰ", ["コンピューター"]),
        ("検索 한국어", ["検索", "한국", "국어"]),
    ],
)
def test_japanese(japanese: Callable[[str], list[str]], text: str, terms: list[str]) -> None:
    assert japanese(text) == terms


def test_japanese_as_written(japanese: Callable[[str], list[str]]) -> None:
    assert make_analyzer("ja", stemmer="none")("走らなかった") == ["走ら", "なかっ", "た"]


@pytest.mark.parametrize("code", ["zh", "ja"])
@given(text=st.text(alphabet="東京都へ行く。龙𠀀ーxyé1 ，ｶﾞ"))
def test_no_character_is_lost(code: str, text: str) -> None:
    """Every Han character is in some word, whatever stands around it."""
    need("jieba", "unidic_lite", "fugashi")
    words = make_analyzer(code, stemmer="none")(text)
    assert all(words)
    assert {c for c in text if c in "東京都行龙𠀀"} <= set("".join(words))


@pytest.mark.parametrize(
    ("language", "module", "package"),
    [("zh", "jieba", "Chinese"), ("ja", "fugashi", "Japanese"), ("cmn", "jieba", "Chinese")],
)
def test_without_the_package(
    make_corpus: MakeCorpus, cache: Path, monkeypatch: pytest.MonkeyPatch, language: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for made in (text_analysis._segment_chinese, text_analysis._segment_japanese):
        made.cache_clear()
    corpus = make_corpus("北京是首都", language=language)
    with pytest.raises(MissingPrerequisiteError, match=rf"{package} .*pip install .*\[cjk\]'.*segmenter=pairs"):
        open_first_stage("bm25", corpus)
    assert not cache.exists(), "nothing was read before it was said"
    run = open_first_stage("bm25,segmenter=pairs", corpus).search([Query(id="q", text="首都")], 5)
    assert run["q"].doc_ids == ("d1",)
    assert make_analyzer("en")("the wings") == ["wing"]


def markers(cache: Path) -> Iterator[dict[str, str]]:
    for path in sorted(cache.glob("indexes/*/bm25-*/marker.json")):
        yield json.loads(path.read_text("utf-8"))["made_from"]


def test_the_segmenter_is_part_of_the_index(
    make_corpus: MakeCorpus, cache: Path, chinese: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus("蜂巢取快递验证码", "上海在东海边", language="zh")
    query = [Query(id="q", text="证码")]
    assert open_first_stage("bm25,segmenter=pairs", corpus).search(query, 5)["q"].doc_ids == ("d1",)
    assert open_first_stage("bm25", corpus).search([Query(id="q", text="验证")], 5)["q"].doc_ids == ("d1",)
    told = [made.get("segmenter", "") for made in markers(cache)]
    assert sorted(told)[0] == ""
    assert sorted(told)[1].startswith("jieba ")
    monkeypatch.setattr("rerank.indexing.text_analysis.version", lambda name: "99")
    open_first_stage("bm25", corpus)
    assert "jieba 99" in [made.get("segmenter") for made in markers(cache)]


def test_other_languages_keep_the_index_that_they_have(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus = make_corpus("wing")
    for selector in ("bm25", "bm25,segmenter=pairs", "bm25,segmenter=auto"):
        open_first_stage(selector, corpus)
    (made,) = markers(cache)
    assert "segmenter" not in made
    assert "segmenter" not in made["options"]


def test_japanese_verbs_are_found_in_another_form(
    make_corpus: MakeCorpus, japanese: Callable[[str], list[str]]
) -> None:
    corpus = make_corpus("彼は駅まで走った", "猫が好き", language="ja")
    assert open_first_stage("bm25", corpus).search([Query(id="q", text="走る")], 5)["q"].doc_ids == ("d1",)
    assert len(open_first_stage("bm25,segmenter=pairs", corpus).search([Query(id="q", text="走る")], 5)["q"]) == 0


@pytest.mark.shared
@pytest.mark.parametrize(("part", "longer"), [("ecom", 1.4), ("medical", 1.4), ("video", 1.4)])
def test_real_queries(shared: Path, chinese: Callable[[str], list[str]], part: str, longer: float) -> None:
    lines = (shared / "data" / "multi_cpr" / f"{part}.dev.query.txt").read_text("utf-8").splitlines()
    queries = [line.split("\t", 1)[1] for line in lines]
    assert len(queries) == 1000
    cut = [chinese(query) for query in queries]
    assert [query for query, words in zip(queries, cut, strict=True) if not words] == []
    words = [word for found in cut for word in found]
    assert sum(map(len, words)) / len(words) > longer
    assert sum(len(word) > 1 for word in words) / len(words) > 0.5
    assert max(map(len, words)) < 30
