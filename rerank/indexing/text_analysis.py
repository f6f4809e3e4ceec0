"""Text analysis, which splits documents and queries into the terms that a first stage indexes and searches for.

Words are runs of at least two letters, digits or underscores in lower case (bm25s' rule), including the combining marks
of scripts such as Devanagari or Arabic. Text in scripts without spaces is split into words by a segmenter if the
language has one (Chinese, Japanese), and otherwise into overlapping character pairs, as by Lucene's CJKAnalyzer, so
texts in several scripts are also handled. Stop words come from bm25s and stemmers from PyStemmer, by language.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rerank.errors import UnknownNameError, UsageError
from rerank.indexing.languages import normalize_text_language
from rerank.indexing.segmenters import Segmenter, make_text_segmenter

#: Thai, Lao, Myanmar, Hangul, Khmer, kana, Han: scripts without spaces, or (Hangul) with spaces between phrases.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
#: Languages written in these scripts. No stop words are dropped in them: a list of words would not apply to character
#: pairs, and with a segmenter, a query of frequent words ("how is it made") should keep some terms, which have low
#: weights.
_UNSPACED_LANGUAGES = frozenset({"zh", "yue", "ja", "ko", "th", "lo", "km", "my"})
_ASCII_WORD = re.compile(r"\w\w+")


@cache
def _analyzer_term_patterns() -> tuple[re.Pattern[str], re.Pattern[str], Callable[[str], object]]:
    """Return two compiled patterns and a search function for analyzing text that is not ASCII.

    The first pattern matches words with combining marks. The second matches contiguous characters inside (group 1) or
    outside unspaced scripts. The function returns a match if a text contains characters of unspaced scripts.
    """
    marks = "".join(chr(c) for c in range(0x300, 0xFFFF) if unicodedata.category(chr(c))[0] == "M")
    words = re.compile(rf"\w+(?:[{marks}]+\w*)*")
    runs = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")
    return words, runs, re.compile(f"[{_UNSPACED}]").search


def split_text_into_terms(text: str, words_of: Segmenter | None = None) -> list[str]:
    """Split text into lower-case terms after NFKC normalization.

    Args:
        text: The text.
        words_of: The segmenter for scripts without spaces. Without a segmenter, and for characters that it does not
            segment, the terms are character pairs.

    >>> split_text_into_terms("The F-16's wing, 東京都へ, a ﬁn")
    ['the', '16', 'wing', '東京', '京都', '都へ', 'fin']
    """
    # a shortcut for most texts in English: NFKC leaves ASCII unchanged
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    words, runs, unspaced = _analyzer_term_patterns()
    terms: list[str] = []
    for word in words.findall(unicodedata.normalize("NFKC", text).lower()):
        # words of one character are dropped, as the pattern for ASCII does
        if not unspaced(word):
            terms += [word] if len(word) > 1 else []
            continue
        for run in runs.finditer(word):
            if run[1]:
                terms += _segmented_terms(run[0], words_of) if words_of else _analyzer_character_pairs(run[0])
            elif len(run[0]) > 1:
                terms.append(run[0])
    return terms


def _segmented_terms(run: str, words_of: Segmenter) -> list[str]:
    terms: list[str] = []
    end = 0
    for part in words_of.reads.finditer(run):
        terms += _analyzer_character_pairs(run[end : part.start()])
        terms += words_of.cut(part[0])
        end = part.end()
    return terms + _analyzer_character_pairs(run[end:])


def _analyzer_character_pairs(run: str) -> list[str]:
    """Return the overlapping character pairs of contiguous characters; a single character is a term by itself."""
    return [run[i : i + 2] for i in range(max(1, len(run) - 1))] if run else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyzer:
    """An analyzer for documents and queries, which splits a text into terms, drops stop words and stems the rest.

    Attributes:
        stop_words: Terms to drop before stemming.
        stem: Function that stems a list of terms; None for no stemming.
        words_of: The segmenter for scripts without spaces; None for character pairs.
    """

    stop_words: frozenset[str]
    stem: Callable[[list[str]], list[str]] | None
    words_of: Segmenter | None = None

    def __call__(self, text: str) -> list[str]:
        """Return the terms of a text, in order, including duplicates."""
        terms = [term for term in split_text_into_terms(text, self.words_of) if term not in self.stop_words]
        return self.stem(terms) if self.stem else terms


def make_text_analyzer(
    language: str, *, stemmer: str = "auto", stop_words: str = "auto", segmenting: Literal["auto", "pairs"] = "auto"
) -> Analyzer:
    """Create the analyzer for a language.

    Args:
        language: ISO 639 code; a region after the code (``zh-TW``) is ignored.
        stemmer: A Snowball algorithm (``english``, ``porter``, ``de`` ...), ``none``, or ``auto`` for the algorithm of
            the language, if there is one. With ``auto``, Japanese words are replaced by their dictionary forms.
        stop_words: Name of a list in bm25s (``en``, ``english_plus``, ``de`` ...), ``none``, or ``auto`` for the list
            of the language, if bm25s has one and the script has spaces.
        segmenting: ``auto`` to segment words if the language has a segmenter (Chinese, Japanese), or ``pairs`` for
            character pairs.
    """
    code = normalize_text_language(language)
    return Analyzer(
        stem=_open_stemmer(stemmer, code),
        stop_words=_stop_words(stop_words, code),
        words_of=make_text_segmenter(code, base_forms=stemmer == "auto") if segmenting == "auto" else None,
    )


def _open_stemmer(name: str, code: str) -> Callable[[list[str]], list[str]] | None:
    import Stemmer

    if name == "none":
        return None
    try:
        stem: Callable[[list[str]], list[str]] = Stemmer.Stemmer(code if name == "auto" else name).stemWords
    except KeyError as error:
        if name == "auto":
            return None
        raise UnknownNameError("stemmer", name, ["auto", "none", *Stemmer.algorithms()]) from error
    return stem


def _stop_words(name: str, code: str) -> frozenset[str]:
    from bm25s.tokenization import Tokenizer

    if name == "none" or (name == "auto" and code in _UNSPACED_LANGUAGES):
        return frozenset()
    try:
        return frozenset(Tokenizer(stopwords=code if name == "auto" else name).stopwords)
    except ValueError as error:
        if name == "auto":
            return frozenset()
        raise UsageError(
            f"bm25s has no stop word list {name!r}",
            expected="auto, none, or a language such as en, english_plus, de, fr",
        ) from error
