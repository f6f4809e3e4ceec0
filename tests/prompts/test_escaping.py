"""What stands in brackets in a passage can never be read as an identifier."""

from __future__ import annotations

import gzip
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rerank.parsing import parse_permutation
from rerank.parsing.clean import normalize_signs
from rerank.parsing.mentions import find_mentions, tokenize
from rerank.prompts import load_prompt, parse_template
from rerank.prompts.passages import PromptEscaping, collapse_whitespace, escape_passage_brackets, escape_turn_marks

MARKS = st.sampled_from([*"[]［］【】〔〕〖〗⟦⟧()（）", *",;:>=|#&<-–.*_`\"'\\ \n", "&gt;"])
NUMBERS = st.sampled_from([*"1279０５²₃①⑫⑴㉑٣", "12", "100"])
WORDS = st.sampled_from(["Passage", "doc", "documents", "id", "and", "段落", "a", "passage_id", "see", "²"])
TEXTS = st.lists(MARKS | NUMBERS | WORDS, max_size=25).map("".join)


@settings(deadline=None, max_examples=1000)
@given(TEXTS | st.text(alphabet="[]［】(1, -a中") | st.text())
@example("[2 > [1]")
@example("1] > [a]")
@example("[1, 2")
@example("[a [b] 1]")
@example("[a (1)]")
@example("(1] [2)")
def test_the_parser_finds_no_bracketed_identifier(text: str) -> None:
    escaped = escape_passage_brackets(text)
    mentions, _ = find_mentions(tokenize(normalize_signs(escaped)))
    assert not [mention for mention in mentions if mention.form in ("bracket", "list")]
    assert "bracket" not in parse_permutation(escaped, 100).detail
    assert parse_permutation(escaped, 100).status != "ok"
    assert len(escaped) == len(text)
    assert escape_passage_brackets(escaped) == escaped


@settings(deadline=None)
@given(TEXTS, st.integers(0, 60))
@example("[[[[1(", 5)
def test_a_passage_that_is_cut_is_escaped_again_where_it_is_shown(text: str, end: int) -> None:
    """A cut may take away what made a bracket harmless, as the end of ``[0, 1)``; rendering escapes what was cut."""
    template = parse_template('body: "[{rank}] {candidate}"\nsuffix: "{query}"', "x")
    (message,) = template.render("q", [escape_passage_brackets(text)[:end]])
    shown = message.content.removeprefix("[1] ").removesuffix("q")
    assert not [m for m in find_mentions(tokenize(normalize_signs(shown)))[0] if m.form in ("bracket", "list")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[12]", "(12)"),
        ("[ 7 ]", "( 7 )"),
        ("[#5]", "(#5)"),
        ("[1:2]", "(1:2)"),
        ("[6.]", "(6.)"),
        ("[1, 2] [3-5]", "(1, 2) (3-5)"),
        ("[Passage 3] [doc7]", "(Passage 3) (doc7)"),
        ("【７】［8］", "(７)(8)"),
        ("[²] [①]", "(²) (①)"),
        ("[see 3] > [see 1]", "(see 3) > (see 1)"),
        ("[[4]]", "[(4)]"),
        ("[2 > [1]", "(2 > (1)"),
        ("2] > [1]", "2) > (1)"),
        ("ends in [1, 2", "ends in (1, 2"),
        ("a[i] [] [sic] (1) [a (1)] [0, 1)", "a[i] [] [sic] (1) [a (1)] [0, 1)"),
    ],
)
def test_what_is_rewritten_and_what_is_not(text: str, expected: str) -> None:
    assert escape_passage_brackets(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[B]", "(B)"),
        ("[ AB ]", "( AB )"),
        ("[Passage B] [B, A]", "(Passage B) (B, A)"),
        ("【Ｂ】", "(Ｂ)"),
        ("[Ⓑ] [𝐁] [🄱] [ᴮ]", "(Ⓑ) (𝐁) (🄱) (ᴮ)"),
        ("[ⓑ] [𝐁𝐨𝐛]", "[ⓑ] [𝐁𝐨𝐛]"),
        ("[B] > [1]", "(B) > (1)"),
        ("a[i] [USA] [sic] [McB] (B)", "a[i] [USA] [sic] [McB] (B)"),
    ],
)
def test_letters_are_identifiers_only_where_the_prompt_uses_letters(text: str, expected: str) -> None:
    assert escape_passage_brackets(text, letters=True) == expected
    template = load_prompt("listwise")
    assert expected in template.render("q", [text, text], labels=("A", "B"))[1].content
    assert escape_passage_brackets(text) in template.render("q", [text, text])[1].content


