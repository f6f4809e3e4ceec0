"""Power of the paired t-test: ours on SciPy against statsmodels' TTestPower."""

from __future__ import annotations

import itertools
import math
import statistics
import warnings
from typing import Any

from libraries.processes import Settings, added, cpu_seconds, import_seconds
from rerank.evaluation import paired_t_power, topics_needed_for_power

EFFECTS, LEVELS, POWERS = (0.02, 0.05, 0.2, 0.5, 0.8, 1.5, 3.0, 50.0), (0.05, 0.01, 0.05 / 666), (0.5, 0.8, 0.95)
TOPICS = (5, 20, 50, 200)


def measure(settings: Settings) -> dict[str, Any]:
    """Compare results, times, imports and weight."""
    from statsmodels.stats.power import TTestPower

    library = TTestPower()
    sizes = list(itertools.product(EFFECTS, LEVELS, POWERS))
    mine = [topics_needed_for_power(effect, 1.0, alpha, power) for effect, alpha, power in sizes]
    theirs = [_solve(library, *size) for size in sizes]
    differ = [
        {"effect": size[0], "alpha": size[1], "power": size[2], "ours": a, "library": b}
        for size, a, b in zip(sizes, mine, theirs, strict=True)
        if a != b
    ]
    powers = list(itertools.product(TOPICS, EFFECTS, LEVELS))
    gaps = [abs(paired_t_power(n, d, 1.0, a) - library.power(d, n, a)) for n, d, a in powers]
    times = [
        (
            cpu_seconds(lambda: [topics_needed_for_power(0.3, 1.0, alpha) for alpha in LEVELS]),
            cpu_seconds(lambda: [_solve(library, 0.3, alpha, 0.8) for alpha in LEVELS]),
        )
        for _ in range(settings.repeat)
    ]
    ours, other = (1000 * statistics.median(side) / len(LEVELS) for side in zip(*times, strict=True))
    return {
        "sizes_compared": len(sizes),
        "sizes_that_differ": differ,
        "powers_compared": len(powers),
        "powers_not_a_number": sum(math.isnan(gap) for gap in gaps),
        "largest_difference_of_power": max(gap for gap in gaps if not math.isnan(gap)),
        "ours_cpu_ms": round(ours, 2),
        "library_cpu_ms": round(other, 2),
        "import_seconds": import_seconds(
            settings.repeat,
            ours="from scipy.stats import nct, t",
            library="from statsmodels.stats.power import TTestPower",
        ),
        "added": added("statsmodels"),
    }


def _solve(library: Any, effect: float, alpha: float, power: float) -> int | str:
    """Return the library's number of topics, or its failure in words."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = library.solve_power(effect, alpha=alpha, power=power)
            return math.ceil(float(found))
        except (TypeError, ValueError, OverflowError) as error:
            return f"{type(error).__name__}: {error}; {len(caught)} warnings"
