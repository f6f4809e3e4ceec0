"""BM25 and RM3 by Lucene, through Pyserini: what published baselines are made with. Needs a JDK from 21 up.

Over an index built here from the collection and kept in the user's cache folder, or over one that is there already.
Knows options and texts; `_lucene_index` knows Java.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rerank.collections.base.corpus import Corpus, fetch
from rerank.errors import DataError, MissingPrerequisiteError, UsageError
from rerank.retrieval.base.stages import checked_depth
from rerank.retrieval.lucene.java import REMEDY, find_java
from rerank.types import Document, Query, Ranking, Run

_FORMAT = "1"


@dataclass(frozen=True, slots=True)
class Lucene:
    """Options of Lucene's BM25, with or without RM3.

    Words are cut, stopped and stemmed by Anserini's analyzer for the collection's language; a language that it has
    none for gets words in lower case, nothing stopped or stemmed.

    Attributes:
        index: An index that is there already: a folder, or a name that Pyserini knows, such as
            ``msmarco-v1-passage-full`` (downloaded if need be). Its documents' ids are the collection's. Empty: one is
            built from the collection.
        k1: How slowly repeats of a term stop counting; 0 counts presence only.
        b: How much long documents are marked down, 0 to 1.
        rm3: Whether the query is expanded from the first documents found (RM3; Abdul-Jaleel et al., TREC 2004).
        fb_docs: For RM3: how many of these; 10 where it is not given.
        fb_terms: For RM3: how many of their terms; 10 where it is not given.
        original_weight: For RM3: the share of the query as it was, 0 to 1; 0.5 where it is not given.
        fields: What is indexed here: title and body, or the body alone; title and body where it is not given.

    Raises:
        UsageError: A number is out of range, or an option does not fit the others.
    """

    index: str = ""
    _: KW_ONLY
    k1: float = 0.9
    b: float = 0.4
    rm3: bool = False
    fb_docs: int | None = None
    fb_terms: int | None = None
    original_weight: float | None = None
    fields: Literal["title+text", "text"] | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (math.isfinite(self.k1) and self.k1 >= 0):
            raise UsageError(f"BM25 with k1={self.k1}", expected="a finite number from 0 up, such as 0.9")
        if not 0 <= self.b <= 1:
            raise UsageError(f"BM25 with b={self.b}", expected="a number from 0 to 1, such as 0.4")
        feedback = {"fb_docs": self.fb_docs, "fb_terms": self.fb_terms, "original_weight": self.original_weight}
        given = {name: value for name, value in feedback.items() if value is not None}
        if given and not self.rm3:
            shown = ", ".join(f"{name}={value}" for name, value in given.items())
            raise UsageError(f"{shown} without RM3", remedy="Add rm3=true, or leave it out")
        for name in ("fb_docs", "fb_terms"):
            if given.get(name, 1) < 1:
                raise UsageError(f"RM3 with {name}={given[name]}", expected="at least 1")
        if not 0 <= given.get("original_weight", 0) <= 1:
            raise UsageError(f"RM3 with original_weight={self.original_weight}", expected="a number from 0 to 1")
        if self.index and self.fields:
            raise UsageError(f"fields={self.fields} with the ready index {self.index}", expected="one of the two")

    @property
    def feedback(self) -> tuple[int, int, float] | None:
        """RM3's numbers of documents and terms and the share of the query as it was; None without RM3."""
        if not self.rm3:
            return None
        share = 0.5 if self.original_weight is None else self.original_weight
        return self.fb_docs or 10, self.fb_terms or 10, share

    def check_parts(self) -> None:
        """See that Pyserini and a JDK are there.

        Raises:
            MissingPrerequisiteError: One of them is not, or the JDK is too old.
        """
        missing = [name for name in ("pyserini", "jnius") if not find_spec(name)]
        if missing:
            raise MissingPrerequisiteError(
                f"The first stage 'lucene' needs Pyserini, and there is no module {' or '.join(missing)}",
                remedy=f"Run: pip install 'listrank[lucene]'. It needs a JDK from 21 up too. {REMEDY}",
            )
        find_java()

    def over(self, corpus: Corpus) -> LuceneRetriever:
        """Open the index; build it from ``corpus`` the first time where none is named.

        Raises:
            MissingPrerequisiteError: Pyserini or a JDK from 21 up is not installed.
            MissingResourceError: The named index is not there and cannot be downloaded.
            DataError: The named folder is no index, or lacks what RM3 needs; or the collection has no text.
            BackendError: Anserini's indexer failed.
            StorageError: The cache folder cannot be written.
            UnknownNameError: Pyserini knows no index of this name.
        """
        self.check_parts()
        return _over_named(self, corpus) if self.index else _over_own(self, corpus)


