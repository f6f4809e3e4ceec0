"""How often tests reject where nothing differs: simulated family-wise errors of the package's own tests.

    python benchmarks/levels.py [--replications 2000] [--draws 999] [--seed 0] [--scores FILE.csv] [--only NULL ...]

A family is nine runs against a baseline on 43 topics without a true difference (with a margin: at the margin). Its
error is the fraction of replications in which a procedure rejects anything at .05; at a true .05, 2,000 replications
have a standard error of .005. --scores adds nulls of real topic x system scores: ten systems of a random choice, their
differences from one of them minus their means, and topics drawn with replacement. Tables in Markdown, then one JSON
line, {"family_error": {NULL: {PROCEDURE: ...}}, "seconds": ...}. Without arguments, it ends within ten minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rerank.evaluation import ComparisonOptions, Scores, read_score_matrix
from rerank.evaluation.baseline_comparison import compare_with_baseline
from rerank.evaluation.baseline_tests import open_baseline_test
from rerank.evaluation.stratified_comparison import analyse_nested_variance

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
Null = Callable[[Rng], Floats]

TOPICS, RUNS, ALPHA = 43, 10, 0.05
MARGIN = 1.0
#: Tests of all runs against the baseline; ``DRAWS`` stands for the options of a test that draws.
TESTS = ("t", "wilcoxon", "dunnett", "max-t,DRAWS", "max-t,flip,DRAWS")


def skewed(rng: Rng, *shape: int) -> Floats:
    """Draw exponential values with mean 0 and standard deviation 1; their skewness is 2."""
    return np.asarray(rng.exponential(1, shape) - 1)


def of_differences(differences: Floats) -> Floats:
    """Return (topics, runs) scores with these (topics, runs - 1) differences from the first run."""
    return np.column_stack([np.zeros(len(differences)), differences])


def normal(rng: Rng) -> Floats:
    return rng.normal(0, 1, (TOPICS, RUNS))


def unequal(rng: Rng) -> Floats:
    """Standard deviations from 1 to 5, skewness 2."""
    return of_differences(skewed(rng, TOPICS, RUNS - 1) * np.linspace(1, 5, RUNS - 1))


def alike(rng: Rng) -> Floats:
    """Equal variances, skewness 2, correlation 1/2 between runs."""
    return of_differences((skewed(rng, TOPICS, RUNS - 1) + skewed(rng, TOPICS, 1)) / np.sqrt(2))


def noisy(rng: Rng) -> Floats:
    """Near clones of one run, and one run with ten times their noise."""
    noise = rng.normal(0, np.append(np.full(RUNS - 1, 0.1), 1.0), (TOPICS, RUNS))
    return np.asarray(rng.normal(0, 1, (TOPICS, 1)) + noise)


def variants(rng: Rng) -> Floats:
    """Variants of one run that differ on few topics, by large differences of one sign: mean 0 only over many topics."""
    rare, size = 0.05, rng.exponential(1, (TOPICS, RUNS - 1))
    changed = rng.random((TOPICS, RUNS - 1)) < rare
    return of_differences(np.where(changed, size, 0.0) - rare)


def resampled(values: Floats, rng: Rng) -> Floats:
    """Topics drawn with replacement from centred differences of ten random systems."""
    chosen = values[:, rng.choice(values.shape[1], RUNS, replace=False)]
    differences = chosen[:, 1:] - chosen[:, [0]]
    centred = differences - differences.mean(axis=0)
    return of_differences(centred[rng.integers(0, len(values), len(values))])


NULLS: dict[str, Null] = {"normal": normal, "unequal": unequal, "alike": alike, "noisy": noisy, "variants": variants}


def family_rejects(null: Null, draws: int, seed: int) -> dict[str, bool]:
    """Draw one family and return, for each procedure, whether it rejects at least one true hypothesis."""
    rng = np.random.default_rng(seed)
    scores, found = null(rng), {}
    for name in TESTS:
        test = open_baseline_test(name.replace("DRAWS", f"permutations={draws},seed={seed}"))
        if name == "dunnett":  # a critical value is computed once, a p-value each time
            differences = (scores[:, 1:] - scores[:, [0]]).mean(axis=0)
            found[name] = bool((np.abs(differences) > test.half_widths(scores, 0, ALPHA)).any())
        else:
            found[name.removesuffix(",DRAWS")] = bool(test.p_values(scores, 0).adjusted.min() <= ALPHA)
    return found


def claims_reject(draw: Null, measures: Sequence[str], draws: int, seed: int) -> dict[str, bool]:
    """Return whether a claim with a margin is made anywhere, of runs that lie exactly at the lower margin."""
    rng = np.random.default_rng(seed)
    topics = list(map(str, range(TOPICS)))
    tables = {name: np.column_stack([np.zeros(TOPICS), draw(rng) - MARGIN]) for name in measures}
    scores = [
        Scores(
            run=str(run), values={name: dict(zip(topics, table[:, run], strict=True)) for name, table in tables.items()}
        )
        for run in range(next(iter(tables.values())).shape[1])
    ]
    found = {}
    for test in ("t", f"bootstrap,permutations={draws},seed={seed}"):
        options = ComparisonOptions(test=test, margin=MARGIN, across_measures=len(measures) > 1)
        rows = compare_with_baseline(scores, measures, "0", options).rows
        for claim in ("equivalent", "not_inferior"):
            found[f"{claim}, {test.partition(',')[0]}"] = any(row.claims[f"{claim}_p"] <= ALPHA for row in rows)
    return found


def anova_rejects(null: Null, seed: int) -> dict[str, bool]:
    """Return whether the analysis of variance over two collections finds an effect of the systems."""
    rng = np.random.default_rng(seed)
    system = analyse_nested_variance([null(rng), null(rng)])[0]
    return {"anova": bool(system["p"] <= ALPHA), "anova, uncorrected": bool(system["uncorrected_p"] <= ALPHA)}


def experiments(scores: Sequence[Path], draws: int) -> dict[str, list[Callable[[int], dict[str, bool]]]]:
    """Return, for each null, functions of a seed that try procedures on one family."""
    nulls = dict(NULLS)
    for path in scores:
        nulls[path.stem] = partial(resampled, read_score_matrix(path).values)
    found: dict[str, list[Callable[[int], dict[str, bool]]]] = {
        name: [partial(family_rejects, null, draws)] for name, null in nulls.items()
    }
    for name in ("normal", "noisy"):
        found[name].append(partial(anova_rejects, NULLS[name]))
    found["margin, two measures"] = [partial(claims_reject, at_margin, ("one", "two"), draws)]
    found["margin, skewed"] = [partial(claims_reject, skewed_to_margin, ("one",), draws)]
    return found


def at_margin(rng: Rng) -> Floats:
    return rng.normal(0, 2, (TOPICS, RUNS - 1))


def skewed_to_margin(rng: Rng) -> Floats:
    """One run with skewness -4: most differences lie above the margin, a few far below."""
    return np.asarray(2 - 8 * rng.gamma(0.25, 1, (TOPICS, 1)))


def count(functions: Sequence[Callable[[int], dict[str, bool]]], seeds: Sequence[int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for function in functions:
        for seed in seeds:
            for name, rejected in function(seed).items():
                total[name] = total.get(name, 0) + rejected
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replications", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=999)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scores", type=Path, nargs="*", default=[])
    parser.add_argument("--only", nargs="*", default=[], metavar="NULL")
    options = parser.parse_args()
    began, errors = time.perf_counter(), {}
    with ProcessPoolExecutor() as processes:
        for null, functions in experiments(options.scores, options.draws).items():
            if options.only and null not in options.only:
                continue
            seeds = range(options.seed, options.seed + options.replications)
            parts = list(processes.map(partial(count, functions), [seeds[k::20] for k in range(20)]))
            errors[null] = {
                name: round(sum(part.get(name, 0) for part in parts) / options.replications, 4) for name in parts[0]
            }
    for null, row in errors.items():
        print(f"| {null} | {' | '.join(f'{name} {error:.3f}' for name, error in row.items())} |")
    print(json.dumps({"family_error": errors, "seconds": round(time.perf_counter() - began)}))


if __name__ == "__main__":
    main()
