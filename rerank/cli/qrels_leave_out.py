"""`qrels leave-out`: score each run without the judgments that only this run, or its group, contributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import TableFormatOption, emit_output
from rerank.cli.run_files import NamesOption, RunsArgument, expand_run_arguments, read_named_runs
from rerank.errors import UsageError

_EXAMPLE = "Example: rerank qrels leave-out a.trec b.trec --qrels qrels.txt --depth 10 -m nDCG@10"


def register_cli_commands(group: typer.Typer) -> None:
    """Add the command ``leave-out`` to the group ``qrels``."""
    group.command("leave-out", epilog=_EXAMPLE)(leave_out_command)


@dataclass(frozen=True, kw_only=True)
class LeaveOutOptions:
    """Options for the pool, and for the groups of runs that are left out together."""

    depth: Annotated[int, typer.Option(min=1, help="Pool depth: number of documents pooled from each run.")] = 100
    group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP=PATTERN",
            help="Runs that are left out together, as in idst='idst*', or a file with the columns run and group; "
            "repeatable. (default: each run alone)",
        ),
    ] = None
    relevant: Annotated[
        int | None,
        typer.Option(min=1, help="Lowest grade that counts as relevant; 2 for TREC Deep Learning. (default: 1)"),
    ] = None


@expand_option_groups
def leave_out_command(
    options: LeaveOutOptions,
    *,
    runs: RunsArgument,
    qrels: Annotated[
        str, typer.Option("--qrels", help="Relevance judgments: a file, or the selector of a collection.")
    ],
    measures: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Measure; repeatable. (default: nDCG@10)")
    ] = None,
    names: NamesOption = None,
    form: TableFormatOption = "text",
) -> None:
    """Report the score of each run as if this run, or its group, had not contributed to the judged pool.

    For each group, the judgments of documents that only its runs put into the pool are removed.
    """
    from rerank.adjudication.leave_out import leave_groups_out
    from rerank.collections import open_collection_qrels

    judged, lowest = open_collection_qrels(qrels)
    study = leave_groups_out(
        read_named_runs(expand_run_arguments(runs), names or []),
        judged,
        measures or ["nDCG@10"],
        groups=_groups_of_option(options.group or []),
        depth=options.depth,
        relevant=options.relevant or lowest,
    )
    emit_output(
        study.to_dict(),
        form=form,
        rows="rows",
        reports=[study.tables()],
    )


def _groups_of_option(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of group name and pattern of run names. Run names from a file are escaped, to match literally."""
    from glob import escape

    from rerank.evaluation import read_query_groups

    pairs = []
    for text in texts:
        group, _, pattern = text.partition("=")
        if Path(text).is_file():
            pairs += [(group, escape(run)) for run, group in read_query_groups(text, of="run").items()]
        elif group and pattern:
            pairs.append((group, pattern))
        else:
            raise UsageError(
                f"--group is {text!r}",
                expected="GROUP=PATTERN, as in idst='idst*', or the path of a file that defines groups",
            )
    return pairs
