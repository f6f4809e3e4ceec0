"""Search of a Lucene index with Anserini's Java classes, which run in this process.

Only ``pyserini.pyclass`` is imported: ``pyserini.search`` imports an encoder that needs an OpenAI key, and the searcher
in ``pyserini.search`` rounds scores and breaks ties by id in ascending order, unlike trec_eval.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from tarfile import TarError
from typing import Any

from rerank.errors import BackendError, DataError, MissingResourceError, UnknownNameError, error_repr
from rerank.indexing.text_analysis import normalize_language
from rerank.io.sealed_folders import storage_errors

#: The field that Anserini indexes and searches.
FIELD = "contents"
#: Analyzer code for languages without an analyzer in Anserini: text is only split into words.
WORDS_ONLY = "*"
#: Languages with an analyzer in Anserini's ``AnalyzerMap``; English has its own analyzer class.
_LANGUAGES = frozenset("ar bn da de es fa fi fr hi hu id it ja ko nl no pl pt ru sv te th tr uk zh".split())  # noqa: SIM905
#: References that keep loggers alive; if a logger is not referenced, Java forgets its level.
_LOGGERS: list[Any] = []


def analyzer_code(language: str) -> str:
    """Return the code of Anserini's analyzer for a language; ``*`` if there is none and text is only split into words.

    >>> [analyzer_code(code) for code in ("en-GB", "nb", "zh_TW", "eo")]
    ['en', 'no', 'zh', '*']
    """
    code = normalize_language(language)
    code = "zh" if code == "yue" else code
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
    """A Lucene index, open for searching with BM25 and, if ``feedback`` is set, with RM3 on the results of BM25."""

    def __init__(
        self, folder: Path, language: str, *, k1: float, b: float, feedback: tuple[int, int, float] | None = None
    ) -> None:
        find = _java_class_finder()
        from jnius import JavaException, cast

        try:
            self._reader = find("org.apache.lucene.index.DirectoryReader").open(
                find("org.apache.lucene.store.FSDirectory").open(find("java.nio.file.Paths").get(str(folder.resolve())))
            )
        except JavaException as error:
            raise ValueError(f"not a readable Lucene index: {error.innermessage or error.classname}") from error
        if feedback and self._reader.numDocs() and self._reader.termVectors().get(0) is None:
            raise ValueError("an index without term vectors, which RM3 needs")
        self._searcher = find("org.apache.lucene.search.IndexSearcher")(
            cast("org.apache.lucene.index.IndexReader", self._reader)
        )
        self._searcher.setSimilarity(find("org.apache.lucene.search.similarities.BM25Similarity")(k1, b))
        self._analyzer = _open_analyzer(language)
        self._folder = folder
        self._feedback = feedback
        self._english = language == "en"

    def __len__(self) -> int:
        return int(self._reader.numDocs())

    def close(self) -> None:
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
            return _scored_ids(docs.fromTopDocs(self._searcher.search(query, count), self._searcher))
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
        return _scored_ids(rm3.rerank(first, context))


def _scored_ids(scored_docs: Any) -> list[tuple[str, float]]:
    ids: Sequence[str] = scored_docs.docids or ()
    return list(zip(ids, map(float, scored_docs.scores or ()), strict=True))


def _open_analyzer(language: str) -> Any:
    find = _java_class_finder()
    english = find("io.anserini.analysis.DefaultEnglishAnalyzer")
    if language == "en":
        return english.newDefaultInstance()
    if language == WORDS_ONLY:
        return english.newNonStemmingInstance(find("org.apache.lucene.analysis.CharArraySet").EMPTY_SET)
    return find("io.anserini.analysis.AnalyzerMap").getLanguageSpecificAnalyzer(language)


_INDEXER = "pyserini.index.lucene"
#: Size of the indexer's buffer in megabytes; the default of the indexer may exceed the memory available to Java.
_BUFFER = 256


def write_index(folder: Path, documents: Iterable[str], language: str) -> None:
    """Write a Lucene index of texts, in which the id of a document is its position.

    Documents without a visible character are omitted. Term vectors are stored, so the same index can be used with and
    without RM3; texts are not stored. The target folder is empty; temporary files are written beside it.
    """
    with storage_errors(folder), tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as scratch:
        written = total = 0
        with (Path(scratch) / "documents.jsonl").open("w", encoding="ascii") as file:
            for text in documents:
                if any(character > " " and not character.isspace() for character in text):
                    file.write(json.dumps({"id": str(total), FIELD: replace_surrogates_for_java(text)}) + "\n")
                    written += 1
                total += 1
        if not written:
            raise DataError(
                f"None of the {total} documents has a text to index",
                expected="at least one document with text",
                remedy="Check the collection's files and the option 'fields'",
            )
        # in a separate process, because the indexer logs to stdout and frees its memory only when it ends
        analysis = ["--stemmer", "none", "--keepStopwords"] if language == WORDS_ONLY else ["--language", language]
        command = [sys.executable, "-m", _INDEXER, "--collection", "JsonCollection", "--threads", "1", "--optimize"]
        command += [
            "--generator",
            "DefaultLuceneDocumentGenerator",
            "--storeDocvectors",
            "--memoryBuffer",
            str(_BUFFER),
        ]
        done = subprocess.run(
            [*command, *analysis, "--input", scratch, "--index", str(folder)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            last_lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
            raise BackendError(f"Anserini's indexer ended with code {done.returncode}: {' / '.join(last_lines)}")
    index = LuceneIndex(folder, language, k1=0.9, b=0.4)
    indexed = len(index)
    index.close()
    if indexed != written:
        raise BackendError(
            f"Anserini indexed only {indexed} of {written} documents", remedy="Check the free disk space"
        )


def locate_index(name: str) -> Path:
    """Return the folder of an index; a prebuilt index is downloaded once, into the cache of Pyserini."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if os.sep in name or folder.exists():
        raise MissingResourceError(f"{name} is not a folder", expected="the folder of a Lucene index")
    from pyserini.prebuilt_index_info import TF_INDEX_INFO

    if name not in TF_INDEX_INFO:
        raise UnknownNameError("folder or prebuilt index of Pyserini", name, TF_INDEX_INFO)
    from pyserini.util import download_prebuilt_index

    try:
        with contextlib.redirect_stdout(sys.stderr):  # the download prints its progress, and stdout may contain a run
            return Path(download_prebuilt_index(name, verbose=False))
    except (OSError, ValueError, AssertionError, TarError) as error:
        raise MissingResourceError(
            f"Pyserini's index {name!r} cannot be downloaded: {error}",
            remedy="Check the network, or pass the folder of a local index",
        ) from error