@dataclass(frozen=True, slots=True)
class LuceneRetriever:
    """Lucene over one collection. Made by `Lucene.over`.

    Attributes:
        find: Text and depth -> ids in the index and scores, best first, with all that tie with the last.
        order: Id in the index -> what decides ties, descending.
        texts: Ids in the index -> documents.
        folders: Where the index is.
    """

    find: Callable[[str, int], list[tuple[str, float]]]
    order: Callable[[str], Any]
    texts: Callable[[Iterable[str]], Mapping[str, Document]]
    folders: tuple[Path, ...] = ()

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return the up to ``k`` documents with the highest scores for each query, of those that share a term with it.

        Ties, the one at the ``k``-th place too, are settled by document id, descending, and scores are Lucene's own:
        Pyserini's searcher rounds them to four digits and settles ties by id, ascending.

        Raises:
            DataError: The index has a document that the collection lacks.
            UsageError: ``k`` is below 1.
        """
        checked_depth(k)
        found = [(query, self._top(query, k)) for query in queries]
        docs = self.texts({inner for _, hits in found for inner, _ in hits})
        return Run(
            (Ranking.from_scores(query, ((docs[inner], score) for inner, score in hits)) for query, hits in found),
            name="lucene",
        )

    def _top(self, query: Query, k: int) -> list[tuple[str, float]]:
        hits = self.find(query.text, k)
        return sorted(hits, key=lambda hit: (hit[1], self.order(hit[0])), reverse=True)[:k]


def _over_named(options: Lucene, corpus: Corpus) -> LuceneRetriever:
    from rerank.retrieval.lucene.index import LuceneIndex, Scoring, analysis
    from rerank.retrieval.lucene.prebuilt import index_folder

    folder = index_folder(options.index)
    scoring = Scoring(k1=options.k1, b=options.b, feedback=options.feedback)
    try:
        index = LuceneIndex(folder, analysis(corpus.language), scoring)
    except ValueError as error:
        raise DataError(f"{folder} is {error}", expected="the folder of an index made by Anserini") from error
    return LuceneRetriever(index.search, lambda doc_id: doc_id, lambda ids: fetch(corpus, ids), (folder,))


def _over_own(options: Lucene, corpus: Corpus) -> LuceneRetriever:
    from rerank.indexing.documents import open_documents
    from rerank.io.sealed_folders import open_folder
    from rerank.retrieval.lucene.index import LuceneIndex, Scoring, analysis
    from rerank.retrieval.lucene.index_building import write_index

    documents, language = open_documents(corpus), analysis(corpus.language)
    made_from = {
        "format": _FORMAT,
        "fingerprint": corpus.fingerprint,
        "language": language,
        "fields": options.fields or "title+text",
        "pyserini": version("pyserini"),
    }
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]
    texts = (doc.text if options.fields == "text" else doc.full_text for doc in documents)
    place = documents.folder.with_name(f"lucene-{key}")
    index = open_folder(
        place,
        made_from,
        lambda folder: write_index(folder, texts, language),
        lambda folder: LuceneIndex(folder, language, Scoring(k1=options.k1, b=options.b, feedback=options.feedback)),
    )
    return LuceneRetriever(
        index.search,
        lambda position: int(documents.id_ranks[int(position)]),
        lambda positions: {position: documents[int(position)] for position in positions},
        (place,),
    )
