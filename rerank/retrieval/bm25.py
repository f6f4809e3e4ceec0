"""BM25 retrieval with bm25s, which needs neither Java nor a model. The index is in the user's cache folder."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from rerank.collections.base import Corpus
from rerank.errors import UsageError
from rerank.indexing.bm25_index import inverse_document_frequency, query_side_weights, saturated_weights
from rerank.indexing.text_analysis import Analyzer, make_analyzer
from rerank.retrieval.base.stages import check_depth
from rerank.types import Document, Query, Ranking, Run

_FORMAT = "1"
#: Options that do not affect the weights in the index, or are recorded in another form (the segmenter, with version).
_NOT_INDEXED = frozenset({"segmenter", "query_weights", "k3", "shard_documents", "processes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25:
    """The options of BM25 retrieval with bm25s."""

    k1: float = 0.9  # term frequency saturation; 0 ignores term frequencies
    b: float = 0.4  # length normalization, 0 to 1
    #: Variant of BM25, named as in bm25s (Kamphuis et al., ECIR 2020): ``lucene`` (no negative weights), ``robertson``
    #: or ``atire``.
    method: Literal["lucene", "robertson", "atire"] = "lucene"
    fields: Literal["title+text", "text"] = "title+text"  # the text to index: title and body, or only the body
    #: ``auto`` (chosen by the collection's language), ``none``, or the name of a Snowball algorithm.
    stemmer: str = "auto"
    #: ``auto`` (chosen by the collection's language), ``none``, or the name of a list in bm25s, such as ``en_plus``.
    stop_words: str = "auto"
    #: ``auto`` to segment collections in Chinese and Japanese with jieba and MeCab (extra ``cjk``), or ``pairs`` for
    #: character pairs, which are used for all other scripts without spaces.
    segmenter: Literal["auto", "pairs"] = "auto"
    #: Weight of a term in the query: the number of its occurrences (``counts``), or its BM25 weight in the query
    #: (``bm25``), which suits queries as long as documents.
    query_weights: Literal["counts", "bm25"] = "counts"
    k3: float | None = None  # saturation of the number of occurrences of a term in the query; None for no saturation
    shard_documents: int = 250_000  # maximum number of documents in a shard of the index. Results do not depend on it.
    processes: int = 0  # number of processes that build shards; 0 for the number of available processors

    def __post_init__(self) -> None:
        if not (math.isfinite(self.k1) and self.k1 >= 0):
            raise UsageError(f"BM25 has k1={self.k1}", expected="a finite number of at least 0, such as 0.9")
        if not 0 <= self.b <= 1:
            raise UsageError(f"BM25 has b={self.b}", expected="a number from 0 to 1, such as 0.4")
        if self.k3 is not None and not (math.isfinite(self.k3) and self.k3 >= 0 and self.query_weights == "counts"):
            raise UsageError(
                f"BM25 has k3={self.k3},query_weights={self.query_weights}",
                expected="a finite k3 of at least 0, such as 8, with query_weights=counts",
            )
        for name, lowest in (("shard_documents", 1), ("processes", 0)):
            if getattr(self, name) < lowest:
                raise UsageError(f"BM25 has {name}={getattr(self, name)}", expected=f"at least {lowest}")

    def over(self, corpus: Corpus) -> Bm25Retriever:
        return Bm25Retriever(self, corpus)

    def _text(self, doc: Document) -> str:
        return doc.text if self.fields == "text" else doc.full_text


class Bm25Retriever:
    """A retriever that searches one collection with BM25, created by `Bm25.over`."""

    def __init__(self, options: Bm25, corpus: Corpus) -> None:
        # imported here, so that inspecting the options does not import numpy
        from rerank.indexing import bm25_index
        from rerank.indexing import documents as document_files
        from rerank.io.sealed_folders import open_sealed_folder

        self._analyze: Analyzer = make_analyzer(
            corpus.language, stemmer=options.stemmer, stop_words=options.stop_words, segmenting=options.segmenter
        )
        words_of = self._analyze.words_of
        self._documents = documents = document_files.open_documents(corpus)
        made_from = {
            "format": _FORMAT,
            "fingerprint": corpus.fingerprint,
            "language": corpus.language,
            "options": json.dumps({k: v for k, v in asdict(options).items() if k not in _NOT_INDEXED}, sort_keys=True),
            "bm25s": version("bm25s"),
            "pystemmer": version("pystemmer"),
            "unicode": unicodedata.unidata_version,
            **({"segmenter": words_of.identity} if words_of else {}),
        }
        key = document_files.folder_key(made_from)
        folder = documents.folder.with_name(f"bm25-{key}")
        self.folders: tuple[Path, ...] = (folder,)
        self._options, self._average_length = options, 0.0
        self._index = open_sealed_folder(
            folder, made_from, self._write, lambda folder: bm25_index.InvertedIndex(folder, len(documents))
        )
        if options.query_weights == "bm25":  # a folder of its own, since indexes of older versions lack this number
            self.folders += (folder.with_name(f"bm25-length-{key}"),)
            self._average_length = open_sealed_folder(
                self.folders[-1],
                made_from,
                lambda folder: bm25_index.write_average_length(folder, self._terms(0, len(documents))),
                bm25_index.read_average_length,
            )

    def _write(self, folder: Path) -> None:
        from rerank.indexing.bm25_index import write_inverted_index
        from rerank.indexing.documents import even_document_ranges
        from rerank.io.forks import available_processors

        options = self._options
        ranges = even_document_ranges(len(self._documents), options.shard_documents)
        write_inverted_index(
            folder,
            [self._terms(start, end) for start, end in ranges],
            {"k1": options.k1, "b": options.b, "method": options.method},
            processes=options.processes or available_processors(),
        )

    def _terms(self, start: int, end: int) -> Iterator[list[str]]:
        text = self._options._text
        return (self._analyze(text(self._documents[position])) for position in range(start, end))

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query with the highest scores above zero.

        Documents that share no term with a query are not returned, so the ranking is empty if a query is empty or
        contains only stop words or unknown words. Each occurrence of a word in a query counts, unless other query
        weights were chosen. The ids decide between equal scores, also about which documents are among the ``k``.
        """
        check_depth(k)
        rankings = []
        for query in queries:
            terms = self._analyze(query.text)
            positions, scores = self._index.top(terms, self._query_weights(terms), self._documents.id_ranks, k)
            docs = (self._documents[position] for position in positions.tolist())
            rankings.append(Ranking.from_scores(query, zip(docs, scores.tolist(), strict=True)))
        return Run(rankings, name="bm25")

    def _query_weights(self, terms: Sequence[str]) -> dict[str, float] | None:
        """Return a mapping from each term to its weight in the query; None if weights are numbers of occurrences."""
        options = self._options
        if options.k3 is not None:
            return saturated_weights(terms, options.k3)
        if options.query_weights == "counts":
            return None

        def idf(term: str) -> float:
            return inverse_document_frequency(len(self._documents), self._index.document_frequency(term))

        return query_side_weights(terms, idf, k1=options.k1, b=options.b, average_length=self._average_length)
