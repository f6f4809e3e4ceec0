"""Fit the calibration that an adapter ships with, on DL21 and on Cranfield's odd-numbered queries.

    python calibrate.py --work work --data FOLDER NAME --weight .5 --depth 20 --depth 100 --out rerank-calibration.json

The candidates are BM25's. Documents without a judgment are left out for DL19 and DL21. They count as not relevant for
Cranfield, whose judgments list all relevant documents. Query likelihood is calibrated at 5, 20 and 100 documents from
one depth; a listwise judge needs one --depth for each.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

from lists import EVEN, ODD, ListSource
from scores import compute_scores, order_by_scores, untrained_settings
from search import adapter_of

from rerank.assemble import assemble_ranker
from rerank.calibration import RankedCollection, fit_calibration, identity_bound_to_calibration

#: Name of a part of the data -> its collection and queries; no queries stand for all of them.
PARTS = {
    "DL19": ("DL19", frozenset[str]()),
    "DL21": ("DL21", frozenset[str]()),
    "Cranfield-odd": ("Cranfield", ODD),
    "Cranfield-even": ("Cranfield", EVEN),
    "Cranfield": ("Cranfield", frozenset[str]()),
}


def ranked(part: str, given: argparse.Namespace, adapter: str, kind: str, depth: int) -> RankedCollection:
    """Return the lists of a part of the data in the order of the adapter, with its scores and the judgments."""
    collection, queries = PARTS[part]
    lists = ListSource(given.data.resolve()).lists(collection, "BM25", depth, queries)
    file = given.work / "scores" / given.name / f"{collection}.sqlite"
    scores = compute_scores(file, f"BM25-{depth}", lists.run, adapter)
    by_query: dict[str, dict[str, float]] = defaultdict(dict)
    for ranking in lists.run.values():
        by_query[ranking.query.id] = {doc_id: scores[ranking.query.id, doc_id] for doc_id in ranking.doc_ids}
    return RankedCollection(
        name=part,
        run=order_by_scores(lists.run, [scores], given.weight),
        first_stage=lists.run,
        kind=kind,
        judge=by_query,
        qrels=lists.qrels,
        relevant=lists.relevant,
        is_complete=collection == "Cranfield",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="folder in work/adapters, untrained, or smollm2-135m-attention")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with msmarco_candidates, qrels and cranfield")
    parser.add_argument("--weight", type=float, required=True, help="weight of the first stage in the final order")
    parser.add_argument("--depth", type=int, action="append", required=True, help="number of candidates; repeatable")
    parser.add_argument("--fit", nargs="*", choices=PARTS, default=("DL21", "Cranfield-odd"), help="data to fit it to")
    parser.add_argument("--test", nargs="*", choices=PARTS, default=(), help="data on which it is only tested")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    adapter = adapter_of(given.name, given.work.resolve())
    setup = assemble_ranker({"adapter": adapter} if adapter else untrained_settings())
    judge = setup.open_judge(setup.open_backend())
    assert judge.score_kind is not None
    kind = judge.score_kind.name
    fitted, tests = (
        [ranked(part, given, adapter, kind, depth) for part in parts for depth in given.depth]
        for parts in (given.fit, given.test)
    )
    ranker = identity_bound_to_calibration(setup.identity(judge))
    result = fit_calibration(fitted, ranker=ranker, first_stage="bm25", tests=tests)
    result.calibration.save(given.out)
    for row in result.report["rows"]:
        print(json.dumps({key: value for key, value in row.items() if key != "bins"}))


if __name__ == "__main__":
    main()
