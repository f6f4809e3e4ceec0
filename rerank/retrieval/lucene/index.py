"""A Lucene index through Anserini's classes, open for searching in this process; `_lucene_build` makes one.

Only ``pyserini.pyclass`` is imported: ``pyserini.search`` brings an encoder that needs an OpenAI key to be imported,
and its searcher rounds scores and breaks ties its own way. Knows ids and scores, not where documents come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rerank.errors import BackendError, shorten
from rerank.indexing.languages import language_code

#: The field that Anserini indexes and searches.
FIELD = "contents"
#: The analysis of languages that Anserini has no analyzer for.
WORDS_ONLY = "*"
#: Languages that it has one for, besides English (its ``AnalyzerMap``).
_LANGUAGES = frozenset("ar bn da de es fa fi fr hi hu id it ja ko nl no pl pt ru sv te th tr uk zh".split())  # noqa: SIM905
_SAME = {"yue": "zh"}
#: Java forgets the levels of loggers that nothing refers to.
_LOGGERS: list[Any] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How documents are scored: BM25, after that RM3 if it has ``feedback``.

    Attributes:
        k1: BM25's k1.
        b: BM25's b.
        feedback: RM3's number of documents, number of terms and weight of the query as it was; None for no RM3.
    """

    k1: float
    b: float
    feedback: tuple[int, int, float] | None = None


def analysis(language: str) -> str:
    """Which analysis a language gets: its own code, ``en``, or ``*``, which splits words and no more.

    Raises:
        UsageError: There is no such language.

    >>> [analysis(code) for code in ("en-GB", "nb", "zh_TW", "eo")]
    ['en', 'no', 'zh', '*']
    """
    code = language_code(language)
    code = _SAME.get(code, code)
    return code if code == "en" or code in _LANGUAGES else WORDS_ONLY


def whole(text: str) -> str:
    """Text without halves of surrogate pairs, which JSON files may hold and Java takes badly."""
    return text.encode("utf-8", "replace").decode()


@cache
def _classes() -> Callable[[str], Any]:
    """Start Java, once a process, and return what finds its classes."""
    import jnius_config

    if not jnius_config.vm_running:
        jnius_config.add_options("-Xrs")  # else Java takes Ctrl-C, and Python never hears of it
    from pyserini.pyclass import autoclass

    find = cache(autoclass)
    for name in ("org.apache.lucene", "io.anserini"):
        logger = find("java.util.logging.Logger").getLogger(name)
        logger.setLevel(find("java.util.logging.Level").WARNING)
        _LOGGERS.append(logger)
    find("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(2**31 - 1)  # queries may be whole documents
    return find


class LuceneIndex:
    """An index that is open for searching."""

    def __init__(self, folder: Path, language: str, scoring: Scoring) -> None:
        """Open it.

        Args:
            folder: Of Lucene's files.
            language: As `analysis` gives it; queries are analyzed like this.
            scoring: How to score.

        Raises:
            ValueError: It is no index, or has not what RM3 needs.
        """
        find = _classes()
        from jnius import JavaException, cast

        try:
            directory = find("org.apache.lucene.store.FSDirectory").open(
                find("java.nio.file.Paths").get(str(folder.resolve()))
            )
            self._reader = find("org.apache.lucene.index.DirectoryReader").open(directory)
        except JavaException as error:
            raise ValueError(f"no Lucene index that can be read: {error.innermessage or error.classname}") from error
        if scoring.feedback and self._reader.numDocs() and self._reader.termVectors().get(0) is None:
            raise ValueError("an index without vectors of terms, which RM3 needs")
        self._searcher = find("org.apache.lucene.search.IndexSearcher")(
            cast("org.apache.lucene.index.IndexReader", self._reader)
        )
        similarity = find("org.apache.lucene.search.similarities.BM25Similarity")
        self._searcher.setSimilarity(similarity(scoring.k1, scoring.b))
        self._analyzer = _analyzer(language)
        self._folder = folder
        self._feedback = scoring.feedback
        self._english = language == "en"

    def __len__(self) -> int:
        """How many documents it has."""
        return int(self._reader.numDocs())

    def close(self) -> None:
        """Let go of the files."""
        self._reader.close()

    def search(self, text: str, k: int) -> list[tuple[str, float]]:
        """The ``k`` best documents' ids and scores, best first, and all that tie with the last of them.

        Raises:
            BackendError: Lucene failed, as it does where files of the index are damaged.
        """
        from jnius import JavaException

        try:
            return self._search(whole(text), k)
        except JavaException as error:
            raise BackendError(
                f"Lucene failed on the query {shorten(text)}: {error.classname}: {error.innermessage}",
                remedy=f"If it fails on other queries too, the index in {self._folder} is damaged",
            ) from error

    def _search(self, text: str, k: int) -> list[tuple[str, float]]:
        find = _classes()
        tokens = find("io.anserini.analysis.AnalyzerUtils").analyze(self._analyzer, text)
        if not tokens.size():
            return []
        query = find("io.anserini.search.query.BagOfWordsQueryGenerator")().buildQuery(FIELD, self._analyzer, text)
        count = k + 10
        while True:
            hits = self._hits(query, text, tokens, count)
            if len(hits) <= k:
                return hits
            if len(hits) < count or hits[-1][1] < hits[k - 1][1]:
                return [hit for hit in hits if hit[1] >= hits[k - 1][1]]
            count *= 4

    def _hits(self, query: Any, text: str, tokens: Any, count: int) -> list[tuple[str, float]]:
        find = _classes()
        docs = find("io.anserini.search.ScoredDocs")
        count = min(count, max(1, self._reader.maxDoc()))
        if not self._feedback:
            return _pairs(docs.fromTopDocs(self._searcher.search(query, count), self._searcher))
        documents, terms, weight = self._feedback
        first = docs.fromTopDocs(self._searcher.search(query, documents), self._searcher)
        if not first.docids:
            return []
        arguments = find("io.anserini.search.SearchCollection$Args")()
        arguments.hits = count
        arguments.arbitraryScoreTieBreak = True  # ties are settled by the caller
        context = find("io.anserini.rerank.RerankerContext")(
            self._searcher, None, query, None, text, tokens, None, arguments
        )
        reranker = find("io.anserini.rerank.lib.Rm3Reranker")
        # the last argument keeps only terms of Latin letters and digits, which suits English alone
        made = reranker(self._analyzer, None, FIELD, terms, documents, weight, False, self._english)
        return _pairs(made.rerank(first, context))


def _pairs(found: Any) -> list[tuple[str, float]]:
    ids: Sequence[str] = found.docids or ()
    return list(zip(ids, map(float, found.scores or ()), strict=True))


def _analyzer(language: str) -> Any:
    find = _classes()
    english = find("io.anserini.analysis.DefaultEnglishAnalyzer")
    if language == "en":
        return english.newDefaultInstance()
    if language == WORDS_ONLY:
        return english.newNonStemmingInstance(find("org.apache.lucene.analysis.CharArraySet").EMPTY_SET)
    return find("io.anserini.analysis.AnalyzerMap").getLanguageSpecificAnalyzer(language)
