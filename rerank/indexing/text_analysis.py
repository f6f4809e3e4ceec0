"""Text analysis, which splits documents and queries into the terms that a first stage indexes and searches for.

Words are runs of at least two letters, digits or underscores in lower case (bm25s' rule), including the combining marks
of scripts such as Devanagari or Arabic. Text in scripts without spaces is split into words by a segmenter if the
language has one (Chinese, Japanese), and otherwise into overlapping character pairs, as by Lucene's CJKAnalyzer, so
texts in several scripts are also handled. Stop words come from bm25s and stemmers from PyStemmer, by language.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from rerank.errors import MissingPrerequisiteError, UnknownNameError, UsageError
from rerank.installation import install_command
from rerank.io.forks import ForkLock

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
def _term_patterns() -> tuple[re.Pattern[str], re.Pattern[str], Callable[[str], object]]:
    """Return two compiled patterns and a search function for analyzing text that is not ASCII.

    The first pattern matches words with combining marks. The second matches contiguous characters inside (group 1) or
    outside unspaced scripts. The function returns a match if a text contains characters of unspaced scripts.
    """
    marks = "".join(chr(c) for c in range(0x300, 0xFFFF) if unicodedata.category(chr(c))[0] == "M")
    runs = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")
    return re.compile(rf"\w+(?:[{marks}]+\w*)*"), runs, re.compile(f"[{_UNSPACED}]").search


def split_into_terms(text: str, words_of: Segmenter | None = None) -> list[str]:
    """Split text into lower-case terms after NFKC normalization.

    Without a segmenter, and for characters that it does not segment, the terms of scripts without spaces are character
    pairs.

    >>> split_into_terms("The F-16's wing, 東京都へ, a ﬁn")
    ['the', '16', 'wing', '東京', '京都', '都へ', 'fin']
    """
    # a shortcut for most texts in English: NFKC leaves ASCII unchanged
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    words, runs, unspaced = _term_patterns()
    terms: list[str] = []
    for word in words.findall(unicodedata.normalize("NFKC", text).lower()):
        # words of one character are dropped, as the pattern for ASCII does
        if not unspaced(word):
            terms += [word] if len(word) > 1 else []
            continue
        for run in runs.finditer(word):
            if run[1]:
                terms += _segmented_terms(run[0], words_of) if words_of else _character_pairs(run[0])
            elif len(run[0]) > 1:
                terms.append(run[0])
    return terms


def _segmented_terms(run: str, words_of: Segmenter) -> list[str]:
    terms: list[str] = []
    end = 0
    for part in words_of.reads.finditer(run):
        terms += _character_pairs(run[end : part.start()])
        terms += words_of.cut(part[0])
        end = part.end()
    return terms + _character_pairs(run[end:])


def _character_pairs(run: str) -> list[str]:
    """Return the overlapping character pairs of contiguous characters; a single character is a term by itself."""
    return [run[i : i + 2] for i in range(max(1, len(run) - 1))] if run else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyzer:
    """An analyzer for documents and queries, which splits a text into terms, drops stop words and stems the rest."""

    stop_words: frozenset[str]
    stem: Callable[[list[str]], list[str]] | None  # function that stems a list of terms; None for no stemming
    words_of: Segmenter | None = None  # the segmenter for scripts without spaces; None for character pairs

    def __call__(self, text: str) -> list[str]:
        terms = [term for term in split_into_terms(text, self.words_of) if term not in self.stop_words]
        return self.stem(terms) if self.stem else terms


def make_analyzer(
    language: str, *, stemmer: str = "auto", stop_words: str = "auto", segmenting: Literal["auto", "pairs"] = "auto"
) -> Analyzer:
    """Create the analyzer for a language.

    Of a language code, the region (``zh-TW``) is ignored. ``stemmer`` is a Snowball algorithm (``english``, ``porter``,
    ``de`` ...), ``none``, or ``auto`` for that of the language, if there is one; with ``auto``, Japanese words are
    replaced by their dictionary forms. ``stop_words`` names a list in bm25s (``en``, ``english_plus``, ``de`` ...),
    ``none``, or ``auto`` for the list of the language, if bm25s has one and the script has spaces. ``segmenting`` is
    ``auto`` to segment words in Chinese and Japanese, or ``pairs`` for character pairs.
    """
    code = normalize_language(language)
    return Analyzer(
        stem=_open_stemmer(stemmer, code),
        stop_words=_stop_words(stop_words, code),
        words_of=make_segmenter(code, base_forms=stemmer == "auto") if segmenting == "auto" else None,
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


#: Languages for which some first stage has special rules: a stemmer, stop words, a segmenter or character pairs.
TREATED = tuple(
    "ar ca cs da de el en eo es et eu fa fi fr ga hi hu hy id it ja km ko lo lt my ne nl no pl pt ro ru sr st sv ta th "  # noqa: SIM905
    "tr yi yue zh".split()
)
#: Codes for a language without a code of its own, and for several languages; their texts are only split into words.
_ANY = ("und", "mul")
#: The ISO 639-1 codes, and the code of Cantonese (``yue``), which is not among them.
_CODES = frozenset(
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo "  # noqa: SIM905
    "es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka "
    "kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng "
    "nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su "
    "sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu yue".split()
)
#: ISO 639-2 and 639-3 codes of the languages in `TREATED` and a few more, and the written forms of Norwegian.
_SAME = {
    **{"nb": "no", "nn": "no", "nob": "no", "nno": "no", "nor": "no", "cmn": "zh", "zho": "zh", "chi": "zh"},
    **{"jpn": "ja", "kor": "ko", "tha": "th", "lao": "lo", "khm": "km", "mya": "my", "bur": "my", "ara": "ar"},
    **{"arb": "ar", "cat": "ca", "ces": "cs", "cze": "cs", "dan": "da", "deu": "de", "ger": "de", "ell": "el"},
    **{"gre": "el", "eng": "en", "epo": "eo", "spa": "es", "est": "et", "ekk": "et", "eus": "eu", "baq": "eu"},
    **{"fas": "fa", "per": "fa", "pes": "fa", "fin": "fi", "fra": "fr", "fre": "fr", "gle": "ga", "hin": "hi"},
    **{"hun": "hu", "hye": "hy", "arm": "hy", "ind": "id", "ita": "it", "lit": "lt", "nep": "ne", "npi": "ne"},
    **{"nld": "nl", "dut": "nl", "pol": "pl", "por": "pt", "ron": "ro", "rum": "ro", "rus": "ru", "srp": "sr"},
    **{"sot": "st", "swe": "sv", "tam": "ta", "tur": "tr", "yid": "yi", "ydd": "yi", "ben": "bn", "swa": "sw"},
    **{"swh": "sw", "tel": "te", "ukr": "uk", "urd": "ur", "vie": "vi", "yor": "yo", "heb": "he", "bul": "bg"},
}
#: Country codes that are often confused with the codes of their languages.
_COUNTRIES = {"cn": "zh", "jp": "ja", "cz": "cs", "dk": "da", "gr": "el", "ua": "uk"}


def normalize_language(language: str) -> str:
    """Return the code that first stages use for a language.

    The language is an ISO 639-1 code or, for common languages, an ISO 639-2 or 639-3 code. A region or script after it
    (``zh-TW``, ``cmn-Hans``) is dropped. ``und`` stands for a language without a code, ``mul`` for several languages.

    >>> [normalize_language(code) for code in ("EN-us", "nb", "zh_TW", "jpn", "yue", "und")]
    ['en', 'no', 'zh', 'ja', 'yue', 'und']
    """
    prefix = re.split(r"[-_]", language.strip().lower())[0]
    if (code := _SAME.get(prefix, prefix)) in _CODES or code in _ANY:
        return code
    hint = f"{prefix} is a country code; the language is {_COUNTRIES[prefix]}. " if prefix in _COUNTRIES else ""
    raise UsageError(
        f"Unknown language {language!r}",
        expected=f"an ISO 639-1 code. Languages with special rules: {', '.join(TREATED)}",
        remedy=f"{hint}Set the collection's option language, or use und, which only splits words",
    )


_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmenter:
    """A word segmenter for runs of characters, which are contiguous characters of one script."""

    identity: str  # names and versions of the segmenter's packages, on which an index depends
    reads: re.Pattern[str]
    cut: Callable[[str], list[str]]  # function that returns the words of a run, in order


def make_segmenter(code: str, *, base_forms: bool) -> Segmenter | None:
    """Return the segmenter of a language, or None if the language has no segmenter.

    ``base_forms`` replaces inflected words by their dictionary forms (Japanese only).
    """
    if code == "zh":
        return Segmenter(
            identity=_segmenter_versions("jieba"), reads=re.compile(f"[{_HAN}]+"), cut=_segment_chinese(code)
        )
    if code == "ja":
        forms = "base forms" if base_forms else "as written"
        return Segmenter(
            identity=f"{_segmenter_versions('fugashi', 'unidic-lite')} {forms}",
            reads=re.compile(f"[{_HAN}{_KANA}]+"),
            cut=_segment_japanese(code, base_forms),
        )
    return None


def _segmenter_versions(*distributions: str) -> str:
    try:
        return " ".join(f"{name} {version(name)}" for name in distributions)
    except ModuleNotFoundError:
        return ""  # the import reports which package is missing


def _not_installed(language: str, code: str, error: ImportError) -> MissingPrerequisiteError:
    return MissingPrerequisiteError(
        f"BM25 over text in {language} (language={code}) needs a segmenter, but {error.name or error} is not installed",
        remedy=f"Run: {install_command('cjk')}, or use bm25,segmenter=pairs, which needs no segmenter",
    )


@cache
def _segment_chinese(code: str) -> Callable[[str], list[str]]:
    """Return jieba's search mode, which yields long words and also their parts of two and three characters."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # setuptools warns, and Python warns about strings in jieba's source
            import jieba
    except ImportError as error:
        raise _not_installed("Chinese", code, error) from error
    tokenizer: Any = jieba.Tokenizer()
    # not initialize(), which caches the dictionary in a world-writable file and loads it from there with marshal
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True

    def cut(run: str) -> list[str]:
        words: list[str] = tokenizer.lcut_for_search(run)
        return words

    return cut


@cache
def _segment_japanese(code: str, base_forms: bool) -> Callable[[str], list[str]]:
    """Return a function that segments text with MeCab into UniDic's short units.

    If ``base_forms`` is set, words are returned in their dictionary forms, if known.
    """
    try:
        import fugashi
        import unidic_lite
    except ImportError as error:
        raise _not_installed("Japanese", code, error) from error
    # explicit paths, since fugashi would prefer an installed full UniDic, which segments text differently
    tagger: Any = fugashi.Tagger(f'-r "{unidic_lite.DICDIR}/mecabrc" -d "{unidic_lite.DICDIR}"')
    lock = ForkLock()  # a tagger is not thread-safe

    def cut(run: str) -> list[str]:
        with lock.lock:
            return [(base_forms and word.feature.orthBase) or word.surface for word in tagger(run)]

    return cut