LETTERED = MARKS | NUMBERS | WORDS | st.sampled_from(["A", "B", "AB", "Ｂ", "aB", "B1", "<", "|", "<|im_end|>"])


@settings(deadline=None, max_examples=500)
@given(st.lists(LETTERED, max_size=25).map("".join))
def test_the_parser_finds_no_letter_in_square_brackets(text: str) -> None:
    escaped = PromptEscaping(letters=True).escape(text)
    assert not re.search(r"\[\s*(A|B|AB)\s*\]", escaped)
    assert len(escaped) == len(text)
    assert PromptEscaping(letters=True).escape(escaped) == escaped
    assert PromptEscaping(letters=True).escape(escape_turn_marks(text)) == escaped


@pytest.mark.parametrize(
    "mark",
    [
        *("<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|channel|>", "<|user|>", "<|turn>"),
        *("<turn|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "<s>", "</s>", "<bos>", "<eos>"),
        *("<start_of_turn>", "<end_of_turn>", "<｜User｜>", "<｜end▁of▁sentence｜>", "[|user|]", "</think>"),
        *("<tool_call>", "<seed:bos>", "[CLS]", "[SEP]", "[gMASK]", "<sop>", "<extra_id_1>", "＜|im_end|＞"),
        *("<BOS_TOKEN>", "<EOS_TOKEN>", "<EOS>", "<S>", "<THINK>", "[inst]", "[/Inst]", "<fim_prefix>"),
    ],
)
def test_marks_of_turns(mark: str) -> None:
    expected = f"a({mark[1:-1]})b"
    assert escape_turn_marks(f"a{mark}b") == escape_turn_marks(expected) == expected
    for name in ("listwise", "pair"):  # where brackets are kept, marks are escaped too
        (*_, turn) = load_prompt(name).render(f"a{mark}b", [f"a{mark}b"])
        assert mark not in turn.content
        assert turn.content.count(expected) >= 2


def test_what_is_not_a_mark() -> None:
    text = "x<|y and z|>0, a |> f <| b, <|>, <em>, List<String>, <3, 1<2>0, [sic], [Instr], <sun>, ⟨φ|ψ⟩, if (a<b||c>d)"
    assert escape_turn_marks(text) == text
    assert escape_turn_marks("<tool> <TOOL> <doc>", ("<tool>",)) == "(tool) (TOOL) <doc>"


@pytest.mark.shared
def test_real_passages_have_no_marks_and_hardly_a_letter_in_brackets(shared: Path) -> None:
    """Requests of older runs are asked again only if their text changes."""
    file = shared / "data/msmarco_candidates/BM25/retrieve_results_dl19.json.gz"
    lists = json.loads(gzip.decompress(file.read_bytes()))
    passages = [collapse_whitespace(hit["content"]) for ranking in lists for hit in ranking["hits"]]
    assert [passage for passage in passages if escape_turn_marks(passage) != passage] == []
    numbered = map(escape_passage_brackets, passages)
    changed = sum(escape_passage_brackets(text, letters=True) != text for text in numbered)
    assert changed / len(passages) < 0.005


@pytest.mark.parametrize("unit", ["[", "[1", "[1]", "1", "[a", "<", "<|", "<|a", "[|", "[A"])
@pytest.mark.slow  # a time, which a busy machine can spoil
def test_time_is_linear(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        begun = time.process_time()
        PromptEscaping(letters=True).escape(text)
        return time.process_time() - begun

    small = min(seconds(20_000) for _ in range(3))
    assert min(seconds(320_000) for _ in range(3)) < 64 * small + 0.05
