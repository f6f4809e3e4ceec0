"""Joined tokens against the tokenizer itself, for every family of tokenizers and for texts that are hard for them."""

from __future__ import annotations

import copy
import random
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

pytest.importorskip("transformers")

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from rerank.lm import tokenizers
from rerank.lm.joined_tokens import JoinedTokenizer, _open_ends, regex_splits, token_starts
from rerank.lm.tokenizers import HfTokens
from rerank.prompts import load_prompt
from tests.lm.small_tokenizers import (
    CORPUS,
    FAMILIES,
    LLAMA3,
    TEXTS,
    WHOLE,
    gpt2,
    llama2,
    llama3,
    make,
    mistral,
    unigram,
)

families = pytest.mark.parametrize("family", FAMILIES)
all_families = pytest.mark.parametrize("family", [*FAMILIES, *WHOLE])
PROMPTS = ("listwise", "listwise_examples", "listwise_multiturn", "pick", "pointwise", "icr_qa")


@cache
def joined(family: Callable[[], Any]) -> JoinedTokenizer:
    made = JoinedTokenizer.of(make(family))
    assert made is not None, "every family has joints"
    return made


@cache
def tokens_of(family: Callable[[], Any], *, template: bool = True, by_text: bool = False) -> HfTokens:
    """A counter of its own; ``by_text`` tokenizes whole texts, as for a tokenizer without joints."""
    tokens = HfTokens(make(family, template=template), context_size=4096, join=not by_text)
    assert (tokens.joined is None) == (by_text or family in WHOLE)
    return tokens


