"""Reading and evaluation of many runs against ir_measures, pytrec_eval and a plain loop over the lines.

    python benchmarks/evaluation.py [--runs FOLDER ... --qrels FILE] [--repeat 7]

All are measured in turns in one process; seconds are medians, ratios are ours / theirs of the CPU seconds, so small is
good. `read`: files to runs, against a loop that splits lines into a dict without any check, and against ir_measures'
reader. `read_with_documents`: the same if the documents of the runs are needed, too. `loaded`: what is read to scores
per query. `end_to_end`: files to scores, with the readers of each library (pytrec_eval: `parse_run`). `differences`:
values per query that are not bit for bit those of ir_measures on the same order of documents. Without --runs, 61 runs
of 43 queries and 100 documents are made up, from a seed, as large as those of TREC DL 2019.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytrec_eval

from rerank.cli.run_files import expand_folders
from rerank.evaluation import evaluate_runs, parse_measures
from rerank.io.run_files import read_qrels, read_run, write_qrels
from rerank.types import Qrels, Run

Table = Mapping[str, Mapping[str, float]]
#: Measures, and their names in trec_eval: with a cutoff only, and with one that needs the whole ranking.
MEASURES = {"nDCG@10": {"ndcg_cut.10"}, "nDCG@10 AP": {"ndcg_cut.10", "map"}}
RUNS, QUERIES, DEPTH, POOL = 61, 43, 100, 600


def main() -> None:
    """Measure everything, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="+")
    parser.add_argument("--qrels", type=Path)
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths, qrels_path = (options.runs, options.qrels) if options.runs else make_up(Path(folder))
        paths, qrels = expand_folders(paths), read_qrels(qrels_path)
        result: dict[str, Any] = {"runs": len(paths), "repeat": options.repeat}
        result["read"] = in_turns(
            options.repeat,
            ours=lambda: [read_run(path) for path in paths],
            plain=lambda: [plain_run(path) for path in paths],
            ir_measures=lambda: [ir_measures_run(path) for path in paths],
        )
        runs, tables = [read_run(path) for path in paths], [plain_run(path) for path in paths]
        result["read_with_documents"] = in_turns(
            options.repeat,
            ours=lambda: [[ranking.docs for ranking in read_run(path).values()] for path in paths],
            plain=lambda: [plain_run(path) for path in paths],
        )
        for name, trec_names in MEASURES.items():
            result[f"loaded {name}"] = loaded(options.repeat, qrels, runs, tables, name.split(), trec_names)
            result[f"end_to_end {name}"] = end_to_end(options.repeat, qrels, paths, name.split(), trec_names)
        result["differences"] = differences(qrels, runs, ["nDCG@10", "AP"])
    print(json.dumps(result))


def make_up(folder: Path) -> tuple[list[Path], Path]:
    """Write gzipped runs and judgments; runs of a query share their documents as those of one collection do."""
    chance = np.random.default_rng(0)
    (folder / "runs").mkdir()
    pools = {str(query): chance.choice(8_000_000, POOL, replace=False).astype(str) for query in range(QUERIES)}
    for number in range(RUNS):
        with gzip.open(folder / f"runs/{number}.run.gz", "wt") as file:
            for query, pool in pools.items():
                scores = np.sort(chance.normal(0, 10, DEPTH))[::-1]
                for rank, (doc, score) in enumerate(zip(chance.permutation(pool)[:DEPTH], scores, strict=True), 1):
                    file.write(f"{query} Q0 {doc} {rank} {score:.8g} run{number}\n")
    judged = {query: dict.fromkeys(pool[:215].tolist(), 0) for query, pool in pools.items()}
    for grades in judged.values():
        grades.update({doc: 1 + rank % 3 for rank, doc in enumerate([*grades][::4])})
    write_qrels(Qrels(judged), folder / "qrels.txt")
    return [folder / "runs"], folder / "qrels.txt"


def plain_run(path: Path) -> dict[str, dict[str, float]]:
    """A run without any check: the least that Python can do."""
    table: dict[str, dict[str, float]] = {}
    with open_plainly(path) as file:
        for line in file:
            query, _, doc, _, score, _ = line.split()
            table.setdefault(query, {})[doc] = float(score)
    return table


