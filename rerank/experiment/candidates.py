"""The input of a reranker: queries, relevance judgments and first-stage candidates of a run specification."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from rerank.collections import Collection, SupportsCandidateStream, open_collection, open_collection_qrels
from rerank.engines import open_engine
from rerank.errors import DataError, UnknownNameError
from rerank.evaluation import evaluate_run, parse_measures
from rerank.experiment.spec import Execution, RunSpec
from rerank.io.pictures import picture_hash
from rerank.retrieval import check_first_stage, open_first_stage, retriever_index_bytes
from rerank.retrieval.base import Retriever
from rerank.selector import Selector
from rerank.types import Qrels, Query, Ranking, Run

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievedCandidates:
    """The candidates that several runs share."""

    collection: Collection
    qrels: Qrels  # the relevance judgments of the queries used; empty if there are none
    first_stage: Run


def digest_run(run: Run) -> str:
    """Return the hex SHA-256 of everything in a run that a reranker sees."""
    digest = RankingDigest()
    for ranking in run.values():
        digest.add(ranking)
    return digest.hexdigest()


def load_queries(spec: RunSpec, *, judged_only: bool = True) -> tuple[Collection, list[Query], Qrels]:
    """Open the collection of a specification and select its queries and judgments.

    If the specification selects queries, only their judgments are returned. Otherwise, all judgments are returned: a
    judged query that the collection lacks scores 0, as in any other evaluation. ``judged_only``, for runs that are
    scored, omits queries without judgments, unless there are no judgments at all or queries are selected by id.
    """
    collection, qrels = load_qrels(spec)
    return collection, *select_queries_and_qrels(spec, collection, qrels, judged_only=judged_only)


def load_qrels(spec: RunSpec) -> tuple[Collection, Qrels]:
    """Open the collection of a specification without reading its queries; return the collection and all judgments."""
    collection = open_collection(spec.collection)
    return collection, open_collection_qrels(spec.qrels)[0] if spec.qrels else collection.qrels()


def select_queries_and_qrels(
    spec: RunSpec, collection: Collection, qrels: Qrels, *, judged_only: bool
) -> tuple[list[Query], Qrels]:
    """Select queries and judgments for a specification from an open collection, like `load_queries`."""
    queries = select_queries(spec, collection.queries(), qrels if judged_only else Qrels({}))
    if spec.queries or spec.max_queries:
        qrels = Qrels({q.id: qrels[q.id] for q in queries if q.id in qrels}, name=qrels.name)
    return queries, qrels


def lowest_relevant_grade(spec: RunSpec, collection: Collection) -> int:
    """Return the lowest grade that binary measures count as relevant: the specification's, or that of the judgments.

    A qrels file does not state a grade, so the grade of the searched collection is used for its judgments.
    """
    if spec.relevant is not None:
        return spec.relevant
    if spec.qrels and not Path(spec.qrels).is_file():
        return open_collection(spec.qrels).relevant
    return collection.relevant


def retrieve_lists(
    spec: RunSpec, collection: Collection, queries: Sequence[Query], *, retriever: Retriever | None = None
) -> Run:
    """Retrieve the candidates of a specification; the ranking of a query without candidates is empty."""
    run = (retriever or open_first_stage(spec.first_stage, collection)).search(queries, spec.depth)
    if empty := [query.id for query in queries if query.id not in run or not run[query.id].docs]:
        _LOG.warning(
            "The first stage found no candidates for %d of %d queries, such as %r", len(empty), len(queries), empty[0]
        )
    lists = (run[query.id] if query.id in run else Ranking(query, (), ()) for query in queries)
    return Run(lists, name=Selector.parse(spec.first_stage).name)


def retrieve_shared(spec: RunSpec, *, judged_only: bool = True) -> RetrievedCandidates:
    """Open the collection of a specification and retrieve its candidates, so that several runs can share them."""
    collection, queries, qrels = load_queries(spec, judged_only=judged_only)
    return RetrievedCandidates(
        collection=collection, qrels=qrels, first_stage=retrieve_lists(spec, collection, queries)
    )


def stream_lists(spec: RunSpec, collection: Collection) -> CandidateLists | None:
    """Return the candidate lists that the collection of a specification contains, if they can be streamed.

    Judgments are not used. All lists are read once. If queries are selected by id, their lists are kept in memory. None
    is returned if the first stage is not ``candidates`` or the collection cannot stream its lists.
    """
    selector = Selector.parse(spec.first_stage)
    is_own = selector.name == "candidates" and not selector.argument and not selector.options
    if not is_own or collection.drop_self or not isinstance(collection, SupportsCandidateStream):
        return None
    source = collection

    def read() -> Iterator[Ranking]:
        lists = (ranking.top(spec.depth) for ranking in source.candidate_lists())
        return islice(lists, spec.max_queries)

    if not spec.queries:
        lists = CandidateLists(name=selector.name, read=read)
        if not lists.survey.queries:
            raise _spec_without_queries_error(spec)
        return lists
    named = dict.fromkeys(spec.queries)
    found = {ranking.query.id: ranking for ranking in source.candidate_lists() if ranking.query.id in named}
    for query_id in named:
        if query_id not in found:
            raise UnknownNameError("query", query_id, [query.id for query in collection.queries()])
    chosen = islice((found[query_id].top(spec.depth) for query_id in named), spec.max_queries)
    return CandidateLists.of(Run(chosen, name=selector.name))


def order_run(run: Run, spec: RunSpec) -> Run:
    """Return the candidates of all queries in the order in which the reranker receives them, after any shuffle."""
    return Run((order_list(ranking, spec) for ranking in run.values()), name=run.name)


def order_list(ranking: Ranking, spec: RunSpec) -> Ranking:
    """Return the candidates of one query in the order in which the reranker receives them, after any shuffle."""
    if spec.shuffle == "none":
        return ranking
    docs = list(ranking.docs)
    if spec.shuffle == "random":
        random.Random(f"{spec.seed}/{ranking.query.id}").shuffle(docs)
    else:
        docs.reverse()
    return Ranking.from_order(ranking.query, docs)


def select_queries(spec: RunSpec, queries: list[Query], qrels: Qrels) -> list[Query]:
    """Select up to ``max_queries`` queries: those named, or else those with judgments, or all if there are none."""
    if spec.queries:
        by_id = {query.id: query for query in queries}
        for query_id in spec.queries:
            if query_id not in by_id:
                raise UnknownNameError("query", query_id, by_id)
        selected = [by_id[query_id] for query_id in dict.fromkeys(spec.queries)]
    else:
        selected = [query for query in queries if query.id in qrels] if qrels else queries
    if not queries:
        raise _spec_without_queries_error(spec)
    if not selected:
        raise DataError(
            f"None of the {len(queries)} queries of {spec.collection!r} has judgments",
            remedy="Check that --qrels belongs to the collection",
        )
    return selected[: spec.max_queries]


def _spec_without_queries_error(spec: RunSpec) -> DataError:
    return DataError(f"The collection {spec.collection!r} has no queries", remedy="Use a collection with queries")


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSurvey:
    """Digest, number and lengths of candidate lists, computed in one pass over the lists."""

    digest: str  # SHA-256, in hexadecimal, of everything in the lists that a reranker sees (`RankingDigest`)
    queries: int
    lengths: Counter[int]  # mapping from each length (number of documents) to the number of lists with that length


@dataclass(frozen=True, kw_only=True)
class CandidateLists:
    """Candidate lists that can be read repeatedly. Unless they are kept in memory, they are read one at a time."""

    name: str
    read: Callable[[], Iterable[Ranking]]  # function that returns an iterator over the candidate lists, one per query
    kept: Run | None = None  # the candidate lists if they are kept in memory; otherwise None

    @classmethod
    def of(cls, run: Run) -> CandidateLists:
        return cls(name=run.name, read=run.values, kept=run)

    @cached_property
    def run(self) -> Run:
        """All candidate lists, read into memory."""
        return Run(self, name=self.name) if self.kept is None else self.kept

    @cached_property
    def survey(self) -> CandidateSurvey:
        """Digest, number and lengths of the lists; the first access reads all lists."""
        digest, lengths = RankingDigest(), Counter[int]()
        for ranking in self.read():
            digest.add(ranking)
            lengths[len(ranking)] += 1
        return CandidateSurvey(digest=digest.hexdigest(), queries=lengths.total(), lengths=lengths)

    def __iter__(self) -> Iterator[Ranking]:
        if self.kept is not None:
            yield from self.kept.values()
            return
        expected, digest = self.survey.digest, RankingDigest()
        for ranking in self.read():
            digest.add(ranking)
            yield ranking
        if digest.hexdigest() != expected:
            raise DataError("The candidate file was changed while it was in use", remedy="Restore the file")


class RankingDigest:
    """Incremental SHA-256 of everything in rankings that a reranker sees: queries, documents, pictures and order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, ranking: Ranking) -> None:
        parts = [ranking.query.id, ranking.query.text]
        for doc in ranking.docs:
            parts += [doc.id, doc.title, doc.text]
            if doc.image:
                parts += ["picture", picture_hash(doc.image)]
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            self._hash.update(len(data).to_bytes(8, "big") + data)  # the length marks where a part ends

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstStageResult:
    """The run that a first stage returns, and its cost."""

    run: Run  # one ranking per query; a ranking is empty if nothing was found for its query
    seconds: float  # time to open the first stage and to search, including building the index if it does not exist
    #: Size of the index on disk in megabytes (10^6 bytes), without the document texts; 0 without an index.
    index_mb: float
    scores: Mapping[str, float]  # mapping from each measure to its mean over queries; empty without relevance judgments


def search_first_stage(spec: RunSpec, execution: Execution | None = None) -> FirstStageResult:
    """Search all queries of a collection, judged or not, with the first stage of a specification.

    ``execution`` can select an engine whose workers encode the texts in place of this process.
    """
    collection, queries, qrels = load_queries(spec, judged_only=False)
    relevant = lowest_relevant_grade(spec, collection)
    parse_measures(spec.measures, relevant=relevant)  # fail before an index is built, which can take hours
    execution = execution or Execution()
    with closing(open_engine(execution.engine, **execution.engine_options())) as engine:
        workers = engine.worker_map()
        check_first_stage(spec.first_stage, with_workers=workers is not None)
        engine.start(None)
        start = time.perf_counter()
        retriever = open_first_stage(spec.first_stage, collection, workers=workers)
        run = retrieve_lists(spec, collection, queries, retriever=retriever)
        seconds = time.perf_counter() - start
    scores = evaluate_run(qrels, run, spec.measures, relevant=relevant).summary() if qrels else {}
    return FirstStageResult(run=run, seconds=seconds, index_mb=retriever_index_bytes(retriever) / 1e6, scores=scores)