def check_text(tokenizer: Any, pieces: JoinedTokenizer, text: str) -> None:
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    (divided,) = pieces.divide([text])
    assert divided.joined() == whole["input_ids"]
    assert sum(map(len, divided.ids)) == len(whole["input_ids"])
    positions = range(len(text) + 1)
    ends = positions[:: 1 + len(text) // 40]
    for end, length in zip(ends, pieces.prefix_lengths(text, ends), strict=True):
        if length is not None:
            alone = tokenizer(text[:end], add_special_tokens=False)["input_ids"]
            assert whole["input_ids"][:length] == alone
    starts = token_starts(whole["offset_mapping"])
    assert pieces.tokens_before(text, positions) == [bisect_left(starts, position) for position in positions]


@families
@given(text=TEXTS)
@example(text=" ".join(CORPUS))
@example(text="a  <s> b </s>  c\n d\n\n[2] e\u0301 \u0301 x <|im_start|> y<|im_end|> z  ")
@example(text="[MASK]  a [MASK] . \u00a0\u0e33  b")
def test_pieces_give_the_tokens_of_the_whole_text(family: Callable[[], Any], text: str) -> None:
    check_text(make(family), joined(family), text)


@pytest.mark.model
@given(text=TEXTS)
@example(text=" ".join(CORPUS))
def test_pieces_give_the_tokens_of_the_embedded_model(text: str) -> None:
    check_text(*embedded(), text)


@cache
def embedded() -> tuple[Any, JoinedTokenizer]:
    from transformers import AutoTokenizer

    from rerank.models import resolve_model_name

    tokenizer = AutoTokenizer.from_pretrained(resolve_model_name("smollm2-135m"))
    pieces = JoinedTokenizer.of(tokenizer)
    assert pieces is not None
    return tokenizer, pieces


@all_families
@given(texts=st.lists(TEXTS, max_size=4), tokens=st.integers(-1, 40))
def test_cuts_and_lengths_are_those_of_whole_texts(family: Callable[[], Any], texts: list[str], tokens: int) -> None:
    by_pieces, by_text = tokens_of(family), tokens_of(family, by_text=True)
    assert by_pieces.lengths(texts) == by_text.lengths(texts)
    assert [by_pieces.cut(text, tokens) for text in texts] == [by_text.cut(text, tokens) for text in texts]
    assert [by_pieces.plain(text) for text in texts] == [by_text.plain(text) for text in texts]


@all_families
@pytest.mark.parametrize("template", [True, False])
@given(name=st.sampled_from(PROMPTS), query=TEXTS, passages=st.lists(TEXTS, min_size=1, max_size=4))
def test_prompts_have_the_tokens_of_their_text(
    family: Callable[[], Any], template: bool, name: str, query: str, passages: list[str]
) -> None:
    tokens = tokens_of(family, template=template)
    shown = passages[:1] if name == "pointwise" else passages
    prompt = load_prompt(name).render(query, shown)
    text = tokens.chat.render(prompt)
    (ids,) = tokens.encode([prompt])
    assert ids == tokens.tokenizer(text, add_special_tokens=not template)["input_ids"]
    assert tokens.count(prompt) == len(ids)
    assert tokens.render(prompt) == text
    positions = range(0, len(text), 7)
    assert tokens.tokens_before(text, positions) == tokens_of(family, template=template, by_text=True).tokens_before(
        text, positions
    )
    for length in tokens.boundaries(prompt):
        assert 0 < length < len(ids)


def long_texts() -> dict[str, str]:
    """Texts of 10,000 characters without joints, or with many."""
    rng = random.Random(0)
    kinds = {
        "cjk": [chr(code) for code in range(0x4E00, 0x5E00)],
        "spaces": [" "],
        "whitespace": [" ", "\n", "\t"],
        "hex": [*"0123456789abcdef"],
        "same": ["a"],
        "emoji": ["😀", "👩‍💻", "e\u0301", "ﬁ"],
        "words": ["learn", "ing", "token", "_", "New", "。"],
        "text": ["the ", "flea's ", "12 ", "(x) ", "<s>", "\n\n", "  "],
    }
    return {name: "x" + "".join(rng.choices(parts, k=10_000))[:9_998] + "y" for name, parts in kinds.items()}


@all_families
def test_a_long_text_is_cut_after_its_beginning_alone_is_tokenized(
    family: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "_HEAD", 2000)
    made, whole = (HfTokens(make(family), context_size=4096) for _ in range(2))
    monkeypatch.setattr(whole, "_head", lambda text, tokens: text)
    seen: list[int] = []
    lengths = made.lengths

    def note(texts: list[str]) -> list[int]:
        seen.extend(map(len, texts))
        return lengths(texts)

    monkeypatch.setattr(made, "lengths", note)
    for kind, text in long_texts().items():
        seen.clear()
        assert made.cut(text, 60) == whole.cut(text, 60), kind
        assert kind != "text" or max(seen) < len(text), "the whole text is not needed"


def test_long_pieces_release_the_interpreter_lock() -> None:
    """Batches of the library release it, and single texts do not; both have the same tokens."""
    backend = make(gpt2).backend_tokenizer
    text = "".join(chr(0x4E00 + n % 500) for n in range(3000)) + " a b"
    single: list[int] = []

    def encode(text: str, **options: Any) -> Any:
        single.append(len(text))
        return backend.encode(text, **options)

    batches = {"encode_batch": backend.encode_batch, "encode_batch_fast": backend.encode_batch_fast}
    watched = SimpleNamespace(truncation=None, padding=None, encode=encode, **batches)
    pieces = JoinedTokenizer(SimpleNamespace(backend_tokenizer=watched), "")
    (divided,) = pieces.divide([text])
    expected = backend.encode(text, add_special_tokens=False)
    assert divided.joined() == expected.ids
    assert pieces.tokens_before(text, [10, 2990, 3001]) == [
        bisect_left(token_starts(expected.offsets), position) for position in (10, 2990, 3001)
    ]
    assert single
    assert max(single) < 10


class Watched:
    """A tokenizer that records the texts it gets."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: str | list[str], **options: Any) -> Any:
        self.seen += [texts] if isinstance(texts, str) else texts
        return self._tokenizer(texts, **options)

    @property
    def backend_tokenizer(self) -> Any:
        return WatchedBackend(self._tokenizer.backend_tokenizer, self.seen)


class WatchedBackend:
    def __init__(self, backend: Any, seen: list[str]) -> None:
        self._backend, self._seen = backend, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def encode(self, text: str, **options: Any) -> Any:
        self._seen.append(text)
        return self._backend.encode(text, **options)


@pytest.mark.parametrize("family", [gpt2, llama2, llama3])
def test_passages_are_not_tokenized_again(family: Callable[[], Any]) -> None:
    watched = Watched(make(family))
    tokens = HfTokens(watched, context_size=4096)
    passages = [f"Passage {name} is about {name} and other things, see there." for name in ("cats", "fleas", "dogs")]
    template = load_prompt("pick")
    tokens.lengths(passages)
    tokens.count(template.render("fleas", [""] * 2))
    watched.seen.clear()
    for pair in ((0, 1), (1, 2), (2, 0)):
        prompt = template.render("fleas", [passages[index] for index in pair], labels=("A", "B"))
        tokens.count(prompt)
        tokens.encode([prompt])
        for passage in passages:
            tokens.cut(passage, 12)
    # Only what is new: identifiers with the ends and beginnings of passages.
    assert max(map(len, watched.seen)) < 40
    count = len(watched.seen)
    tokens.encode([template.render("fleas", passages[1::-1], labels=("A", "B"))])
    tokens.lengths(passages[::-1])
    assert len(watched.seen) <= count + 2


def test_threads_share_the_memo() -> None:
    tokens, by_text = HfTokens(make(gpt2), context_size=4096), tokens_of(gpt2, by_text=True)
    texts = [f"{line} number {number}" for number in range(40) for line in CORPUS[:5]]
    expected = [by_text.plain(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: [tokens.plain(text) for text in texts], range(4)):
            assert found == expected


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
