"""The candidate lists on which a ranker is measured: first stages over DL19, DL21, Cranfield and Vaswani.

The lists of DL19 and DL21 are files of rerank requests; the bi-encoder reorders those of BM25 by its cosines, and RRF
fuses those of BM25 and SPLADE++. Over Cranfield and Vaswani, BM25 and the bi-encoder search the whole collection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rerank.collections import Collection, open_collection, open_collection_qrels
from rerank.collections.requests import Requests
from rerank.retrieval import open_first_stage
from rerank.retrieval.base.given_documents import InMemoryCorpus
from rerank.retrieval.hybrid import reciprocal_rank_fusion
from rerank.types import Document, Qrels, Ranking, Run

ENCODER = "dense:all-minilm-l6-v2"
#: First stages of each collection.
STAGES = {
    "DL19": ("BM25", "SPLADE++", "MiniLM", "RRF"),
    "DL21": ("BM25", "MiniLM"),
    "Cranfield": ("BM25", "MiniLM"),
    "Vaswani": ("BM25", "MiniLM"),
}
#: Folders of collections; those of TREC Deep Learning share two.
FOLDERS = {"Cranfield": ("cranfield",), "Vaswani": ("vaswani",)}
#: Cranfield's queries: the odd-numbered ones choose, the even-numbered ones test.
ODD, EVEN = (frozenset(str(number) for number in range(start, 226, 2)) for start in (1, 2))


@dataclass(frozen=True)
class Lists:
    """Lists of one first stage for the judged queries of a collection.

    Attributes:
        run: The lists, with texts and scores.
        qrels: The judgments of these queries.
        relevant: Lowest grade that binary measures count as relevant.
    """

    run: Run
    qrels: Qrels
    relevant: int


@dataclass(frozen=True)
class ListSource:
    """Makes lists from a folder of data.

    Attributes:
        data: Folder with msmarco_candidates, qrels, cranfield and vaswani.
    """

    data: Path

    def check(self, collections: Iterable[str]) -> None:
        """End the script if the folder lacks the data of a collection."""
        for collection in collections:
            for folder in FOLDERS.get(collection, ("msmarco_candidates", "qrels")):
                if not (self.data / folder).is_dir():
                    raise SystemExit(f"{self.data} has no folder {folder!r}, which {collection} needs")

    def lists(self, collection: str, stage: str, depth: int, queries: frozenset[str] = frozenset()) -> Lists:
        """Return the lists of a first stage, of all judged queries or of some."""
        if collection.startswith("DL"):
            year = collection[2:]
            (file,) = (self.data / "qrels").glob(f"qrels.dl{year}-passage.txt*")
            qrels = open_collection_qrels(str(file))[0]
            run = self._passages(year, stage, depth)
        else:
            opened: Collection = getattr(self, f"_{collection.lower()}")
            qrels = opened.qrels()
            chosen = [query for query in opened.queries() if query.id in (queries or qrels)]
            run = open_first_stage(ENCODER if stage == "MiniLM" else "bm25", opened).search(chosen, depth)
        kept = [ranking for ranking in run.values() if ranking.query.id in qrels]
        judged = Qrels({ranking.query.id: qrels[ranking.query.id] for ranking in kept})
        return Lists(Run(kept, name="first stage"), judged, 2 if collection.startswith("DL") else 1)

    @cached_property
    def _cranfield(self) -> Collection:
        return open_collection(f"cranfield:{self.data / 'cranfield'}")

    @cached_property
    def _vaswani(self) -> Collection:
        folder = self.data / "vaswani"
        files = f"docs={folder}/doc-text.trec.gz,topics={folder}/query-text.trec,qrels={folder}/qrels"
        return open_collection(f"trec:{files}")

    def _passages(self, year: str, stage: str, depth: int) -> Run:
        """Return lists of TREC Deep Learning (passages)."""
        makers: dict[str, Callable[[], Run]] = {
            "BM25": lambda: self._requests("BM25", year).top(depth),
            "SPLADE++": lambda: self._requests("SPLADE_P_P_ENSEMBLE_DISTIL", year).top(depth),
            "MiniLM": lambda: reorder_by_encoder(self._requests("BM25", year).top(depth)),
            "RRF": lambda: fuse([self._passages(year, each, depth) for each in ("BM25", "SPLADE++")], depth),
        }
        return makers[stage]()

    def _requests(self, stage: str, year: str) -> Run:
        return Requests(f"{self.data}/msmarco_candidates/{stage}/retrieve_results_dl{year}.json.gz").candidates()


def reorder_by_encoder(run: Run) -> Run:
    """Order each list of a run by the cosines of the bi-encoder, which become the scores."""
    docs = {doc.id: doc for ranking in run.values() for doc in ranking.docs}
    found = open_first_stage(ENCODER, InMemoryCorpus(list(docs.values()))).search(
        [ranking.query for ranking in run.values()], len(docs)
    )
    rankings = []
    for ranking in run.values():
        cosines = dict(zip(found[ranking.query.id].doc_ids, found[ranking.query.id].scores, strict=True))
        rankings.append(Ranking.from_scores(ranking.query, [(doc, cosines[doc.id]) for doc in ranking.docs]))
    return Run(rankings)


def fuse(runs: Sequence[Run], depth: int) -> Run:
    """Fuse the lists of each query by reciprocal rank fusion; all runs contain the same queries."""
    rankings = []
    for ranking in runs[0].values():
        values: Counter[str] = Counter()
        docs: dict[str, Document] = {}
        for run in runs:
            values.update(reciprocal_rank_fusion(run[ranking.query.id]).values)
            docs |= {doc.id: doc for doc in run[ranking.query.id].docs}
        scored = [(docs[doc_id], value) for doc_id, value in values.items()]
        rankings.append(Ranking.from_scores(ranking.query, scored).top(depth))
    return Run(rankings)
