"""A first stage that searches with Lucene's BM25, optionally with RM3 query expansion, as in many published baselines.

Lucene is used through Pyserini, which requires a JDK of version 21 or newer. The index is built from the collection and
stored in the user's cache folder, or an existing index is used.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rerank.collections.base import Corpus, fetch_documents
from rerank.errors import DataError, MissingPrerequisiteError, UsageError
from rerank.installation import install_command
from rerank.retrieval.base.stages import check_depth
from rerank.types import Document, Query, Ranking, Run

_FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Lucene:
    """The options of Lucene's BM25, with or without RM3.

    Text is analyzed by Anserini's analyzer for the collection's language. If there is no such analyzer, words are only
    lower-cased; stop words are kept, and there is no stemming.
    """

    #: An existing index with the document ids of the collection: a folder, or the name of one of Pyserini's prebuilt
    #: indexes, such as ``msmarco-v1-passage-full``, which is downloaded if needed. If empty, the index is built from
    #: the collection.
    index: str = ""
    _: KW_ONLY
    k1: float = 0.9  # term frequency saturation; 0 ignores term frequencies
    b: float = 0.4  # length normalization, 0 to 1
    #: Whether to expand the query with terms of the top documents (RM3; Abdul-Jaleel et al., TREC 2004).
    rm3: bool = False
    fb_docs: int | None = None  # number of feedback documents of RM3; None for 10
    fb_terms: int | None = None  # number of feedback terms of RM3; None for 10
    original_weight: float | None = None  # weight of the original query in RM3, 0 to 1; None for 0.5
    #: The text to index: title and body, or only the body; None for title and body. Not allowed with ``index``.
    fields: Literal["title+text", "text"] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.k1) and self.k1 >= 0):
            raise UsageError(f"BM25 has k1={self.k1}", expected="a finite number of at least 0, such as 0.9")
        if not 0 <= self.b <= 1:
            raise UsageError(f"BM25 has b={self.b}", expected="a number from 0 to 1, such as 0.4")
        feedback = {"fb_docs": self.fb_docs, "fb_terms": self.fb_terms, "original_weight": self.original_weight}
        if (rm3_options := {name: value for name, value in feedback.items() if value is not None}) and not self.rm3:
            shown = ", ".join(f"{name}={value}" for name, value in rm3_options.items())
            raise UsageError(f"The options {shown} are given without RM3", remedy="Add rm3=true, or remove the options")
        for name in ("fb_docs", "fb_terms"):
            if rm3_options.get(name, 1) < 1:
                raise UsageError(f"RM3 has {name}={rm3_options[name]}", expected="at least 1")
        if not 0 <= rm3_options.get("original_weight", 0) <= 1:
            raise UsageError(f"RM3 has original_weight={self.original_weight}", expected="a number from 0 to 1")
        if self.index and self.fields:
            raise UsageError(
                f"The option fields={self.fields} is given with the existing index {self.index}",
                expected="only one of the options fields and index",
            )

    @property
    def scoring(self) -> dict[str, Any]:
        """The arguments of `LuceneIndex`; ``feedback`` is documents, terms and query weight, or None without RM3."""
        weight = 0.5 if self.original_weight is None else self.original_weight
        feedback = (self.fb_docs or 10, self.fb_terms or 10, weight) if self.rm3 else None
        return {"k1": self.k1, "b": self.b, "feedback": feedback}

    def check_prerequisites(self) -> None:
        if missing := [name for name in ("pyserini", "jnius") if not find_spec(name)]:
            raise MissingPrerequisiteError(
                f"The first stage 'lucene' needs Pyserini, but these modules are missing: {' and '.join(missing)}",
                remedy=f"Run: {install_command('lucene')}. It also needs a JDK of version 21 or newer. {REMEDY}",
            )
        find_java()

    def over(self, corpus: Corpus) -> LuceneRetriever:
        self.check_prerequisites()
        return _open_existing(self, corpus) if self.index else _open_cached(self, corpus)


@dataclass(frozen=True, slots=True)
class LuceneRetriever:
    """A retriever that searches one collection with Lucene, created by `Lucene.over`."""

    #: Function of a query text and a depth k that returns pairs of an id in the index and a score, best first,
    #: including all ties at rank k.
    find: Callable[[str, int], list[tuple[str, float]]]
    #: Function that returns the tie-breaking key of an id in the index; among ties, larger keys rank first.
    order: Callable[[str], Any]
    #: Function that returns a mapping from ids in the index to documents.
    texts: Callable[[Iterable[str]], Mapping[str, Document]]
    folders: tuple[Path, ...] = ()

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents with the highest scores per query, among those that share a term with the query.

        Ties, including the one at rank ``k``, are broken by document id, descending. Scores are Lucene's own;
        Pyserini's searcher would round them to four digits and break ties by id, ascending.
        """
        check_depth(k)

        def best_first(hit: tuple[str, float]) -> tuple[float, Any]:
            return hit[1], self.order(hit[0])

        results = [(q, sorted(self.find(q.text, k), key=best_first, reverse=True)[:k]) for q in queries]
        docs = self.texts({inner_id for _, hits in results for inner_id, _ in hits})
        return Run(
            (Ranking.from_scores(query, ((docs[inner], score) for inner, score in hits)) for query, hits in results),
            name="lucene",
        )


