"""What is ranked: the queries that take part, their judgments, and the first stage's lists.

Knows a specification's collection and first stage; of rerankers it knows the order in which they get the lists.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rerank.collections import Collection, judgments, open_collection
from rerank.errors import DataError, UnknownNameError
from rerank.experiment.spec import RunSpec
from rerank.io.pictures import picture_hash
from rerank.retrieval import open_retriever
from rerank.retrieval.base.stages import Searches
from rerank.selector import Selector
from rerank.types import Qrels, Query, Ranking, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What several runs over the same candidates share. Made by `find`.

    Attributes:
        collection: Where they come from.
        qrels: The judgments of the queries that take part; empty if there are none.
        first_stage: The first-stage lists.
    """

    collection: Collection
    qrels: Qrels
    first_stage: Run


def digest(run: Run) -> str:
    """Hex SHA-256 of lists as a reranker sees them: queries, documents, texts, pictures, order."""
    whole = hashlib.sha256()
    for ranking in run.values():
        parts = [ranking.query.id, ranking.query.text]
        for doc in ranking.docs:
            parts += [doc.id, doc.title, doc.text]
            if doc.image:
                parts += ["picture", picture_hash(doc.image)]
        for part in parts:
            data = part.encode("utf-8", "surrogatepass")
            whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()


def load(spec: RunSpec, *, judged_only: bool = True) -> tuple[Collection, list[Query], Qrels]:
    """Open the collection; return it with the queries that take part and their judgments.

    Args:
        spec: What is asked for.
        judged_only: Where there are judgments and no queries are named, leave out the queries without any: for runs
            that are to be scored.

    Where only some queries were asked for, the judgments are theirs. Otherwise all judgments count: a judged query
    that the collection has not scores 0, as in any other evaluation.
    """
    collection = open_collection(spec.collection)
    qrels = judgments(spec.qrels)[0] if spec.qrels else collection.qrels()
    queries = select(spec, collection.queries(), qrels if judged_only else Qrels({}))
    if spec.queries or spec.max_queries:
        qrels = Qrels({q.id: qrels[q.id] for q in queries if q.id in qrels}, name=qrels.name)
    return collection, queries, qrels


def lowest_relevant(spec: RunSpec, collection: Collection) -> int:
    """The lowest grade that binary measures count: the one asked for, else that of the judgments' collection.

    Judgments from a file say nothing of it, so there it is that of the collection that is searched.
    """
    if spec.relevant is not None:
        return spec.relevant
    if spec.qrels and not Path(spec.qrels).is_file():
        return open_collection(spec.qrels).relevant
    return collection.relevant


def retrieve(
    spec: RunSpec, collection: Collection, queries: Sequence[Query], *, retriever: Searches | None = None
) -> Run:
    """First-stage lists of a specification, cut to the depth: one for every query, empty where nothing was found.

    ``retriever`` is its first stage, if that is open already.
    """
    found = (retriever or open_retriever(spec.first_stage, collection)).search(queries, spec.depth)
    lists = (found[query.id] if query.id in found else Ranking(query, (), ()) for query in queries)
    return Run(lists, name=Selector.parse(spec.first_stage).name)


def find(spec: RunSpec, *, judged_only: bool = True) -> Found:
    """Load the collection of a specification and retrieve its candidates, for runs that differ in what follows."""
    collection, queries, qrels = load(spec, judged_only=judged_only)
    return Found(collection=collection, qrels=qrels, first_stage=retrieve(spec, collection, queries))


def shuffled(run: Run, spec: RunSpec) -> Run:
    """The lists in the order in which the reranker gets them."""
    if spec.shuffle == "none":
        return run
    return Run((_shuffled(ranking, spec) for ranking in run.values()), name=run.name)


def select(spec: RunSpec, queries: list[Query], qrels: Qrels) -> list[Query]:
    """The queries of a run: those asked for by id; else, where there are judgments, the judged ones; else all.

    Raises:
        UnknownNameError: A query id that the collection has not.
        DataError: No query is left.
    """
    if spec.queries:
        by_id = {query.id: query for query in queries}
        for query_id in spec.queries:
            if query_id not in by_id:
                raise UnknownNameError("query", query_id, by_id)
        chosen = [by_id[query_id] for query_id in dict.fromkeys(spec.queries)]
    else:
        chosen = [query for query in queries if query.id in qrels] if qrels else queries
    if not chosen:
        raise DataError(
            f"None of the {len(queries)} queries of {spec.collection!r} has judgments"
            if queries
            else f"The collection {spec.collection!r} has no queries",
            remedy="Check that --qrels belongs to the collection" if queries else "Name a collection that has some",
        )
    return chosen[: spec.max_queries]


def _shuffled(ranking: Ranking, spec: RunSpec) -> Ranking:
    docs = list(ranking.docs)
    if spec.shuffle == "random":
        random.Random(f"{spec.seed}/{ranking.query.id}").shuffle(docs)
    else:
        docs.reverse()
    return Ranking.from_order(ranking.query, docs)
