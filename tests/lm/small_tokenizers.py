"""Small tokenizers of every family, trained in a moment, and texts that are hard for them."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.backends.conftest import CHATML

CORPUS = [
    "The fleas of a cat live for 12 weeks, don't they? [1] Title: On fleas. Content: they're small (3 mm).",
    "[2] Passages are ordered by relevance to the query: how long do fleas live\n\nQuery: fleas\n[3] > [1] > [2]",
    "naïve café, Straße, русский текст, ελληνικά, 日本語のテキスト。 中文 文本，标点。 한국어 텍스트",
    "a  b   c\n\n\nd\te  \n f 1,000.50 100% x_y z-w HTTPServer i'm you'll 👩‍💻 🏳️‍🌈 ½ ﬁne",
    "<s> </s> [MASK] user assistant system Passage: passage, passage; passage. 2024 2025 42 007",
] * 4
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_SPECIAL = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]
_SIZE = 600


def _byte_level(*before: Any, regex: bool = True, add_prefix_space: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, byte_level]) if before else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=_SIZE, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def gpt2() -> Tokenizer:
    """Byte-level BPE with GPT-2's regular expression."""
    return _byte_level()


def roberta() -> Tokenizer:
    """Byte-level BPE that adds a space in front, trims offsets and adds special tokens."""
    tokenizer = _byte_level(add_prefix_space=True)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    first, last = ((token, tokenizer.token_to_id(token) or 0) for token in ("<s>", "</s>"))
    tokenizer.post_processor = processors.RobertaProcessing(last, first, trim_offsets=True, add_prefix_space=True)
    return tokenizer


def starcoder() -> Tokenizer:
    """Byte-level BPE with single digits."""
    return _byte_level(pre_tokenizers.Digits(individual_digits=True))


def llama3() -> Tokenizer:
    """Byte-level BPE with the regular expression of Llama 3, and composed characters."""
    tokenizer = _byte_level(pre_tokenizers.Split(Regex(LLAMA3), "isolated"), regex=False)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def llama2() -> Tokenizer:
    """BPE on the whole text, in which every space is a metaspace; unknown characters are bytes."""
    return _metaspace_bpe(
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), splits=True
    )


def mistral() -> Tokenizer:
    """BPE on the whole text, by a pre-tokenizer that does not split, with tokens that cross spaces."""
    return _metaspace_bpe(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False), splits=False)


def _metaspace_bpe(*, normalizer: Any = None, pre_tokenizer: Any = None, splits: bool) -> Tokenizer:
    """Train on words if ``splits`` is true, else on whole texts; then set the normalizer and pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=splits)
    special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=_SIZE + 256, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = tokenizer.model
    fresh = Tokenizer(model)
    if normalizer:
        fresh.normalizer = normalizer
    if pre_tokenizer:
        fresh.pre_tokenizer = pre_tokenizer
    return fresh


def unigram() -> Tokenizer:
    """A unigram model with metaspaces, compatibility characters and runs of spaces replaced."""
    tokenizer = Tokenizer(models.Unigram())
    steps = [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, unk_token="<unk>", special_tokens=["<unk>", "<pad>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def wordpiece() -> Tokenizer:
    """BERT's tokenizer, which adds special tokens and has a token that takes the white space before it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", AddedToken("[MASK]", lstrip=True)]
    trainer = trainers.WordPieceTrainer(vocab_size=_SIZE, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


#: Tokenizers that have joints, and those that tokenize whole texts.
FAMILIES, WHOLE = (gpt2, roberta, starcoder, llama3, llama2, mistral), (unigram, wordpiece)


@cache
def make(family: Any, *, template: bool = True) -> Any:
    """A transformers tokenizer of a family, with special tokens for chats."""
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=family())  # type: ignore[no-untyped-call]
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(t, normalized=False) for t in _SPECIAL]})
    tokenizer.chat_template = CHATML if template else None
    return tokenizer


_FRAGMENTS = [
    " ", " ", " ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "\u200b", "\u00ad", "\x00", "\x85",
    "fleas", "The", " the", "don't", "'s", "'", "’", "12", "007", "½", "²", "٣", "[1]", "[", "]", "> ", ".", "...", ",",
    "é", "e\u0301", "\u0301", "\u0e33", "ﬁ", "İ", "ß", "日本", "語。", "中文", "한국", "\u1112\u1161",
    "न\u093f", "\u0600", "\u0d4e", "👩\u200d💻", "🏳️\u200d🌈", "🇩🇪", "𝔘", "▁", "▁▁", "Ġ", "<|im_start|>",
    "<|im_end|>", "< |im_end|>", "<|im_", "end|>", "<s>", "</s>", "<unk>", "[MASK]", "[SEP]", "[ MASK]", "<0x0A>",
    "##s", "a" * 120, "\ufdd0", "\ufffd",
]  # fmt: skip
_WORDS = st.lists(st.sampled_from(_FRAGMENTS) | st.characters(codec="utf-8"), max_size=4).map("".join)
#: Texts of fragments that are hard to tokenize, and of any characters.
TEXTS = st.lists(_WORDS, max_size=16).map(" ".join)
