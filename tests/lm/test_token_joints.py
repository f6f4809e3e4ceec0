"""Which tokenizers have joints, and where."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("transformers")

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from rerank.lm.token_joints import Joints, Split, find_token_joints, pretokenizer_regex_split
from rerank.lm.tokenizers import HfTokens
from tests.lm.small_tokenizers import LLAMA3, gpt2, llama2, make, mistral, unigram, wordpiece


def joints_of(raw: Tokenizer, *added: AddedToken) -> Joints | None:
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=raw)  # type: ignore[no-untyped-call]
    tokenizer.add_tokens(list(added))
    return find_token_joints(tokenizer)


def changed(family: Callable[[], Tokenizer], **components: Any) -> Tokenizer:
    raw = family()
    for name, component in components.items():
        setattr(raw, name, component)
    return raw


class Halves:
    """A pre-tokenizer in Python."""

    def pre_tokenize(self, pretokenized: Any) -> None:
        pretokenized.split(lambda _, text: [text])


def test_a_joint_is_after_anything_but_white_space_and_added_tokens() -> None:
    joints = find_token_joints(make(gpt2))
    assert joints is not None
    for closed in ("a", ".", "é", "日", "\n[1]", "a\u0301", "<|im_end|", "< |im_end|>"):
        assert joints.closes(closed), closed
    for open_ in ("", " ", "a\n", "a\t", "\u00a0", "▁", "<|im_end|>", "x</s>"):
        assert not joints.closes(open_), open_


def test_no_joint_after_what_the_normalizer_turns_into_white_space_or_nothing() -> None:
    joints = find_token_joints(make(unigram))
    assert joints is not None
    assert joints.closes("a")
    assert joints.closes("ｶﾞ½ﬁ")
    for open_ in ("a\u200b", "a\u0301", "\x00", "\u3000"):
        assert not joints.closes(open_), open_


def test_no_joint_after_a_character_that_a_token_continues_with_a_space() -> None:
    joints = find_token_joints(make(mistral))
    assert joints is not None
    assert "." in joints.crossing
    assert not joints.closes("end.")
    clean = find_token_joints(make(llama2))
    assert clean is not None
    assert not clean.crossing


UNKNOWN = {
    "regular expression": lambda: changed(gpt2, pre_tokenizer=pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated")),
    "merged with the word before": lambda: changed(
        gpt2, pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous")
    ),
    "fixed length": lambda: changed(gpt2, pre_tokenizer=pre_tokenizers.FixedLength(4)),
    "spaces are gone": lambda: changed(
        llama2, pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Digits()])
    ),
    "unigram on whole texts": lambda: changed(unigram, pre_tokenizer=pre_tokenizers.Metaspace(split=False)),
    "replaced text with a space": lambda: changed(gpt2, normalizer=normalizers.Replace("a b", "c")),
    "replaced regular expression": lambda: changed(gpt2, normalizer=normalizers.Replace(Regex("a.b"), "c")),
    "random merges": lambda: changed(gpt2, model=models.BPE({"a": 0}, [], dropout=0.1)),
    "no metaspace": lambda: changed(llama2, model=models.BPE({"a": 0}, [])),
    "a suffix of words": lambda: changed(llama2, model=models.BPE({"▁": 0}, [], end_of_word_suffix="</w>")),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_tokenizer_of_another_kind_has_none(name: str) -> None:
    assert joints_of(UNKNOWN[name]()) is None


def test_added_tokens_that_cross_a_space_or_depend_on_normalization() -> None:
    assert joints_of(gpt2(), AddedToken("  ")) is not None
    assert joints_of(gpt2(), AddedToken("a b")) is None
    assert joints_of(wordpiece(), AddedToken("foo", normalized=False)) is not None
    assert joints_of(wordpiece(), AddedToken("foo", normalized=True)) is None
    assert joints_of(gpt2(), AddedToken("x")) is None  # which the carrier would be


def test_a_tokenizer_with_a_step_in_python_has_none() -> None:
    tokenizer = copy.copy(make(gpt2))
    tokenizer._tokenizer = gpt2()
    assert find_token_joints(tokenizer) is not None
    tokenizer._tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Halves())
    assert find_token_joints(tokenizer) is None


def test_a_slow_tokenizer_has_none() -> None:
    class Slow:
        is_fast = False

    assert find_token_joints(Slow()) is None


def test_without_joints_texts_are_tokenized_as_a_whole() -> None:
    from transformers import PreTrainedTokenizerFast

    raw = UNKNOWN["merged with the word before"]()
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=raw)  # type: ignore[no-untyped-call]
    tokens = HfTokens(tokenizer, context_size=100)
    text = "The fleas live [1]\n[2] weeks"
    assert tokens.ids(text) == tokenizer(text)["input_ids"]
    assert tokens.lengths([text]) == [len(tokens.plain(text))]
    ids, counts = tokens.tokens_before(text, [0, len(text)])
    assert (ids, counts) == (tokens.ids(text), [0, len(ids)])


DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("pattern", "split"),
    [
        (LLAMA3, Split.ALWAYS),
        (LLAMA3.replace(r"\r\n", "\r\n"), Split.ALWAYS),
        (r"\p{N}{1,3}", Split.NEVER),
        (r" ?\p{L}+| ?\p{N}+", None),  # a space that no alternative matches
        (rf"{LLAMA3}|\w+ \w+", None),
        (DEEPSEEK, Split.ALWAYS),
        ("(a|b)|[|]", None),
    ],
)
def test_patterns(pattern: str, split: Split | None) -> None:
    assert pretokenizer_regex_split(pattern) is split
