"""Strategies with a simulated judge that orders windows as a real run does, with errors: quality and cost.

    python benchmarks/strategies.py --lists retrieve_results_dl19.json.gz --qrels qrels.dl19-passage.txt \\
        --oracle tirex_rankzephyr.run.gz tirex_rankgpt4o.run.gz --repeats gpt-3.5-turbo*.txt.gz \\
        [--seeds 100] [--noise swaps] [--rate 0.065] [--markdown]

The judge orders a window by the ranks of the oracle's run; documents that the run lacks come last, in input order. Then
it errs, anew in every window. `rate` is the share of pairs among the first 20 documents of a list whose order differs
between two repeats of one reranker, unless `--rate` is given. `swaps` swaps random neighbours until that share of the
window's pairs is discordant (rounded at random), however far apart their ranks are. `places` adds normal noise to the
ranks, whose standard deviation gives two noisy orders of the ranks 1 to 20 the same share: documents far apart are
hardly ever confused. `none` is the oracle itself. `repeats` is the share that two sliding reranks by this judge have.

`difference` is that of nDCG@10 to the first strategy; its interval (95 %, Student's t) is over queries, each query
being the mean of all seeds. `seed_sd` is the standard deviation over seeds of the mean over queries. Cost is per query;
`prompt` and `reply` are words and punctuation marks of the default prompt and of the identifiers, from the first seed.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import NormalDist, mean, stdev
from typing import Any

from rerank.backends.fake import Fake
from rerank.collections import open_collection
from rerank.evaluation import evaluate_run
from rerank.evaluation.significance import student_t_interval
from rerank.io.run_files import read_qrels, read_run
from rerank.judges import open_judge
from rerank.prompts import load_prompt
from rerank.retrieval import open_first_stage
from rerank.strategies import Strategy, open_strategy
from rerank.types import Qrels, Ranking, Run, Window

STRATEGIES = (
    "sliding,top_k=10",
    "top_down,top_k=10",
    "tournament_graph",
    "tournament_graph,size=10",
    "tournament_sort",
    "tournament_sort,size=10",
    "tournament",
    "sliding,top_k=10,passes=2",
)
MEASURE = "nDCG@10"
HEAD = 20
REPEATS = 5

#: Returns the order of a window: positions, best first.
Judge = Callable[[Window, random.Random], list[int]]
#: Calls, rounds, passages, prompt tokens and reply tokens of one list.
Cost = tuple[int, ...]


def main() -> None:
    """Simulate every strategy under every oracle and noise; print tables and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lists", type=Path, required=True, help="candidate lists with passage text (requests format)")
    parser.add_argument("--qrels", type=Path, required=True)
    parser.add_argument("--oracle", type=Path, nargs="+", required=True, help="runs whose ranks decide")
    parser.add_argument("--repeats", type=Path, nargs="+", required=True, help="runs of one reranker over one input")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--noise", nargs="+", default=("none", "swaps", "places"))
    parser.add_argument("--rate", type=float, default=None)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--markdown", action="store_true", help="also print tables")
    options = parser.parse_args()
    collection = open_collection(f"requests:{options.lists}")
    lists = list(open_first_stage("candidates", collection).search(collection.queries(), 100).values())
    qrels = read_qrels(options.qrels)
    measured = disagreement([read_run(path) for path in options.repeats])
    rate = measured if options.rate is None else options.rate
    figures: dict[str, Any] = {
        "measured": measured,
        "rate": rate,
        "sigma": sigma_of(rate),
        "seeds": options.seeds,
        "results": [],
    }
    for path in options.oracle:
        ranks = oracle_ranks(read_run(path), lists)
        for noise in options.noise:
            judge = make_judge(ranks, noise, figures)
            seeds = 1 if noise == "none" else options.seeds
            rows = compare([measure(s, lists, qrels, judge, seeds) for s in options.strategies], options.strategies)
            again = [Run(play(open_strategy("sliding"), r, judge, seed)[0] for r in lists) for seed in range(REPEATS)]
            row = {"oracle": path.name, "noise": noise, "repeats": disagreement(again), "rows": rows}
            figures["results"].append(row)
            if options.markdown:
                print(f"\n{path.name}, {noise}, repeats {row['repeats']:.3f}\n\n{markdown(rows)}", flush=True)
    figures["overlap"] = {path.name: overlap(read_run(path), lists) for path in options.oracle}
    print(json.dumps(figures))


def disagreement(repeats: Sequence[Run]) -> float:
    """Return the share of pairs of the first 20 documents of a list that another repeat orders differently."""
    differ = [
        second.index(a) > second.index(b)
        for one, other in combinations(repeats, 2)
        for query_id in one
        for second in [other[query_id].doc_ids]
        for a, b in combinations(one[query_id].doc_ids[:HEAD], 2)
    ]
    return mean(differ)


def sigma_of(rate: float) -> float:
    """Return the standard deviation of noise with which two orders of 20 ranks differ in this share of pairs."""
    low, high = 0.0, 100.0
    while high - low > 1e-6:
        sigma = (low + high) / 2
        wrong = [NormalDist().cdf(-(b - a) / (sigma * 2**0.5)) for a, b in combinations(range(HEAD), 2)]
        low, high = (sigma, high) if mean(2 * p * (1 - p) for p in wrong) < rate else (low, sigma)
    return low


