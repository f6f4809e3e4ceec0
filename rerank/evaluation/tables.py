"""Scores and comparisons as tables: aligned text, Markdown, LaTeX or HTML. Computes nothing."""

from __future__ import annotations

from collections.abc import Iterable

from rerank.evaluation.pairs import Decisions
from rerank.evaluation.report import Comparison, Pair
from rerank.evaluation.scores import Scores
from rerank.evaluation.significance import TITLES
from rerank.io.table_formats import LETTERS, Cell, Form, Grid, render
from rerank.selector import Selector


def scores_table(scores: Iterable[tuple[str, Scores]], *, markdown: bool = False, digits: int = 4) -> str:
    """One row a run: queries, missing queries, and each measure.

    Args:
        scores: The runs' names and scores, all with the same measures.
        markdown: A Markdown table instead of aligned text.
        digits: Decimals of the values.
    """
    listed = list(scores)
    names = listed[0][1].measures if listed else ()
    rows = [
        [run, str(len(entry.queries)), str(len(entry.missing)), *(_number(v, digits) for v in entry.summary().values())]
        for run, entry in listed
    ]
    return render([Grid(["run", "queries", "missing", *names], rows)], [], "markdown" if markdown else "text")


def comparison_table(comparison: Comparison, *, markdown: bool = False, digits: int = 4) -> str:
    """Two tables, the runs and the pairs, then what the numbers are and what to beware of.

    Args:
        comparison: What to show.
        markdown: Markdown tables instead of aligned text.
        digits: Decimals of scores and differences.
    """
    return comparison_as(comparison, "markdown" if markdown else "text", digits=digits)


def comparison_as(comparison: Comparison, form: Form, *, digits: int = 4) -> str:
    """The same in any form."""
    p_heads = [f"p ({Selector.parse(comparison.test).name})"]
    if comparison.correction != "none":
        p_heads.append(TITLES[comparison.correction])
    if not _is_wilcoxon(comparison):
        p_heads += ["p (Wilcoxon)", TITLES["holm"]]
    heads = ["a", "b", "a - b", "95% interval", "d", "win/tie/loss", *p_heads]
    pairs = Grid(heads, [_pair(comparison, pair, digits) for pair in comparison.pairs], left=2)
    return render([_runs(comparison, digits), pairs], [*_legend(comparison), *comparison.notes], form)


def decisions_table(decisions: Decisions, *, form: Form = "text", digits: int = 4) -> str:
    """One row a system, the best first, then how many pairs differ and what to beware of.

    Args:
        decisions: What to show.
        form: How.
        digits: Decimals of means.
    """
    found = decisions.to_dict()
    ordered = sorted(found["means"], key=lambda entry: -entry["mean"])
    rows = [
        [entry["system"], _number(entry["mean"], digits), str(entry["beats"]), str(entry["beaten_by"])]
        for entry in ordered
    ]
    options = "".join(f", {key} {value}" for key, value in found["options"].items() if value is not None)
    line = (
        f"{found['significant']} of {found['pairs']} pairs of {found['systems']} systems differ on {found['topics']} "
        f"topics: {decisions.title}{options}, correction {TITLES[decisions.correction]}, level {decisions.alpha:g}."
    )
    return render([Grid(["system", "mean", "beats", "beaten by"], rows)], [line, *decisions.notes], form)


def _runs(comparison: Comparison, digits: int) -> Grid:
    """Means, each with the letters of the runs that it is significantly above; with many runs, only their number."""
    beats, lettered = comparison.decisions.beats(), len(comparison.runs) <= len(LETTERS)
    rows: list[list[str | Cell]] = []
    for at, run in enumerate(comparison.runs):
        mean, interval = _number(run.mean, digits), _interval(run.low, run.high, digits)
        if lettered:
            rows.append([LETTERS[at], run.run, Cell(mean, "".join(LETTERS[b] for b in beats[at])), interval])
        else:
            rows.append([run.run, mean, interval, str(len(beats[at]))])
    if lettered:
        return Grid(["", "run", comparison.measure, "95% interval"], rows, left=2)
    return Grid(["run", comparison.measure, "95% interval", "beats"], rows)


def _pair(comparison: Comparison, pair: Pair, digits: int) -> list[str]:
    star = "*" if pair.significant else ""
    p_values = [_p_value(pair.p) + (star if comparison.correction == "none" else "")]
    if comparison.correction != "none":
        p_values.append(_p_value(pair.p_adjusted) + star)
    if not _is_wilcoxon(comparison):
        p_values += [_p_value(pair.p_wilcoxon), _p_value(pair.p_wilcoxon_adjusted)]
    return [
        pair.a,
        pair.b,
        f"{pair.difference:+.{digits}f}",
        _interval(pair.low, pair.high, digits),
        f"{pair.effect:+.2f}",
        f"{pair.wins}/{pair.ties}/{pair.losses}",
        *p_values,
    ]


def _is_wilcoxon(comparison: Comparison) -> bool:
    """Whether the second opinion would be the first again."""
    return Selector.parse(comparison.test).name == "wilcoxon"


def _legend(comparison: Comparison) -> list[str]:
    many = f"{len(comparison.pairs)} pair{'s' * (len(comparison.pairs) != 1)}"
    after = f"after {TITLES[comparison.correction]}'s correction over {many}"
    if comparison.correction == "none":
        after = f"which holds for all {many} together" if comparison.decisions.family_wise else "not corrected"
    above = (
        "Letters at a mean: the runs that it is significantly above. " if len(comparison.runs) <= len(LETTERS) else ""
    )
    return [
        f"* significant: p ({comparison.decisions.title}, two-sided), {after}, is at most {comparison.alpha:g}; "
        f"{comparison.queries} queries.",
        f"{above}d: mean of the differences over their standard deviation.",
    ]


def _number(value: float, digits: int) -> str:
    return str(int(value)) if value.is_integer() and abs(value) > 1 else f"{value:.{digits}f}"


def _interval(low: float, high: float, digits: int) -> str:
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def _p_value(p: float) -> str:
    """Four decimals; what would print as 0 is given as a bound."""
    return f"{p:.4f}" if p >= 0.00005 else "<0.0001"
