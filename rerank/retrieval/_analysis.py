"""Text -> the terms that a first stage indexes and searches for.

Words are runs of at least two letters, digits or underscores, in lower case (bm25s' own rule), with the marks that
scripts such as Devanagari or Arabic write on them. Scripts without spaces give overlapping pairs of characters, the
convention of Lucene's CJKAnalyzer, whatever the collection's language, so that mixed text works. Stop words and
stemmers come from bm25s and PyStemmer by language; knows nothing of documents or scores.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from rerank.errors import UnknownNameError, UsageError

#: Thai, Lao, Myanmar, Hangul, Khmer, kana, Han: written without spaces, or (Hangul) with them in other places.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
#: Languages in those scripts: pairs of characters are no words, so lists of stop words do not apply.
_UNSPACED_LANGUAGES = frozenset({"zh", "yue", "ja", "ko", "th", "lo", "km", "my"})
#: ISO codes of the two written forms of Norwegian, which the libraries know as one.
_SAME = {"nb": "no", "nn": "no"}
_ASCII_WORD = re.compile(r"\w\w+")


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str], Callable[[str], object]]:
    """Words with their marks; runs that are (group 1) or are not in an unspaced script; whether there is such a run."""
    marks = "".join(chr(c) for c in range(0x300, 0xFFFF) if unicodedata.category(chr(c))[0] == "M")
    words = re.compile(rf"\w+(?:[{marks}]+\w*)*")
    runs = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")
    return words, runs, re.compile(f"[{_UNSPACED}]").search


def split(text: str) -> list[str]:
    """Cut text into lower-case terms; wide and compatibility forms become the plain ones (NFKC).

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
            terms += _pairs(run[0]) if run[1] else [run[0]] if len(run[0]) > 1 else []
    return terms


def _pairs(run: str) -> list[str]:
    """Overlapping pairs of characters; a lone character stands for itself."""
    return [run[i : i + 2] for i in range(max(1, len(run) - 1))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyzer:
    """How a text becomes terms: split, drop stop words, stem. The same for documents and queries.

    Attributes:
        stop_words: Terms to drop, in the form they have before stemming.
        stem: Stems a list of terms; None leaves them as they are.
    """

    stop_words: frozenset[str]
    stem: Callable[[list[str]], list[str]] | None

    def __call__(self, text: str) -> list[str]:
        """The terms of a text, in order, repeats kept."""
        terms = [term for term in split(text) if term not in self.stop_words]
        return self.stem(terms) if self.stem else terms


def analyzer(language: str, *, stemmer: str = "auto", stop_words: str = "auto") -> Analyzer:
    """Make the analyzer for a language.

    Args:
        language: ISO 639-1 code; a region after it (``zh-TW``) is ignored.
        stemmer: A Snowball algorithm (``english``, ``porter``, ``de`` ...), ``none``, or ``auto``: the language's
            own, none where there is no such algorithm (Chinese, Japanese ...).
        stop_words: The list of a language as bm25s names it (``en``, ``english_plus``, ``de`` ...), ``none``, or
            ``auto``: the language's own, none where bm25s has no list and for scripts without spaces.

    Raises:
        UnknownNameError: No such stemmer.
        UsageError: No such list of stop words.
    """
    code = re.split(r"[-_]", language.strip().lower())[0]
    code = _SAME.get(code, code)
    return Analyzer(stem=_stemmer(stemmer, code), stop_words=_stop_words(stop_words, code))


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
