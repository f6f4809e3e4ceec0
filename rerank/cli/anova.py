"""`anova`: compare the same systems over several collections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerank.cli.output import TableFormatOption, emit_output
from rerank.cli.run_files import expand_run_arguments, read_named_runs, short_run_names
from rerank.errors import UsageError

if TYPE_CHECKING:
    from rerank.evaluation import ScoreMatrix


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``anova``."""
    example = "Example: rerank anova one/ two/ --qrels one.txt --qrels two.txt -m nDCG@10"
    app.command("anova", epilog=example)(anova_command)


def anova_command(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Folder of runs per collection; file names identify systems."),
    ],
    qrels: Annotated[
        list[str],
        typer.Option(help="Relevance judgments: a file, or the selector of a collection; once per folder, in order."),
    ],
    measure: Annotated[str, typer.Option("--measure", "-m", help="Measure with per-query values.")] = "nDCG@10",
    relevant: Annotated[
        int | None,
        typer.Option(min=1, help="Lowest grade that counts as relevant. (default: as in each collection, or 1)"),
    ] = None,
    correction: Annotated[
        str,
        typer.Option(help="Correction over the pairs: none, bonferroni, holm, hochberg, bh, by, or auto (holm)."),
    ] = "auto",
    alpha: Annotated[float, typer.Option(help="Significance level.")] = 0.05,
    form: TableFormatOption = "text",
) -> None:
    """Compare the same systems over several collections: means, a stratified test of all pairs, analysis of variance.

    Each collection counts equally in means and differences, however many topics it has.
    """
    from rerank.evaluation.comparison_family import ComparisonOptions
    from rerank.evaluation.stratified_comparison import compare_over_collections

    if len(folders) != len(qrels):
        raise UsageError(
            f"--qrels is given {len(qrels)} times for {len(folders)} folders",
            expected="one --qrels per folder, in the order of the folders",
        )
    matrices, notes = _score_collections(folders, qrels, measure, relevant)
    result = compare_over_collections(matrices, ComparisonOptions(correction=correction, alpha=alpha), notes=notes)
    emit_output(
        result.to_dict(),
        form=form,
        rows="pairs",
        reports=[result.tables()],
    )


def _score_collections(
    folders: Sequence[Path], qrels: Sequence[str], measure: str, relevant: int | None
) -> tuple[dict[str, ScoreMatrix], list[str]]:
    """Return a mapping from collection name to the scores of its runs, and notes on these scores."""
    from rerank.collections import open_collection_qrels
    from rerank.evaluation import ScoreMatrix, score_compared_runs

    matrices, notes = {}, []
    names = short_run_names(folders)
    if len(set(names)) < len(names):
        raise UsageError(
            f"The folders contain a duplicate: {', '.join(map(str, folders))}", expected="different folders"
        )
    for name, folder, selector in zip(names, folders, qrels, strict=True):
        judged, lowest = open_collection_qrels(selector)
        runs = read_named_runs(expand_run_arguments([folder]))
        compared = score_compared_runs(judged, runs, [measure], relevant=relevant or lowest)
        if len(compared.measures) > 1:
            raise UsageError(
                f"--measure {measure!r} refers to {len(compared.measures)} measures", expected="one measure"
            )
        matrices[name] = ScoreMatrix.from_scores(compared.scores, compared.measures[0])
        notes += [f"{name}: {note}" for note in compared.notes]
    return matrices, notes
