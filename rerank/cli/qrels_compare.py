"""`qrels compare`: compare the conclusions drawn from two sets of relevance judgments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import TableOptions, emit_output, format_number_cell, print_note, print_table
from rerank.cli.qrels_verdicts import (
    MINOR_COLUMNS,
    VERDICT_COLUMNS,
    ProcedureOptions,
    format_procedure_cell,
    format_verdict_cells,
    parse_named_patterns,
    print_qrels_notes,
    table_of_qrels_study,
)
from rerank.cli.run_files import NamesOption, expand_run_arguments, read_named_runs
from rerank.errors import UsageError

#: Figures whose intervals are printed; --format json contains all intervals.
_WITH_INTERVAL = ("precision", "recall", "balanced_accuracy", "tau", "tau_ap")
_COMPARE = "Example: rerank qrels compare qrels.txt pydoc --runs a.trec b.trec -m nDCG@10 --test t --correction bh"


def register_cli_commands(group: typer.Typer) -> None:
    """Add the command ``compare`` to the group ``qrels``."""
    group.command("compare", epilog=_COMPARE)(compare_qrels_command)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options for bootstrap intervals and, only with intervals, for whether the qrels favour groups of runs."""

    resamples: Annotated[int, typer.Option(min=0, help="Number of bootstrap samples for intervals, such as 1000.")] = 0
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0
    groups: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            metavar="NAME=PATTERN",
            help="Report whether QRELS_B favour the runs whose names match, as in gpt='*rankgpt*'; repeatable.",
        ),
    ] = None

    def named_groups(self) -> tuple[tuple[str, str], ...]:
        """Return the name and the pattern of each group."""
        groups = parse_named_patterns("--group", self.groups or [])
        if groups and not self.resamples:
            raise UsageError(
                "--group is given without --resamples", expected="samples for intervals", remedy="Add --resamples 1000"
            )
        return groups


@expand_option_groups
def compare_qrels_command(
    procedure: ProcedureOptions,
    sampling: SamplingOptions,
    table: TableOptions,
    *,
    files: Annotated[
        list[str],
        typer.Argument(metavar="QRELS_A QRELS_B", help="Reference qrels, and the qrels to compare with them."),
    ],
    runs: Annotated[list[Path], typer.Option("--runs", metavar="RUN...", help="Run files, or folders of run files.")],
    names: NamesOption = None,
) -> None:
    """Compare the conclusions drawn from two sets of relevance judgments on their common topics.

    The agreement on common documents (Cohen's kappa) is also reported. With --group, the advantage of a group of runs
    under QRELS_B is reported as well, such as that of rerankers from an assessor's own family.
    """
    from rerank.adjudication.qrels_comparison import compare_with_gold_qrels
    from rerank.collections import open_collection_qrels

    procedures, groups = procedure.procedures, sampling.named_groups()
    if len(files) < 2:
        raise UsageError(
            f"Only one qrels is given: {files[0]}", expected="two qrels: rerank qrels compare A B --runs RUN..."
        )
    gold, other, *more = files  # an option takes one value, so all runs after the first are parsed as arguments
    reference, lowest = open_collection_qrels(gold)
    result = compare_with_gold_qrels(
        read_named_runs(expand_run_arguments([*runs, *map(Path, more)]), names or []),
        reference,
        open_collection_qrels(other)[0],
        procedure.measures or ["nDCG@10"],
        procedures=procedures,
        relevant=procedure.relevant or lowest,
        alpha=procedure.alpha,
    )
    families = [entry.family(result.gold, procedure.alpha) for entry in result.procedures]
    content = {
        **result.to_dict(resamples=sampling.resamples, seed=sampling.seed, groups=groups),
        "families": [family.to_dict() for family in families],
    }
    emit_output(
        content,
        form=table.form,
        text=lambda: _print_qrels_comparison(content, wide=table.wide),
        rows="results",
        reports=[table_of_qrels_study(content, families)],
    )


def _print_qrels_comparison(content: dict[str, Any], *, wide: bool) -> None:
    cells = [[r["measure"], format_procedure_cell(r), *format_verdict_cells(r)] for r in content["results"]]
    heads = ["measure", "test", *(name.replace("_", " ") for name in VERDICT_COLUMNS)]
    print_table(heads, cells, minor=MINOR_COLUMNS, wide=wide)
    for row in content["results"]:
        bounds = {name: row["interval"][name] for name in _WITH_INTERVAL if row.get("interval", {}).get(name)}
        if shown := [f"{name} [{low:.3f}, {high:.3f}]" for name, (low, high) in bounds.items()]:
            print_note(f"intervals of {row['measure']}, {format_procedure_cell(row)}: {', '.join(shown)}")
    agreement = content["agreement"]
    print_note(
        f"{content['topics']} common topics ({content['topics_left_out']} topics omitted), {content['systems']} runs"
    )
    print_note(
        f"{agreement['documents']} common documents: same grade {format_number_cell(agreement['overlap'], 3)}, kappa "
        f"{format_number_cell(agreement['kappa'], 3)}, weighted (quadratic) "
        f"{format_number_cell(agreement['kappa_quadratic'], 3)}"
    )
    print_note(
        f"binary relevance (grade {content['relevant']} or higher): same "
        f"{format_number_cell(agreement['binary_overlap'], 3)}, "
        f"kappa {format_number_cell(agreement['binary_kappa'], 3)}"
    )
    for row in content.get("groups", ()):
        print_note(
            f"{row['group']} (runs: {row['systems']}), {row['measure']}: ranks gained {row['ranks']:+.1f} "
            f"[{row['ranks_interval'][0]:+.1f}, {row['ranks_interval'][1]:+.1f}]; score above the one expected from "
            f"other runs {row['score']:+.4f} [{row['score_interval'][0]:+.4f}, {row['score_interval'][1]:+.4f}]"
        )
    print_qrels_notes(content)
