"""`power` and `worth`: report the differences that a comparison can detect, and gains over a first stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank.cli.compare import MeasureOptions, read_compared_runs
from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import TableFormatOption, emit_output, print_note
from rerank.cli.run_files import NamesOption, RunsArgument, expand_run_arguments, read_named_runs
from rerank.errors import UsageError


def register_cli_commands(app: typer.Typer) -> None:
    """Add the commands ``power`` and ``worth``."""
    power = "Example: rerank power a.trec b.trec --qrels qrels.txt -m nDCG@10 --difference 0.02"
    app.command("power", epilog=power)(power_command)
    worth = "Example: rerank worth a.trec b.trec --qrels qrels.txt -m nDCG@10"
    app.command("worth", epilog=worth)(worth_command)


@expand_option_groups
def power_command(
    scoring: MeasureOptions,
    *,
    runs: RunsArgument,
    baseline: Annotated[
        str | None, typer.Option(help="Compare all other runs with this run only: a run file or the name of a run.")
    ] = None,
    difference: Annotated[
        float | None, typer.Option(help="Smallest difference that matters; adds the number of topics it requires.")
    ] = None,
    power: Annotated[float, typer.Option(help="Probability of detecting a true difference.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Significance level, which is divided by the number of pairs.")] = 0.05,
    form: TableFormatOption = "text",
) -> None:
    """Report the differences that a paired t-test can detect, and the number of topics needed for a difference.

    Only the standard deviations of the per-topic differences are taken from the runs.
    """
    from rerank.evaluation.comparison_family import ComparisonOptions
    from rerank.evaluation.power_report import PowerGoal, report_power_of_runs

    compared, name = read_compared_runs(runs, scoring, [], baseline)
    if len(compared.measures) > 1:
        raise UsageError(f"{len(compared.measures)} measures are given", expected="one measure")
    report = report_power_of_runs(
        compared.scores,
        compared.measures[0],
        options=ComparisonOptions(alpha=alpha),
        goal=PowerGoal(power=power, difference=difference),
        baseline=name or "",
    )
    emit_output(
        report.to_dict(),
        form=form,
        rows="rows",
        reports=[report.tables()],
    )
    for note in compared.notes:
        print_note(note)


@expand_option_groups
def worth_command(
    scoring: MeasureOptions,
    *,
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Run of the first stage.")],
    runs: RunsArgument,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Number of candidates per query that are reranked. (default: all)")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Intervals have the confidence level 1 - alpha.")] = 0.05,
    names: NamesOption = None,
    form: TableFormatOption = "text",
) -> None:
    """Report the gain of rerankers over the first stage, and its share of the gain of a perfect order.

    The perfect order sorts the first stage's candidates by their relevance grades.
    """
    from rerank.collections import open_collection_qrels
    from rerank.evaluation.pairwise_decisions import check_significance_level
    from rerank.evaluation.worth import WorthOptions, measure_worth_of_rerankers

    check_significance_level(alpha)
    measures = scoring.measures or ["nDCG@10"]
    if scoring.qrels is None or len(measures) > 1:
        raise UsageError(
            "--qrels is missing" if scoring.qrels is None else f"{len(measures)} measures are given",
            expected="--qrels and one measure",
        )
    qrels, lowest = open_collection_qrels(scoring.qrels)
    before, *methods = read_named_runs(expand_run_arguments([first, *runs]), names or [])
    options = WorthOptions(relevant=scoring.relevant or lowest, depth=depth, alpha=alpha)
    report = measure_worth_of_rerankers(qrels, before, methods, measures[0], options)
    emit_output(
        report.to_dict(),
        form=form,
        rows="rows",
        reports=[report.tables()],
    )
