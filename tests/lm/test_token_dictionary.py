"""Token ids that are read from a dictionary are those that the tokenizer gives."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from rerank.collections import open_collection
from rerank.errors import DataError, UsageError
from rerank.lm import joined_tokens
from rerank.lm.joined_tokens import (
    JoinedTokenizer,
    TokenDictionary,
    _open_ends,
    dictionaries_folder,
    open_dictionaries,
    tokenize_corpus,
)
from rerank.lm.tokenizers import HfTokens
from rerank.models import open_model_backend
from rerank.prompts.passages import passage_text
from tests.lm.small_tokenizers import CORPUS, FAMILIES, gpt2, llama2, make
from tests.raising import raises

WORDS = " ".join(CORPUS).split(" ")
#: Words that have no joint after them, that no tokenizer splits, and that are in other alphabets.
HARD = ["", "<s>", "<|im_end|>", "x\n", "日本語", "e\u0301", "naïve", "a" * 300]


def written(family: Callable[[], Any], folder: Path, *passages: str) -> TokenDictionary:
    joined = JoinedTokenizer.of(make(family))
    assert joined is not None
    joined.write_dictionary(passages, folder)
    return TokenDictionary(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_have_the_tokens_of_the_tokenizer(family: Callable[[], Any], tmp_path: Path) -> None:
    dictionary = written(family, tmp_path, *CORPUS[::2], " ".join(HARD), *HARD)
    tokenizer, joints = make(family), _open_ends(make(family))
    assert joints is not None
    joined = JoinedTokenizer(tokenizer, joints, [pickle.loads(pickle.dumps(dictionary))])
    texts = [" ".join(WORDS), f"[1] {WORDS[0]}\n[2] {' '.join(HARD)} {WORDS[2]}", *WORDS[:9], ""]
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [divided.joined() for divided in joined.divide(texts)] == expected


def test_words_in_the_dictionary_are_not_tokenized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary = written(gpt2, tmp_path, "alpha beta", "beta alpha </s>")
    assert dictionary.find("alpha")
    assert dictionary.find("</s>") is dictionary.find("gamma") is None  # after added tokens, there is no joint
    joints = _open_ends(make(gpt2))
    assert joints is not None
    joined = JoinedTokenizer(make(gpt2), joints, [dictionary])
    (expected,) = joined.divide(["x alpha beta gamma z"])
    again = JoinedTokenizer(make(gpt2), joints, [dictionary])
    encoded: list[str] = []

    def encode(piece: str | tuple[str], **options: Any) -> Any:
        encoded.extend([piece] if isinstance(piece, str) else piece)
        return joined._encode(piece, **options)

    monkeypatch.setattr(again, "_encode", encode)
    assert again.divide(["x alpha beta gamma z"]) == [expected]
    assert not any("alpha" in text or "beta" in text for text in encoded)


def test_words_with_the_same_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined_tokens, "_hash", lambda word: 7)
    dictionary = written(gpt2, tmp_path, "alpha beta")
    assert len(dictionary) == sum(dictionary.find(word) is not None for word in ("x", "alpha", "beta")) == 1


def test_a_damaged_dictionary_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_dictionaries(make(gpt2)) == []
    assert dictionaries_folder(make(gpt2)) != dictionaries_folder(make(llama2))
    padded = make(gpt2)
    padded.backend_tokenizer.enable_truncation(5)
    assert dictionaries_folder(make(gpt2)) == dictionaries_folder(padded)
    folder = dictionaries_folder(make(gpt2)) / "corpus"
    folder.mkdir(parents=True)
    written(gpt2, folder, *WORDS)
    assert open_dictionaries(make(gpt2)) == []  # it has no seal yet
    (folder / "marker.json").write_text('{"sizes": {"ids.npy": 1}, "made_from": {}}')
    with raises(DataError, "ids.npy", "tokenize"):
        open_dictionaries(make(gpt2))


COLLECTION = f"jsonl:{Path(__file__).parents[2] / 'data' / 'jsonl'}"


def test_later_tokenizers_find_the_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    corpus, before = open_collection(COLLECTION), HfTokens(make(gpt2), context_size=512)
    texts = [passage_text(doc) for doc in corpus.docs()]
    lengths = before.lengths(texts)
    made = folder, words = tokenize_corpus(corpus.docs, corpus.fingerprint, before)
    written = (folder / "ids.npy").stat().st_mtime_ns
    assert tokenize_corpus(corpus.docs, corpus.fingerprint, before) == made
    assert (folder / "ids.npy").stat().st_mtime_ns == written
    (dictionary,) = open_dictionaries(make(gpt2))
    assert len(dictionary) == words > 10
    assert HfTokens(make(gpt2), context_size=512).lengths(texts) == lengths
    (folder / "ids.npy").write_bytes(b"")
    with pytest.warns(UserWarning, match="built again"):
        assert tokenize_corpus(corpus.docs, corpus.fingerprint, before) == made


def test_models_without_such_a_tokenizer_are_refused() -> None:
    for tokens in (open_model_backend("fake:perfect").tokens, HfTokens(make(gpt2), context_size=512, join=False)):
        with pytest.raises(UsageError):
            tokenize_corpus(list, "", tokens)
