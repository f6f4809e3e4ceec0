"""How much of its teacher an adapter has learnt: Kendall's tau between its order and the teacher's.

    python agreement.py --work work --data FOLDER --system listwise@0/20 --system all-linear-n800-s1@0/20

The lists are BM25's first candidates of DL21 and of Cranfield's odd-numbered queries. The teacher is the sum of the
z-scores of the bi-encoder's cosines and of BM25, as in training, but over the candidates that are ranked instead of 30.
BM25's own order agrees with it too, and has a row. Differences are those to the first system of the same depth, paired
by query.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lists import ODD, ListSource, reorder_by_encoder
from scores import order_by_scores
from search import check_adapters
from systems import FIRST_STAGE, System

from rerank.evaluation.reproduction import kendall_tau_union
from rerank.evaluation.significance.single_pairs import paired_t, student_t_interval
from rerank.types import Run


def order_by_teacher(run: Run) -> Run:
    """Return the order of the teacher."""
    cosines = {
        (ranking.query.id, doc_id): score
        for ranking in reorder_by_encoder(run).values()
        for doc_id, score in zip(ranking.doc_ids, ranking.scores, strict=True)
    }
    return order_by_scores(run, [cosines], weight=1.0)


def with_interval(values: Sequence[float]) -> str:
    """Return the mean with its 95 % interval."""
    low, high = student_t_interval(values)
    return f"{sum(values) / len(values):.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with msmarco_candidates, qrels and cranfield")
    System.add_option(parser)
    given = parser.parse_args()
    source, work = ListSource(given.data.resolve()), given.work.resolve()
    source.check(("DL21", "Cranfield"))
    for system in given.system:
        check_adapters(system.names, work)
    print("| lists | system | tau to the teacher [95 %] | difference [95 %] | p |\n|" + " --- |" * 5)
    for collection, half in (("DL21", frozenset[str]()), ("Cranfield", ODD)):
        for depth in sorted({system.depth for system in given.system}):
            run = source.lists(collection, "BM25", depth, half).run
            teacher = order_by_teacher(run)
            base: list[float] = []
            for system in (*(system for system in given.system if system.depth == depth), FIRST_STAGE):
                own = system.rank(run, collection, "BM25", work)
                taus = [kendall_tau_union(teacher[query].doc_ids, own[query].doc_ids) or 0.0 for query in teacher]
                base = base or taus
                differences = [tau - other for tau, other in zip(taus, base, strict=True)]
                tested = f"{with_interval(differences)} | {paired_t(differences):.2g}" if taus is not base else " | "
                print(f"| {collection}, {depth} | {system} | {with_interval(taus)} | {tested} |")


if __name__ == "__main__":
    main()
