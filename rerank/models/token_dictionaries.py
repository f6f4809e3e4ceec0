"""Dictionaries of the token ids of all words of a corpus, which later runs with the same tokenizer look up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rerank.collections.base.corpus import Corpus
from rerank.errors import UsageError
from rerank.io.sealed_folders import open_sealed_folder
from rerank.lm.token_dictionary import TokenDictionary, token_dictionaries_folder
from rerank.lm.tokenizers import HfTokens
from rerank.prompts.base import TokenCounter
from rerank.prompts.passages import passage_text

#: Version of the files; it must change when the same corpus and tokenizer lead to other files.
_FORMAT = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusTokens:
    """The dictionary of the token ids of all words of a corpus, written to the cache.

    Attributes:
        folder: Folder of the dictionary in the cache.
        words: Number of distinct words.
    """

    folder: Path
    words: int


def tokenize_corpus_words(corpus: Corpus, tokens: TokenCounter) -> CorpusTokens:
    """Write the token ids of all words of a corpus to the cache folder, unless it already contains them.

    Afterwards, all backends with the same tokenizer use this dictionary. Token ids, prompts and results do not change.

    Args:
        corpus: The corpus; its documents are read once.
        tokens: The token counter of a backend.
    """
    if not isinstance(tokens, HfTokens) or (joined := tokens.joined) is None:
        raise UsageError(
            "The tokenizer of this model does not tokenize word by word",
            expected="a model in this process, with a fast tokenizer that divides texts at spaces",
            remedy="Omit this step for this model: a token dictionary affects only the speed",
        )

    def build(folder: Path) -> None:
        joined.write_dictionary((passage_text(doc) for doc in corpus.docs() if doc.title or doc.text), folder)

    folder = token_dictionaries_folder(tokens.tokenizer) / corpus.fingerprint
    dictionary = open_sealed_folder(folder, {"format": _FORMAT}, build, TokenDictionary)
    return CorpusTokens(folder=folder, words=len(dictionary))
