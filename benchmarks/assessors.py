"""Coverage and width of prediction-powered intervals against those from people's judgments alone.

    python benchmarks/assessors.py --runs trec_dl_runs/dl19/official --people qrels.dl19-passage.txt --predicted llm.txt

Topics are drawn with replacement, so that the topics at hand are the population and their mean is the true value. The
first n topics of a sample count as judged by people and by the model, the others as judged by the model only. Coverage
is the fraction of samples and systems (or pairs of systems) whose interval contains the true value; `_se` is its
standard error over samples. `width`: mean width over that of people alone, good below 1. `error`: root mean square
error of the prediction-powered estimate over that of people alone. `bias`: absolute mean error of the estimate over its
root mean square error, mean over systems; `bias_people` is that of people alone, all of which is sampling error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t

from rerank.adjudication.few_judgments import estimate_prediction_powered_mean
from rerank.adjudication.pool_measures import score_matrices
from rerank.adjudication.pools import Floats
from rerank.cli.run_files import read_run_arguments
from rerank.io.run_files import read_qrels
from rerank.types import Qrels, Run

KINDS = ("people", "t", "normal")


def read_scores(runs: Sequence[Run], people: Qrels, predicted: Qrels, measure: str) -> tuple[Floats, Floats]:
    """Return two (topics, systems) arrays of scores, by people and by the model."""
    topics = sorted(set(people) & set(predicted))
    both = []
    for qrels in (people, predicted):
        matrix = score_matrices(Qrels({topic: qrels[topic] for topic in topics}), runs, [measure])[measure]
        both.append(matrix.values[[matrix.topics.index(topic) for topic in topics]])
    return both[0], both[1]


def sample(
    people: Floats, model: Floats, n: int, resamples: int, seed: int
) -> Iterator[dict[str, tuple[Floats, Floats]]]:
    """Yield kind of interval -> (estimates, half widths) for every sample."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = rng.integers(len(people), size=len(people))
        judged, other = drawn[:n], drawn[n:]
        error = people[judged].std(axis=0, ddof=1) / n**0.5
        found = {"people": (people[judged].mean(axis=0), error * t.ppf(0.975, n - 1))}
        for kind in ("t", "normal"):
            estimated = estimate_prediction_powered_mean(people[judged], model[judged], model[other], interval=kind)
            found[kind] = (estimated.estimate, estimated.half_width)
        yield found


def figures(people: Floats, model: Floats, n: int, resamples: int, seed: int) -> dict[str, float]:
    """Return coverage of every kind with its standard error, and widths over those of people alone."""
    true = people.mean(axis=0)
    covered: dict[str, list[float]] = {kind: [] for kind in KINDS}
    widths: dict[str, list[float]] = {kind: [] for kind in KINDS}
    errors: dict[str, list[Floats]] = {kind: [] for kind in KINDS}
    for found in sample(people, model, n, resamples, seed):
        for kind, (estimate, half) in found.items():
            covered[kind].append(float((np.abs(estimate - true) <= half + 1e-12).mean()))
            widths[kind].append(float(half.mean()))
            errors[kind].append(estimate - true)
    numbers = {}
    for kind in KINDS:
        numbers[f"coverage_{kind}"] = float(np.mean(covered[kind]))
        numbers[f"coverage_{kind}_se"] = float(np.std(covered[kind], ddof=1) / resamples**0.5)
        numbers[f"width_{kind}"] = float(np.mean(widths[kind]) / np.mean(widths["people"]))
    # (systems,) mean and mean square of the errors
    means, squares = ({k: np.mean(np.array(errors[k]) ** power, axis=0) for k in KINDS} for power in (1, 2))
    numbers["error"] = float((squares["t"].mean() / squares["people"].mean()) ** 0.5)
    for name, kind in (("bias", "t"), ("bias_people", "people")):
        numbers[name] = float((np.abs(means[kind]) / np.sqrt(squares[kind])).mean())
    return numbers


def main() -> None:
    """Print one line per model, number of topics, and kind of figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--people", type=Path, required=True)
    parser.add_argument("--predicted", type=Path, nargs="+", required=True)
    parser.add_argument("--measure", default="nDCG@10")
    parser.add_argument("--topics", type=int, nargs="+", default=[5, 10, 15, 20, 30])
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    runs, judged = read_run_arguments(given.runs), read_qrels(given.people)
    rows = []
    for file in given.predicted:
        people, model = read_scores(runs, judged, read_qrels(file), given.measure)
        first, second = np.triu_indices(len(runs), 1)
        for what in ("means", "differences"):
            y, f = (v if what == "means" else v[:, first] - v[:, second] for v in (people, model))
            for n in given.topics:
                numbers = figures(y, f, n, given.resamples, given.seed)
                rows.append({"predicted": file.name, "what": what, "topics": n, **numbers})
                shown = " ".join(f"{name} {value:.3f}" for name, value in numbers.items())
                print(f"{file.name} {what} {n} of {len(people)} topics: {shown}", flush=True)
    print(json.dumps({"resamples": given.resamples, "seed": given.seed, "rows": rows}))


if __name__ == "__main__":
    main()
