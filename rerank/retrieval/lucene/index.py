"""Search of a Lucene index with Anserini's Java classes, which run in this process.

Only ``pyserini.pyclass`` is imported: ``pyserini.search`` imports an encoder that needs an OpenAI key, and the searcher
in ``pyserini.search`` rounds scores and breaks ties by id in ascending order, unlike trec_eval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rerank.errors import BackendError, error_repr
from rerank.indexing.languages import normalize_text_language

#: The field that Anserini indexes and searches.
FIELD = "contents"
#: Analyzer code for languages without an analyzer in Anserini: text is only split into words.
WORDS_ONLY = "*"
#: Languages with an analyzer in Anserini's ``AnalyzerMap``; English has its own analyzer class.
_LANGUAGES = frozenset("ar bn da de es fa fi fr hi hu id it ja ko nl no pl pt ru sv te th tr uk zh".split())  # noqa: SIM905
_SAME = {"yue": "zh"}
#: References that keep loggers alive; if a logger is not referenced, Java forgets its level.
_LOGGERS: list[Any] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class LuceneScoring:
    """The parameters of BM25 and, if ``feedback`` is set, of RM3, which is then applied to the results of BM25.

    Attributes:
        k1: Term frequency saturation of BM25.
        b: Length normalization of BM25, 0 to 1.
        feedback: Number of feedback documents, number of feedback terms and weight of the original query in RM3; None
            for no RM3.
    """

    k1: float
    b: float
    feedback: tuple[int, int, float] | None = None


def lucene_analyzer_code(language: str) -> str:
    """Return the code of Anserini's analyzer for a language; ``*`` if there is none and text is only split into words.

    >>> [lucene_analyzer_code(code) for code in ("en-GB", "nb", "zh_TW", "eo")]
    ['en', 'no', 'zh', '*']
    """
    code = normalize_text_language(language)
    code = _SAME.get(code, code)
    return code if code == "en" or code in _LANGUAGES else WORDS_ONLY


def replace_surrogates_for_java(text: str) -> str:
    """Replace lone surrogates (halves of characters), which JSON may contain but Java rejects, by question marks."""
    return text.encode("utf-8", "replace").decode()


@cache
def _java_class_finder() -> Callable[[str], Any]:
    """Start Java once per process, and return the function that finds a Java class by its name."""
    import jnius_config

    if not jnius_config.vm_running:
        jnius_config.add_options("-Xrs")  # otherwise Java handles Ctrl-C, and Python does not receive it
    from pyserini.pyclass import autoclass

    find = cache(autoclass)
    for name in ("org.apache.lucene", "io.anserini"):
        logger = find("java.util.logging.Logger").getLogger(name)
        logger.setLevel(find("java.util.logging.Level").WARNING)
        _LOGGERS.append(logger)
    find("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(2**31 - 1)  # queries may be as long as documents
    return find


class LuceneIndex:
    """A Lucene index that is open for searching."""

    def __init__(self, folder: Path, language: str, scoring: LuceneScoring) -> None:
        """Open a Lucene index for searching.

        Args:
            folder: The folder with Lucene's files.
            language: Language code from `lucene_analyzer_code`, which selects the analyzer for queries.
            scoring: The scoring parameters.
        """
        find = _java_class_finder()
        from jnius import JavaException, cast

        try:
            directory = find("org.apache.lucene.store.FSDirectory").open(
                find("java.nio.file.Paths").get(str(folder.resolve()))
            )
            self._reader = find("org.apache.lucene.index.DirectoryReader").open(directory)
        except JavaException as error:
            raise ValueError(f"not a readable Lucene index: {error.innermessage or error.classname}") from error
        if scoring.feedback and self._reader.numDocs() and self._reader.termVectors().get(0) is None:
            raise ValueError("an index without term vectors, which RM3 needs")
        self._searcher = find("org.apache.lucene.search.IndexSearcher")(
            cast("org.apache.lucene.index.IndexReader", self._reader)
        )
        similarity = find("org.apache.lucene.search.similarities.BM25Similarity")
        self._searcher.setSimilarity(similarity(scoring.k1, scoring.b))
        self._analyzer = _lucene_retriever_analyzer(language)
        self._folder = folder
        self._feedback = scoring.feedback
        self._english = language == "en"

    def __len__(self) -> int:
        """Return the number of documents."""
        return int(self._reader.numDocs())

    def close(self) -> None:
        """Close the index files."""
        self._reader.close()

    def search(self, text: str, k: int) -> list[tuple[str, float]]:
        """Return the ids and scores of the ``k`` best documents and of all documents tied at rank k, best first."""
        from jnius import JavaException

        try:
            return self._search(replace_surrogates_for_java(text), k)
        except JavaException as error:
            raise BackendError(
                f"Lucene failed on the query {error_repr(text)}: {error.classname}: {error.innermessage}",
                remedy=f"If other queries fail, too, the index in {self._folder} is damaged",
            ) from error

    def _search(self, text: str, k: int) -> list[tuple[str, float]]:
        find = _java_class_finder()
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
        find = _java_class_finder()
        docs = find("io.anserini.search.ScoredDocs")
        count = min(count, max(1, self._reader.maxDoc()))
        if not self._feedback:
            return _lucene_scored_ids(docs.fromTopDocs(self._searcher.search(query, count), self._searcher))
        documents, terms, weight = self._feedback
        first = docs.fromTopDocs(self._searcher.search(query, documents), self._searcher)
        if not first.docids:
            return []
        arguments = find("io.anserini.search.SearchCollection$Args")()
        arguments.hits = count
        arguments.arbitraryScoreTieBreak = True  # ties are broken by the caller
        context = find("io.anserini.rerank.RerankerContext")(
            self._searcher, None, query, None, text, tokens, None, arguments
        )
        reranker = find("io.anserini.rerank.lib.Rm3Reranker")
        # the last argument drops terms with characters other than Latin letters and digits, which suits only English
        rm3 = reranker(self._analyzer, None, FIELD, terms, documents, weight, False, self._english)
        return _lucene_scored_ids(rm3.rerank(first, context))


def _lucene_scored_ids(scored_docs: Any) -> list[tuple[str, float]]:
    ids: Sequence[str] = scored_docs.docids or ()
    return list(zip(ids, map(float, scored_docs.scores or ()), strict=True))


def _lucene_retriever_analyzer(language: str) -> Any:
    find = _java_class_finder()
    english = find("io.anserini.analysis.DefaultEnglishAnalyzer")
    if language == "en":
        return english.newDefaultInstance()
    if language == WORDS_ONLY:
        return english.newNonStemmingInstance(find("org.apache.lucene.analysis.CharArraySet").EMPTY_SET)
    return find("io.anserini.analysis.AnalyzerMap").getLanguageSpecificAnalyzer(language)