def ir_measures_run(path: Path) -> Any:
    """A run as ir_measures reads it, as the dict that its evaluators take."""
    library: Any = ir_measures  # parts of it have no type annotations
    with open_plainly(path) as file:
        return library.util.RunConverter(library.read_trec_run(file)).as_dict_of_dict()


def open_plainly(path: Path) -> Any:
    """Open a text file that may be gzipped."""
    return gzip.open(path, "rt") if path.suffix == ".gz" else path.open()


def library_evaluators(
    qrels: Qrels, measures: Sequence[str], trec_names: set[str]
) -> tuple[Callable[[Table], Any], Callable[[Table], Any]]:
    """Scores per query by ir_measures and by pytrec_eval; to create the evaluators is part of what is measured."""
    grades = {query: dict(judged) for query, judged in qrels.items()}
    evaluator = ir_measures.evaluator(parse_measures(measures), grades)
    bare = pytrec_eval.RelevanceEvaluator(grades, trec_names)
    return lambda run: list(evaluator.iter_calc(run)), bare.evaluate


def loaded(
    repeat: int, qrels: Qrels, runs: Sequence[Run], tables: Sequence[Table], measures: list[str], trec_names: set[str]
) -> dict[str, float]:
    """From what each library holds in memory to scores."""

    def library(index: int) -> Any:
        evaluate = library_evaluators(qrels, measures, trec_names)[index]
        return [evaluate(table) for table in tables]

    return in_turns(
        repeat,
        ours=lambda: evaluate_runs(qrels, runs, measures),
        ir_measures=lambda: library(0),
        pytrec_eval=lambda: library(1),
    )


def end_to_end(
    repeat: int, qrels: Qrels, paths: Sequence[Path], measures: list[str], trec_names: set[str]
) -> dict[str, float]:
    """From files to scores."""

    def with_pytrec_eval(path: Path) -> Any:
        with open_plainly(path) as file:
            return pytrec_eval.parse_run(file)

    def library(index: int, read: Callable[[Path], Any]) -> Any:
        evaluate = library_evaluators(qrels, measures, trec_names)[index]
        return [evaluate(read(path)) for path in paths]

    return in_turns(
        repeat,
        ours=lambda: evaluate_runs(qrels, [read_run(path) for path in paths], measures),
        ir_measures=lambda: library(0, ir_measures_run),
        pytrec_eval=lambda: library(1, with_pytrec_eval),
    )


def differences(qrels: Qrels, runs: Sequence[Run], measures: list[str]) -> int:
    """Values that are not those of ir_measures when it gets our order of documents as scores."""
    evaluator = ir_measures.evaluator(
        parse_measures(measures), {query: dict(judged) for query, judged in qrels.items()}
    )
    found = 0
    for run, scores in zip(runs, evaluate_runs(qrels, runs, measures), strict=True):
        ranks = {q: {doc: -float(rank) for rank, doc in enumerate(r.doc_ids)} for q, r in run.items() if q in qrels}
        values = {(str(m.measure), m.query_id): m.value for m in evaluator.iter_calc(ranks)}
        found += sum(
            values[name, query] != value for name, row in scores.values.items() for query, value in row.items()
        )
    return found


def in_turns(repeat: int, **actions: Callable[[], Any]) -> dict[str, float]:
    """Median wall-clock and CPU seconds of each action, and the ratios of ours to the others by CPU."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for turn in range(repeat + 1):
        for name, action in actions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            result = action()
            if turn:  # the first turn warms up
                taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
            del result
    report = {}
    for name, pairs in taken.items():
        for kind, seconds in zip(("wall", "cpu"), zip(*pairs, strict=True), strict=True):
            report[f"{name}_{kind}"] = round(statistics.median(seconds), 4)
    ratios = {
        f"over_{name}": round(report["ours_cpu"] / report[f"{name}_cpu"], 2) for name in actions if name != "ours"
    }
    return {**report, **ratios}


if __name__ == "__main__":
    main()
