"""Words in text without spaces, by dictionaries: jieba for Chinese, MeCab with UniDic for Japanese (extra ``cjk``).

A segmenter sees runs of the characters it reads, in NFKC. Characters are not converted: traditional and simplified
forms of a word are two words. Knows no other language, no punctuation and no documents.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from rerank.errors import MissingPrerequisiteError

_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmenter:
    """How runs of characters become words.

    Attributes:
        identity: What it is, with versions: part of what an index is made from.
        reads: Finds the runs that it is for; what lies between them is not its business.
        cut: A run -> its words, in order.
    """

    identity: str
    reads: re.Pattern[str]
    cut: Callable[[str], list[str]]


def segmenter(code: str, *, base_forms: bool) -> Segmenter | None:
    """The segmenter of a language; None where it has none.

    Args:
        code: As `rerank.indexing.languages.language_code` gives it.
        base_forms: Whether words that change their form become the one under which dictionaries list them; Japanese.

    Raises:
        MissingPrerequisiteError: The language has one, and it is not installed.
    """
    if code == "zh":
        return Segmenter(identity=_versions("jieba"), reads=re.compile(f"[{_HAN}]+"), cut=_chinese(code))
    if code == "ja":
        forms = "base forms" if base_forms else "as written"
        return Segmenter(
            identity=f"{_versions('fugashi', 'unidic-lite')} {forms}",
            reads=re.compile(f"[{_HAN}{_KANA}]+"),
            cut=_japanese(code, base_forms),
        )
    return None


def _versions(*distributions: str) -> str:
    try:
        return " ".join(f"{name} {version(name)}" for name in distributions)
    except ModuleNotFoundError:
        return ""  # what is missing is told by what imports it


def _missing(language: str, code: str, error: ImportError) -> MissingPrerequisiteError:
    return MissingPrerequisiteError(
        f"BM25 over text in {language} (language={code}) needs a segmenter, and {error.name or error} is not installed",
        remedy="Run: pip install 'listrank[cjk]'. Or give bm25 the option segmenter=pairs, which needs nothing",
    )


@cache
def _chinese(code: str) -> Callable[[str], list[str]]:
    """Cut for search engines: long words, and the dictionary's words of two and three characters inside them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of setuptools, and of Python about strings in jieba's source
            import jieba
    except ImportError as error:
        raise _missing("Chinese", code, error) from error
    tokenizer: Any = jieba.Tokenizer()
    # not initialize(): it keeps the dictionary in a file that anybody may write, and reads it back by marshal
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True

    def cut(run: str) -> list[str]:
        words: list[str] = tokenizer.lcut_for_search(run)
        return words

    return cut


@cache
def _japanese(code: str, base_forms: bool) -> Callable[[str], list[str]]:
    """MeCab's words, short units of UniDic; their dictionary form where it is wanted and known."""
    try:
        import fugashi
        import unidic_lite
    except ImportError as error:
        raise _missing("Japanese", code, error) from error
    # named, since fugashi would take a full UniDic that happens to be installed, with other words
    tagger: Any = fugashi.Tagger(f'-r "{unidic_lite.DICDIR}/mecabrc" -d "{unidic_lite.DICDIR}"')
    lock = threading.Lock()  # a tagger works on one text at a time

    def cut(run: str) -> list[str]:
        with lock:
            return [(base_forms and word.feature.orthBase) or word.surface for word in tagger(run)]

    return cut
