"""Word segmentation with dictionaries: jieba for Chinese, MeCab with UniDic for Japanese (extra ``cjk``).

A segmenter is applied to contiguous characters of its script, after NFKC normalization. Traditional and simplified
characters are not converted into each other, so the two forms of a word are different terms.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from rerank.errors import MissingPrerequisiteError
from rerank.io.forks import ForkLock

_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmenter:
    """A word segmenter for runs of characters, which are contiguous characters of one script.

    Attributes:
        identity: Names and versions of the segmenter's packages, on which an index depends.
        reads: Pattern that matches the runs of characters to segment.
        cut: Function that returns the words of a run, in order.
    """

    identity: str
    reads: re.Pattern[str]
    cut: Callable[[str], list[str]]


def make_text_segmenter(code: str, *, base_forms: bool) -> Segmenter | None:
    """Return the segmenter of a language, or None if the language has no segmenter.

    Args:
        code: Language code from `rerank.indexing.languages.normalize_text_language`.
        base_forms: Whether to replace inflected words by their dictionary forms (Japanese only).
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


def _missing_segmenter_error(language: str, code: str, error: ImportError) -> MissingPrerequisiteError:
    return MissingPrerequisiteError(
        f"BM25 over text in {language} (language={code}) needs a segmenter, but {error.name or error} is not installed",
        remedy="Run: pip install 'listrank[cjk]', or use bm25,segmenter=pairs, which needs no segmenter",
    )


@cache
def _segment_chinese(code: str) -> Callable[[str], list[str]]:
    """Return a function that segments text with jieba's mode for search engines.

    The segmented words are long words and also their parts of two and three characters.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # setuptools warns, and Python warns about strings in jieba's source
            import jieba
    except ImportError as error:
        raise _missing_segmenter_error("Chinese", code, error) from error
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
        raise _missing_segmenter_error("Japanese", code, error) from error
    # explicit paths, since fugashi would prefer an installed full UniDic, which segments text differently
    tagger: Any = fugashi.Tagger(f'-r "{unidic_lite.DICDIR}/mecabrc" -d "{unidic_lite.DICDIR}"')
    lock = ForkLock()  # a tagger is not thread-safe

    def cut(run: str) -> list[str]:
        with lock:
            return [(base_forms and word.feature.orthBase) or word.surface for word in tagger(run)]

    return cut