def oracle_ranks(run: Run, lists: Sequence[Ranking]) -> dict[str, dict[str, int]]:
    """Return query id -> document id -> rank in the run; documents that it lacks follow in input order."""
    ranks = {}
    for ranking in lists:
        known = {doc_id: rank for rank, doc_id in enumerate(run[ranking.query.id].doc_ids)}
        order = sorted(enumerate(ranking.doc_ids), key=lambda at: known.get(at[1], len(known) + at[0]))
        ranks[ranking.query.id] = {doc_id: rank for rank, (_, doc_id) in enumerate(order)}
    return ranks


def overlap(run: Run, lists: Sequence[Ranking]) -> float:
    """Return the mean share of a list's documents that the run ranks."""
    return mean(len({*r.doc_ids} & {*run[r.query.id].doc_ids}) / len(r) for r in lists)


def make_judge(ranks: dict[str, dict[str, int]], noise: str, figures: dict[str, Any]) -> Judge:
    """Return a judge with one kind of noise."""

    def judge(window: Window, chance: random.Random) -> list[int]:
        places = [float(ranks[window.query.id][doc.id]) for doc in window.docs]
        if noise == "places":
            places = [place + chance.gauss(0, figures["sigma"]) for place in places]
        order = sorted(range(len(places)), key=places.__getitem__)
        return swapped(order, places, figures["rate"], chance) if noise == "swaps" else order

    return judge


def swapped(order: list[int], places: Sequence[float], rate: float, chance: random.Random) -> list[int]:
    """Swap random neighbours of a correct order until the share of discordant pairs is reached."""
    exact = rate * len(order) * (len(order) - 1) / 2
    missing = int(exact) + (chance.random() < exact % 1)
    while missing:
        at = chance.randrange(len(order) - 1)
        missing += -1 if places[order[at]] < places[order[at + 1]] else 1
        order[at], order[at + 1] = order[at + 1], order[at]
    return order


def measure(selector: str, lists: Sequence[Ranking], qrels: Qrels, judge: Judge, seeds: int) -> dict[str, Any]:
    """Rerank all lists with every seed; return scores per seed and query, and costs."""
    strategy = open_strategy(selector)
    scores, costs = [], list[Cost]()
    for seed in range(seeds):
        results = [play(strategy, ranking, judge, seed) for ranking in lists]
        scores.append(evaluate_run(qrels, Run(result for result, _ in results), [MEASURE]).values[MEASURE])
        costs += [(len(windows), rounds, sum(map(len, windows))) for _, (rounds, windows) in results]
        if not seed:
            tokens = [count_tokens(windows) for _, (_, windows) in results]
    names = ("calls", "rounds", "passages", "prompt", "reply")
    means = [*map(mean, zip(*costs, strict=True)), *map(mean, zip(*tokens, strict=True))]
    return {"scores": scores, **dict(zip(names, means, strict=True))}


def play(strategy: Strategy, ranking: Ranking, judge: Judge, seed: int) -> tuple[Ranking, tuple[int, list[Window]]]:
    """Rerank one list; return the result, the number of rounds and all windows."""
    chance = random.Random(f"{seed}/{ranking.query.id}")
    plan, shown, rounds = strategy(ranking), list[Window](), 0
    try:
        windows = next(plan)
        while True:
            shown, rounds = [*shown, *windows], rounds + 1
            windows = plan.send([tuple(judge(window, chance)) for window in windows])
    except StopIteration as end:
        return end.value, (rounds, shown)


def count_tokens(windows: Sequence[Window]) -> Cost:
    """Return the tokens of the prompts and replies of a list's windows."""
    backend = Fake("reversed", context_size=10**6)
    judge = open_judge("generate", backend, load_prompt("listwise"))
    prompts = [backend.tokens.count(judge.make_requests(window)[0].prompt) for window in windows]
    replies = backend.tokens.lengths([" > ".join(f"[{rank + 1}]" for rank in range(w.depth)) for w in windows])
    return sum(prompts), sum(replies)


def compare(measured: Sequence[dict[str, Any]], strategies: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per strategy, with its costs relative to the first one."""
    base = measured[0]
    return [row_of(name, found, base) for name, found in zip(strategies, measured, strict=True)]


def row_of(name: str, found: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a strategy."""
    ours, theirs = (per_query(side["scores"]) for side in (found, base))
    deltas = [a - b for a, b in zip(ours, theirs, strict=True)]
    low, high = student_t_interval(deltas)
    by_seed = [mean(scores.values()) for scores in found["scores"]]
    costs = {key: found[key] for key in ("calls", "rounds", "passages", "prompt", "reply")}
    return {
        "strategy": name,
        MEASURE: mean(ours),
        "difference": mean(deltas),
        "low": low,
        "high": high,
        "seed_sd": stdev(by_seed) if len(by_seed) > 1 else 0.0,
        **costs,
        "relative": {key: value / base[key] for key, value in costs.items()},
    }


def per_query(scores: Sequence[Any]) -> list[float]:
    """Return the mean over seeds of every query."""
    return [mean(one[query] for one in scores) for query in scores[0]]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    head = ("strategy", MEASURE, "difference [95 %]", "calls", "rounds", "calls", "passages", "prompt", "reply")
    return "\n".join(_lines(head, rows))


def _lines(head: Sequence[str], rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "| --- " * len(head) + "|"
    for row in rows:
        relative = row["relative"]
        cells = (
            f"`{row['strategy']}`",
            f"{row[MEASURE]:.4f}",
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]",
            f"{row['calls']:.1f}",
            f"{row['rounds']:.1f}",
            *(f"{relative[key]:.2f}" for key in ("calls", "passages", "prompt", "reply")),
        )
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
