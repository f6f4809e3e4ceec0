"""Text -> the terms that a first stage indexes and searches for.

Words are runs of at least two letters, digits or underscores, in lower case (bm25s' own rule), with the marks that
scripts such as Devanagari or Arabic write on them. Scripts without spaces give the words of a segmenter where the
language has one (Chinese, Japanese) and overlapping pairs of characters everywhere else, the convention of Lucene's
CJKAnalyzer, so that mixed text works. Stop words and stemmers come from bm25s and PyStemmer by language; knows nothing
of documents or scores.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rerank.errors import UnknownNameError, UsageError
from rerank.indexing.languages import language_code
from rerank.indexing.segmenters import Segmenter, segmenter

#: Thai, Lao, Myanmar, Hangul, Khmer, kana, Han: written without spaces, or (Hangul) with them in other places.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
#: Languages in those scripts. Pairs of characters are no words, so lists of stop words do not apply; where words are
#: found, the weights take care of frequent ones, and questions of such words alone ("how is it made") keep some.
_UNSPACED_LANGUAGES = frozenset({"zh", "yue", "ja", "ko", "th", "lo", "km", "my"})
_ASCII_WORD = re.compile(r"\w\w+")


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], Callable[[str], object]]:
    """Words with their marks; runs that are (group 1) or are not in an unspaced script; whether there is such a run."""
    marks = "".join(chr(c) for c in range(0x300, 0xFFFF) if unicodedata.category(chr(c))[0] == "M")
    words = re.compile(rf"\w+(?:[{marks}]+\w*)*")
    runs = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")
    return words, runs, re.compile(f"[{_UNSPACED}]").search


def split(text: str, words_of: Segmenter | None = None) -> list[str]:
    """Cut text into lower-case terms; wide and compatibility forms become the plain ones (NFKC).

    Args:
        text: Anything.
        words_of: What finds words in scripts without spaces; without it, and for what it does not read, they give
            pairs of characters.

    >>> split("The F-16's wing, 東京都へ, a ﬁn")
    ['the', '16', 'wing', '東京', '京都', '都へ', 'fin']
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    words, runs, unspaced = _patterns()
    terms: list[str] = []
    for word in words.findall(unicodedata.normalize("NFKC", text).lower()):
        if not unspaced(word):
            terms += [word] if len(word) > 1 else []
            continue
        for run in runs.finditer(word):
            if run[1]:
                terms += _segmented(run[0], words_of) if words_of else _pairs(run[0])
            elif len(run[0]) > 1:
                terms.append(run[0])
    return terms


def _segmented(run: str, words_of: Segmenter) -> list[str]:
    terms: list[str] = []
    end = 0
    for part in words_of.reads.finditer(run):
        terms += _pairs(run[end : part.start()])
        terms += words_of.cut(part[0])
        end = part.end()
    return terms + _pairs(run[end:])


def _pairs(run: str) -> list[str]:
    """Overlapping pairs of characters; a lone character stands for itself."""
    return [run[i : i + 2] for i in range(max(1, len(run) - 1))] if run else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyzer:
    """How a text becomes terms: split, drop stop words, stem. The same for documents and queries.

    Attributes:
        stop_words: Terms to drop, in the form they have before stemming.
        stem: Stems a list of terms; None leaves them as they are.
        words_of: Finds words in scripts without spaces; None gives pairs of characters.
    """

    stop_words: frozenset[str]
    stem: Callable[[list[str]], list[str]] | None
    words_of: Segmenter | None = None

    def __call__(self, text: str) -> list[str]:
        """The terms of a text, in order, repeats kept."""
        terms = [term for term in split(text, self.words_of) if term not in self.stop_words]
        return self.stem(terms) if self.stem else terms


def analyzer(
    language: str, *, stemmer: str = "auto", stop_words: str = "auto", segmenting: Literal["auto", "pairs"] = "auto"
) -> Analyzer:
    """Make the analyzer for a language.

    Args:
        language: ISO 639 code, see `language_code`; a region after it (``zh-TW``) is ignored.
        stemmer: A Snowball algorithm (``english``, ``porter``, ``de`` ...), ``none``, or ``auto``: the language's
            own, none where there is no such algorithm. For words of Japanese, ``auto`` gives the form under which
            dictionaries list them.
        stop_words: The list of a language as bm25s names it (``en``, ``english_plus``, ``de`` ...), ``none``, or
            ``auto``: the language's own, none where bm25s has no list and for scripts without spaces.
        segmenting: ``auto``: words, where the language has a segmenter (Chinese, Japanese); or ``pairs`` of characters.

    Raises:
        MissingPrerequisiteError: The language's segmenter is not installed.
        UnknownNameError: No such stemmer.
        UsageError: No such language, or list of stop words.
    """
    code = language_code(language)
    return Analyzer(
        stem=_stemmer(stemmer, code),
        stop_words=_stop_words(stop_words, code),
        words_of=segmenter(code, base_forms=stemmer == "auto") if segmenting == "auto" else None,
    )


def _stemmer(name: str, code: str) -> Callable[[list[str]], list[str]] | None:
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
            f"bm25s has no list of stop words named {name!r}",
            expected="auto, none, or a language such as en, english_plus, de, fr",
        ) from error
