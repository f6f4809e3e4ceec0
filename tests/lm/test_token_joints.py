"""Which tokenizers have joints, and where."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("transformers")

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from rerank.lm.joined_tokens import _open_ends, regex_splits
from rerank.lm.tokenizers import HfTokens
from tests.lm.small_tokenizers import LLAMA3, WHOLE, gpt2, llama2, llama3, make, mistral, unigram


def open_ends(raw: Tokenizer, *added: AddedToken) -> str | None:
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=raw)  # type: ignore[no-untyped-call]
    tokenizer.add_tokens(list(added))
    return _open_ends(tokenizer)


def changed(family: Callable[[], Tokenizer], **components: Any) -> Tokenizer:
    raw = family()
    for name, component in components.items():
        setattr(raw, name, component)
    return raw


class Halves:
    """A pre-tokenizer in Python."""

    def pre_tokenize(self, pretokenized: Any) -> None:
        pretokenized.split(lambda _, text: [text])


def test_no_joint_after_the_end_of_an_added_token_or_a_character_that_a_token_continues_with_a_space() -> None:
    assert _open_ends(make(gpt2)) == ">▁"
    ends = _open_ends(make(mistral))
    assert {".", ">", "▁"} < set(ends or "")
    assert _open_ends(make(llama2)) == ">▁"


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
    assert open_ends(UNKNOWN[name]()) is None


def test_added_tokens_that_cross_a_space_or_depend_on_normalization() -> None:
    assert open_ends(gpt2(), AddedToken("  ")) is not None
    assert open_ends(gpt2(), AddedToken("a b")) is None
    assert open_ends(llama3(), AddedToken("foo", normalized=False)) == "o▁"
    assert open_ends(llama3(), AddedToken("foo", normalized=True)) is None
    assert open_ends(gpt2(), AddedToken("x")) is None  # which the carrier would be


def test_a_tokenizer_with_a_step_in_python_has_none() -> None:
    tokenizer = copy.copy(make(gpt2))
    tokenizer._tokenizer = gpt2()
    assert _open_ends(tokenizer) is not None
    tokenizer._tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(Halves())
    assert _open_ends(tokenizer) is None


@pytest.mark.parametrize("family", WHOLE)
def test_tokenizers_that_may_remove_characters_have_none(family: Callable[[], Tokenizer]) -> None:
    assert _open_ends(make(family)) is None


def test_a_slow_tokenizer_has_none() -> None:
    class Slow:
        is_fast = False

    assert _open_ends(Slow()) is None


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
    ("pattern", "splits"),
    [
        (LLAMA3, True),
        (LLAMA3.replace(r"\r\n", "\r\n"), True),
        (r"\p{N}{1,3}", False),
        (r" ?\p{L}+| ?\p{N}+", None),  # a space that no alternative matches
        (rf"{LLAMA3}|\w+ \w+", None),
        (DEEPSEEK, True),
        ("(a|b)|[|]", None),
    ],
)
def test_patterns(pattern: str, splits: bool | None) -> None:
    assert regex_splits(pattern) is splits
