"""`rerank models tokenize`: the words of a corpus, tokenized once."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

from rerank.collections import open_collection
from rerank.errors import UsageError
from rerank.lm.joined_tokens import open_dictionaries, tokenize_corpus
from rerank.lm.tokenizers import HfTokens
from rerank.models import open_model_backend
from rerank.prompts.passages import passage_text
from tests.lm.small_tokenizers import gpt2, make

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