def _open_existing(options: Lucene, corpus: Corpus) -> LuceneRetriever:
    from rerank.retrieval.lucene.index import LuceneIndex, analyzer_code, locate_index

    folder = locate_index(options.index)
    try:
        index = LuceneIndex(folder, analyzer_code(corpus.language), **options.scoring)
    except ValueError as error:
        raise DataError(f"{folder} is {error}", expected="the folder of an index built by Anserini") from error
    return LuceneRetriever(index.search, lambda doc_id: doc_id, lambda ids: fetch_documents(corpus, ids), (folder,))


def _open_cached(options: Lucene, corpus: Corpus) -> LuceneRetriever:
    from rerank.indexing.documents import folder_key, open_documents
    from rerank.io.sealed_folders import open_sealed_folder
    from rerank.retrieval.lucene.index import LuceneIndex, analyzer_code, write_index

    documents, language = open_documents(corpus), analyzer_code(corpus.language)
    made_from = {
        "format": _FORMAT,
        "fingerprint": corpus.fingerprint,
        "language": language,
        "fields": options.fields or "title+text",
        "pyserini": version("pyserini"),
    }
    texts = (doc.text if options.fields == "text" else doc.full_text for doc in documents)
    index_path = documents.folder.with_name(f"lucene-{folder_key(made_from)}")
    return LuceneRetriever(
        open_sealed_folder(
            index_path,
            made_from,
            lambda folder: write_index(folder, texts, language),
            lambda folder: LuceneIndex(folder, language, **options.scoring),
        ).search,
        lambda position: int(documents.id_ranks[int(position)]),
        lambda positions: {position: documents[int(position)] for position in positions},
        (index_path,),
    )


#: The oldest Java version that can load Anserini.
OLDEST = 21
REMEDY = (
    "Run: apt-get install openjdk-21-jdk-headless (or install another JDK of version 21 or newer and set JAVA_HOME)"
)

#: Environment variables that pyjnius reads, in this order. If none is set, pyjnius uses the location of javac.
_VARIABLES = ("JAVA_HOME", "JDK_HOME", "JRE_HOME")


def find_java() -> tuple[Path, str]:
    """Return the home folder of the Java installation that pyjnius will load, and its version, such as ``21.0.5``."""
    home, where = _java_home()
    if home is None:
        raise MissingPrerequisiteError(
            "No Java development kit was found: JAVA_HOME is not set and javac is not on the PATH", remedy=REMEDY
        )
    version = _java_version(home)
    if not (major := re.match(r"\d+", version)):
        raise MissingPrerequisiteError(f"{where} points to {home}, which is not a Java development kit", remedy=REMEDY)
    if int(major[0]) < OLDEST:
        raise MissingPrerequisiteError(
            f"Java {version} in {home} is too old", expected=f"{OLDEST} or newer", remedy=REMEDY
        )
    return home, version


def _java_home() -> tuple[Path | None, str]:
    for variable in _VARIABLES:
        if value := os.environ.get(variable):
            home = Path(value)
            return (home.parent if home.name == "bin" else home), variable
    javac = shutil.which("javac")
    return (Path(javac).resolve().parents[1] if javac else None), "javac"


def _java_version(home: Path) -> str:
    """Return the version of a JDK from its file ``release``, or else from ``java -version``; empty if unknown."""
    try:
        text = (home / "release").read_text("utf-8", "replace")
        pattern = r'^JAVA_VERSION="([^"]+)"'
    except OSError:
        try:
            done = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        text, pattern = done.stderr.decode("utf-8", "replace"), r'version "([^"]+)"'
    match = re.search(pattern, text, re.M)
    return match[1].removeprefix("1.") if match else ""  # Java 8 reports 1.8
