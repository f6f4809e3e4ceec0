"""`reproduce`: compare an experiment with its repetition."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerank.cli.output import TableFormatOption, emit_output
from rerank.cli.run_files import read_named_runs
from rerank.errors import UsageError


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command ``reproduce``."""
    example = "Example: rerank reproduce a.trec b.trec again/a.trec again/b.trec --qrels qrels.txt -m nDCG@10"
    app.command("reproduce", epilog=example)(reproduce_command)


def reproduce_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="BASELINE ADVANCED BASELINE_AGAIN ADVANCED_AGAIN",
            help="Baseline and advanced run of the original experiment, then of the repeated experiment.",
        ),
    ],
    qrels: Annotated[
        str, typer.Option("--qrels", help="Relevance judgments: a file, or the selector of a collection.")
    ],
    qrels_again: Annotated[
        str | None, typer.Option(help="Judgments of the repeated experiment, if it was on another collection.")
    ] = None,
    measures: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Measure; repeatable. (default: nDCG@10)")
    ] = None,
    relevant: Annotated[
        int | None,
        typer.Option(min=1, help="Lowest grade that counts as relevant. (default: as in --qrels, or 1)"),
    ] = None,
    depth: Annotated[int, typer.Option(min=2, help="Number of documents whose order is compared.")] = 1000,
    form: TableFormatOption = "text",
) -> None:
    """Report how well an experiment was reproduced: order of documents, scores per topic, effect, and t-tests."""
    from rerank.collections import open_collection_qrels
    from rerank.evaluation.reproduction import Experiment, measure_reproduction

    if len(runs) != 4:
        raise UsageError(f"{len(runs)} runs are given", expected="four: baseline and advanced run of both experiments")
    judged, lowest = open_collection_qrels(qrels)
    judged_again = judged if qrels_again is None else open_collection_qrels(qrels_again)[0]
    baseline, advanced, baseline_again, advanced_again = read_named_runs(runs)
    result = measure_reproduction(
        Experiment(baseline=baseline, advanced=advanced, qrels=judged),
        Experiment(baseline=baseline_again, advanced=advanced_again, qrels=judged_again),
        measures or ["nDCG@10"],
        relevant=relevant or lowest,
        depth=depth,
    )
    emit_output(
        result.to_dict(),
        form=form,
        rows="rows",
        reports=[result.tables()],
    )
