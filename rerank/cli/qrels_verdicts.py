"""Options and tables for significance decisions, shared by `qrels study` and `qrels compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerank.cli.output import format_number_cell, print_note
from rerank.errors import UsageError

if TYPE_CHECKING:
    from rerank.evaluation.comparison_family import ComparisonFamily
    from rerank.io.reports import TableReport

VERDICT_COLUMNS = ("AA", "AD", "MA", "MD", "PA", "PD", "precision", "recall", "balanced_accuracy", "tau", "tau_ap")
#: Headings of the columns that a terminal shows only with ``--wide``.
MINOR_COLUMNS = ("MA", "MD", "PA", "PD", "balanced accuracy", "tau ap")


@dataclass(frozen=True, kw_only=True)
class ProcedureOptions:
    """Options for measures and significance tests."""

    measures: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Measure; repeatable. (default: nDCG@10)")
    ] = None
    test: Annotated[
        list[str] | None,
        typer.Option(
            help="Paired test: t, wilcoxon, sign, permutation, bootstrap, tukey-randomised or tukey-anova; repeatable. "
            "(default: t)"
        ),
    ] = None
    correction: Annotated[
        list[str] | None,
        typer.Option(
            help="Correction for multiple comparisons: none, bonferroni, holm, hochberg, bh, by, or auto "
            "(none for Tukey's tests, otherwise holm); repeatable. (default: auto, as in rerank compare)"
        ),
    ] = None
    alpha: Annotated[float, typer.Option(help="Significance level.")] = 0.05
    relevant: Annotated[
        int | None,
        typer.Option(min=1, help="Lowest grade that counts as relevant; 2 for TREC Deep Learning. (default: 1)"),
    ] = None

    @property
    def procedures(self) -> Any:
        """All combinations of tests and corrections."""
        from rerank.adjudication.conclusions import cross_significance_procedures

        return cross_significance_procedures(self.test or ["t"], self.correction or ["auto"])


def parse_named_patterns(option: str, texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Split the values ``NAME=PATTERN`` of an option into pairs of name and pattern."""
    pairs = [text.partition("=") for text in texts]
    for text, (system, _, pattern) in zip(texts, pairs, strict=True):
        if not (system and pattern):
            raise UsageError(f"{option} is {text!r}", expected="NAME=PATTERN, as in gpt='gpt-3.5*'")
    return tuple((system, pattern) for system, _, pattern in pairs)


def table_of_qrels_study(
    content: dict[str, Any], families: Sequence[ComparisonFamily], about: Sequence[str] = ()
) -> TableReport:
    """Return the results of a study of qrels as a table, with the significance tests in its legend."""
    from rerank.io.reports import Grid, TableReport

    rows = [
        [*(str(r[key]) for key in about), r["measure"], format_procedure_cell(r), *format_verdict_cells(r)]
        for r in content["results"]
    ]
    heads = [*about, "measure", "test", *(name.replace("_", " ") for name in VERDICT_COLUMNS)]
    legend = [f"Significant: {family.describe_p()}" for family in families] + [families[0].describe_data()]
    return TableReport([Grid(heads, rows, left=len(about) + 2)], legend, content["notes"])


def print_qrels_notes(content: dict[str, Any]) -> None:
    """Print the notes of a result on stderr."""
    for text in content["notes"]:
        print_note(f"note: {text}")


def format_procedure_cell(row: dict[str, Any]) -> str:
    """Return the test and the correction of a row as text, such as ``t + holm``."""
    return str(row["test"]) if row["correction"] == "none" else f"{row['test']} + {row['correction']}"


def format_verdict_cells(row: dict[str, Any]) -> list[str]:
    """Format decisions as the cells of a row: counts as integers, mean counts with 1 decimal, rates with 3 decimals."""
    return [
        f"{row[name]:g}" if isinstance(row[name], int) else format_number_cell(row[name], 1 if name.isupper() else 3)
        for name in VERDICT_COLUMNS
    ]
