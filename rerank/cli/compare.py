"""`rerank compare`: test differences between systems for significance, from runs and qrels or a matrix of scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit_output, print_note
from rerank.cli.run_files import expand_run_arguments
from rerank.errors import UsageError

if TYPE_CHECKING:
    from rerank.evaluation import Comparison
    from rerank.evaluation.pairwise_decisions import PairwiseDecisions


def register_cli_commands(app: typer.Typer) -> None:
    """Add the command."""
    example = "Example: rerank compare a.trec b.trec --qrels qrels.txt -m nDCG@10 --test permutation --correction bh"
    app.command("compare", epilog=example)(compare_command)


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """Options for scoring runs."""

    qrels: Annotated[
        str | None, typer.Option("--qrels", help="Relevance judgments: a file, or the selector of a collection.")
    ] = None
    measures: Annotated[list[str] | None, typer.Option("--measure", "-m", help="Measure. (default: nDCG@10)")] = None
    relevant: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Lowest grade that binary measures count as relevant; 2 for TREC Deep Learning. (default: 1)",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SignificanceOptions:
    """Options for the significance test of pairs of systems."""

    test: Annotated[
        str,
        typer.Option(help="Paired test: t, wilcoxon, sign, permutation, bootstrap, tukey-randomised or tukey-anova."),
    ] = "t"
    correction: Annotated[
        str,
        typer.Option(
            help="Correction for multiple comparisons: none, bonferroni, holm, hochberg, bh, by, or auto (none for "
            "Tukey's tests, otherwise holm)."
        ),
    ] = "auto"
    alpha: Annotated[float, typer.Option(help="Significance level.")] = 0.05
    permutations: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of resamples of a resampling test. (default: 10000; tukey-randomised: 100000)"
        ),
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Seed for the resamples. (default: 0)")] = None

    @property
    def selector(self) -> str:
        """Selector of the test with its options."""
        from rerank.evaluation.pairwise_decisions import build_significance_test_selector

        return build_significance_test_selector(self.test, permutations=self.permutations, seed=self.seed)


@expand_option_groups
def compare_command(
    scoring: MeasureOptions,
    significance: SignificanceOptions,
    *,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...", help="Run files (TREC, MS MARCO or JSON; may be gzipped), or folders of run files."
        ),
    ] = None,
    matrix: Annotated[
        Path | None,
        typer.Option(
            help="CSV file of scores instead of runs: one row per topic, one column per system, names in the first row."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            "--plot", help="Plot file (png, svg, pdf): per-topic differences of two systems, or p-values of more."
        ),
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Compare runs pair by pair: differences, wins, a paired test with a correction, and the Wilcoxon test.

    With --matrix, compare given scores: report how many pairs differ significantly, and how many systems each system
    outperforms.
    """
    from rerank.evaluation.plots import check_comparison_plot, plot_comparison

    if picture is not None:
        check_comparison_plot(picture)
    result: Comparison | PairwiseDecisions
    if matrix is not None:
        result = decisions = _compare_matrix_option(matrix, runs or [], scoring, significance)
    else:
        result = _compare_run_arguments(runs or [], scoring, significance)
        decisions = result.decisions
    emit_output(
        result.to_dict(), form=form, text=lambda: typer.echo(result), rows="pairs" if matrix is None else "means"
    )
    if picture is not None:
        plot_comparison(decisions, picture)
        print_note(f"plot: {picture}")


def _compare_matrix_option(
    matrix: Path, runs: list[Path], scoring: MeasureOptions, significance: SignificanceOptions
) -> PairwiseDecisions:
    from rerank.evaluation.pairwise_decisions import compare_all_runs
    from rerank.evaluation.score_matrix import read_score_matrix

    flags = {"--qrels": scoring.qrels, "--measure": scoring.measures, "--relevant": scoring.relevant}
    conflicting = [*map(str, runs[:1]), *(flag for flag, value in flags.items() if value)]
    if conflicting:
        raise UsageError(
            f"{conflicting[0]} together with --matrix {matrix}",
            expected="either runs with qrels, or a matrix of scores alone",
            remedy="Omit one of them",
        )
    matrix_scores = read_score_matrix(matrix)
    return compare_all_runs(matrix_scores, significance.selector, significance.correction, alpha=significance.alpha)


def _compare_run_arguments(runs: list[Path], scoring: MeasureOptions, significance: SignificanceOptions) -> Comparison:
    from rerank.collections import open_collection_qrels
    from rerank.evaluation import compare_runs as test
    from rerank.io.run_files import read_run

    measures = scoring.measures or ["nDCG@10"]
    if len(measures) > 1:
        raise UsageError(
            f"{len(measures)} measures: {', '.join(measures)}",
            expected="one measure, because the correction covers the pairs of one measure",
            remedy="Run compare once per measure",
        )
    if scoring.qrels is None:
        raise UsageError("No --qrels", expected="runs and qrels, or --matrix", remedy="Add --qrels FILE")
    selector = significance.selector  # reports an invalid test before files are read
    judged, lowest = open_collection_qrels(scoring.qrels)
    return test(
        judged,
        [read_run(path, name=str(path)) for path in expand_run_arguments(runs)],
        measures[0],
        relevant=lowest if scoring.relevant is None else scoring.relevant,
        test=selector,
        correction=significance.correction,
        alpha=significance.alpha,
    )
