"""The input of a reranker: queries, relevance judgments and first-stage candidates of a run specification."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rerank.collections import Collection, SupportsCandidateStream, open_collection, open_collection_qrels
from rerank.errors import DataError, UnknownNameError
from rerank.experiment.candidate_lists import CandidateLists, RankingDigest
from rerank.experiment.spec import RunSpec
from rerank.retrieval import open_first_stage
from rerank.retrieval.base import Retriever
from rerank.selector import Selector
from rerank.types import Qrels, Query, Ranking, Run

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievedCandidates:
    """The candidates that several runs share.

    Attributes:
        collection: The collection of the queries and documents.
        qrels: The relevance judgments of the queries used; empty if there are none.
        first_stage: The first-stage run.
    """

    collection: Collection
    qrels: Qrels
    first_stage: Run


def digest_candidates(run: Run) -> str:
    """Return the hex SHA-256 of everything in a run that a reranker sees, as `RankingDigest` computes it."""
    digest = RankingDigest()
    for ranking in run.values():
        digest.add(ranking)
    return digest.hexdigest()


def load_experiment_queries(spec: RunSpec, *, judged_only: bool = True) -> tuple[Collection, list[Query], Qrels]:
    """Open the collection of a specification and select its queries and judgments.

    If the specification selects queries, only the judgments of these queries are returned. Otherwise, all judgments are
    returned: a judged query that the collection lacks scores 0, as in any other evaluation.

    Args:
        spec: The specification.
        judged_only: Whether to omit queries without judgments, unless there are no judgments at all or queries are
            selected by id. Set it for runs that are scored.

    Returns:
        The collection, the queries and the judgments.
    """
    collection, qrels = load_experiment_qrels(spec)
    return collection, *select_judged_queries_of_experiment(spec, collection, qrels, judged_only=judged_only)


def load_experiment_qrels(spec: RunSpec) -> tuple[Collection, Qrels]:
    """Open the collection of a specification without reading its queries; return the collection and all judgments."""
    collection = open_collection(spec.collection)
    return collection, open_collection_qrels(spec.qrels)[0] if spec.qrels else collection.qrels()


def select_judged_queries_of_experiment(
    spec: RunSpec, collection: Collection, qrels: Qrels, *, judged_only: bool
) -> tuple[list[Query], Qrels]:
    """Select queries and judgments for a specification from an open collection, like `load_experiment_queries`."""
    queries = select_run_queries(spec, collection.queries(), qrels if judged_only else Qrels({}))
    if spec.queries or spec.max_queries:
        qrels = Qrels({q.id: qrels[q.id] for q in queries if q.id in qrels}, name=qrels.name)
    return queries, qrels


def lowest_relevant_grade_of_spec(spec: RunSpec, collection: Collection) -> int:
    """Return the lowest grade that binary measures count as relevant.

    This is the grade in the specification or, if the specification contains none, the grade of the collection that
    provides the judgments. A qrels file does not state a grade, so the grade of the searched collection is used for its
    judgments.
    """
    if spec.relevant is not None:
        return spec.relevant
    if spec.qrels and not Path(spec.qrels).is_file():
        return open_collection(spec.qrels).relevant
    return collection.relevant


def retrieve_spec_candidates_for_queries(
    spec: RunSpec, collection: Collection, queries: Sequence[Query], *, retriever: Retriever | None = None
) -> Run:
    """Retrieve the candidates of a specification; the ranking of a query without candidates is empty.

    Args:
        spec: The specification.
        collection: The collection of the specification.
        queries: The queries for which candidates are retrieved.
        retriever: The first stage of the specification, if it is already open.
    """
    run = (retriever or open_first_stage(spec.first_stage, collection)).search(queries, spec.depth)
    if empty := [query.id for query in queries if query.id not in run or not run[query.id].docs]:
        _LOG.warning(
            "The first stage found no candidates for %d of %d queries, such as %r", len(empty), len(queries), empty[0]
        )
    lists = (run[query.id] if query.id in run else Ranking(query, (), ()) for query in queries)
    return Run(lists, name=Selector.parse(spec.first_stage).name)


def retrieve_candidates_of_spec(spec: RunSpec, *, judged_only: bool = True) -> RetrievedCandidates:
    """Open the collection of a specification and retrieve its candidates, so that several runs can share them."""
    collection, queries, qrels = load_experiment_queries(spec, judged_only=judged_only)
    return RetrievedCandidates(
        collection=collection, qrels=qrels, first_stage=retrieve_spec_candidates_for_queries(spec, collection, queries)
    )


def stream_candidates_of_spec(spec: RunSpec, collection: Collection) -> CandidateLists | None:
    """Return the candidate lists that the collection of a specification contains, if they can be streamed.

    Judgments are not used. All lists are read once. If queries are selected by id, their lists are kept in memory.

    Returns:
        The candidate lists; None if the first stage is not ``candidates`` or the collection cannot stream its lists.
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


def order_candidates_of_spec(run: Run, spec: RunSpec) -> Run:
    """Return the candidates of all queries in the order in which the reranker receives them, after any shuffle."""
    return (
        run
        if spec.shuffle == "none"
        else Run((order_candidate_list_of_spec(r, spec) for r in run.values()), name=run.name)
    )


def order_candidate_list_of_spec(ranking: Ranking, spec: RunSpec) -> Ranking:
    """Return the candidates of one query in the order in which the reranker receives them, after any shuffle."""
    return ranking if spec.shuffle == "none" else _shuffle_candidates(ranking, spec)


def select_run_queries(spec: RunSpec, queries: list[Query], qrels: Qrels) -> list[Query]:
    """Select the queries of a run.

    If the specification contains ids, the queries with these ids are selected. Otherwise, the queries with judgments
    are selected or, if there are no judgments, all queries. The number of queries is limited to ``max_queries``.
    """
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


def _shuffle_candidates(ranking: Ranking, spec: RunSpec) -> Ranking:
    docs = list(ranking.docs)
    if spec.shuffle == "random":
        random.Random(f"{spec.seed}/{ranking.query.id}").shuffle(docs)
    else:
        docs.reverse()
    return Ranking.from_order(ranking.query, docs)
