"""How often tests reject where nothing differs: simulated family-wise errors of the package's own tests.

    python benchmarks/levels.py [--replications 2000] [--draws 999] [--seed 0] [--scores FILE.csv] [--only NULL ...]

A family is nine runs against a baseline on 43 topics without a true difference (with a margin: at the margin). Its
error is the fraction of replications in which a procedure rejects anything at .05; at a true .05, 2,000 replications
have a standard error of .005. --scores adds nulls of real topic x system scores: ten systems of a random choice, their
differences from one of them minus their means, and topics drawn with replacement.

Coverage is the fraction of samples whose 95 % interval holds the value of the population (a sample of 4,000 topics):
the t interval of a mean difference, the calibration error, and kappa. These take a fifth of the replications. Tables in
Markdown, then one JSON line, {"family_error": {NULL: {PROCEDURE: ...}}, "coverage": {FIGURE: {CASE: ...}}, "seconds":
...}. Without arguments, it ends within ten minutes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rerank.adjudication.agreement import AssessorPanel
from rerank.calibration.metrics import measure_calibration
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


def predictions(rng: Rng, queries: int, shift: float) -> tuple[list[float], list[bool], list[int]]:
    """Draw probabilities of 20 documents per query, ``shift`` too extreme, their labels and their queries."""
    query = np.repeat(np.arange(queries), 20)
    score = rng.normal(-1, 1.2, len(query))
    label = rng.random(len(query)) < 1 / (1 + np.exp(-(score + rng.normal(0, 0.8, queries)[query])))
    grid = np.linspace(-8, 8, 400)
    effects = np.random.default_rng(1).normal(0, 0.8, 4000)
    right = np.interp(score, grid, (1 / (1 + np.exp(-(grid[:, None] + effects)))).mean(axis=1))
    wrong = np.clip(right + shift * np.sign(right - 0.15), 0.001, 0.999)
    return wrong.tolist(), label.tolist(), query.tolist()


def judged_twice(rng: Rng, topics: int) -> dict[str, dict[str, dict[str, int]]]:
    """Draw the binary grades of two assessors for 30 documents per topic; difficulty and relevance vary by topic."""
    relevant = rng.random((topics, 30)) < rng.beta(2, 4, (topics, 1))
    right = rng.random((2, topics, 30)) < rng.beta(8, 2, (topics, 1))
    grades = np.where(right, relevant, ~relevant).astype(int)
    return {
        name: {str(topic): {str(doc): int(grade) for doc, grade in enumerate(row)} for topic, row in enumerate(table)}
        for name, table in zip("ab", grades, strict=True)
    }


@cache
def of_population(figure: str, size: float) -> float:
    """Return what a sample of 4,000 topics has for a figure; its own error is small beside those of few topics."""
    rng, many = np.random.default_rng(1), 4000
    if figure == "kappa":
        panel = AssessorPanel.from_qrels(judged_twice(rng, many))
        return float(panel.kappas()[0, 1])
    # without a shift, the error is 0 by construction
    return measure_calibration(*predictions(rng, many, size)).ece if size else 0.0


def intervals(seed: int) -> dict[str, bool]:
    """Draw one sample for each interval and return whether it holds the population's value, by figure and case."""
    rng, found = np.random.default_rng(seed), {}
    for topics in (TOPICS, 10):
        for name, values in (("normal", rng.normal(0, 1, topics)), ("skewness 2", skewed(rng, topics))):
            table = np.column_stack([values, np.zeros(topics)])
            half = open_baseline_test("t").half_widths(table, 1, ALPHA)
            found[f"mean difference: {topics} topics, {name}"] = bool(abs(values.mean()) <= np.ravel(half)[0])
    for shift in (0.0, 0.02, 0.06):
        low, high = measure_calibration(*predictions(rng, TOPICS, shift)).intervals["ece"]
        found[f"calibration error: {of_population('ece', shift):.3f}"] = low <= of_population("ece", shift) <= high
    for topics in (5, 10, 20):
        bounds = AssessorPanel.from_qrels(judged_twice(rng, topics)).to_dict()["pairs"][0]["kappa_interval"]
        found[f"kappa: {topics} topics"] = bounds[0] <= of_population("kappa", 0) <= bounds[1]
    return found


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
        samples = max(1, options.replications // 5)
        parts = (
            []
            if options.only
            else list(processes.map(partial(count, [intervals]), [range(samples)[k::20] for k in range(20)]))
        )
    coverage: dict[str, dict[str, float]] = {}
    for name in parts[0] if parts else ():
        figure, _, case = name.partition(": ")
        coverage.setdefault(figure, {})[case] = round(sum(part.get(name, 0) for part in parts) / samples, 4)
    for null, row in (errors | coverage).items():
        print(f"| {null} | {' | '.join(f'{name} {error:.3f}' for name, error in row.items())} |")
    print(json.dumps({"family_error": errors, "coverage": coverage, "seconds": round(time.perf_counter() - began)}))


if __name__ == "__main__":
    main()
