"""`compare`: whether systems differ by more than chance, from runs and judgments or from a matrix of scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerank.cli.groups import unfolded
from rerank.cli.output import FormatOption, emit, note
from rerank.cli.runfiles import run_files
from rerank.errors import UsageError

if TYPE_CHECKING:
    from rerank.evaluation import Comparison
    from rerank.evaluation.pairs import Decisions


def register(app: typer.Typer) -> None:
    """Add the command."""
    example = "Example: rerank compare a.trec b.trec --qrels qrels.txt -m nDCG@10 --test permutation --correction bh"
    app.command("compare", epilog=example)(compare)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How runs are measured."""

    qrels: Annotated[str | None, typer.Option("--qrels", help="Judgments: a file, or a collection's selector.")] = None
    measures: Annotated[list[str] | None, typer.Option("--measure", "-m", help="One measure. (default: nDCG@10)")] = (
        None
    )
    relevant: Annotated[
        int | None,
        typer.Option(min=1, help="Lowest grade that binary measures count; 2 for TREC Deep Learning. (default: 1)"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Tested:
    """How pairs are tested."""

    test: Annotated[
        str, typer.Option(help="t, wilcoxon, sign, permutation, bootstrap, tukey-randomised or tukey-anova.")
    ] = "t"
    correction: Annotated[
        str,
        typer.Option(help="none, bonferroni, holm, hochberg, bh or by; auto: holm, and none for Tukey's tests."),
    ] = "auto"
    alpha: Annotated[float, typer.Option(help="Level of significance.")] = 0.05
    permutations: Annotated[
        int | None, typer.Option(min=1, help="Draws of a test by chance. (default: 10000; tukey-randomised: 100000)")
    ] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Of these draws. (default: 0)")] = None

    @property
    def selector(self) -> str:
        """The test with its options."""
        from rerank.evaluation.pairs import selector_of

        return selector_of(self.test, permutations=self.permutations, seed=self.seed)


@unfolded
def compare(
    measured: Measured,
    tested: Tested,
    *,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Run files, or folders of them: TREC, MS MARCO or JSON, also gzipped."),
    ] = None,
    matrix: Annotated[
        Path | None,
        typer.Option(
            help="Instead of runs: a CSV of scores, a row a topic, a column a system, names in the first row."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw it too (png, svg, pdf): two systems by topic, more as a map of p-values."),
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Compare runs pair by pair: differences, wins, a paired test with a correction, and Wilcoxon's beside it.

    With --matrix, scores that were measured elsewhere: how many pairs differ, and how many systems each one beats.
    """
    from rerank.evaluation.plots import check_plot, plot

    if picture is not None:
        check_plot(picture)
    found: Comparison | Decisions
    if matrix is not None:
        found = decisions = _of_matrix(matrix, runs or [], measured, tested)
    else:
        found = _of_runs(runs or [], measured, tested)
        decisions = found.decisions
    emit(found.to_dict(), form=form, text=lambda: typer.echo(found), rows="pairs" if matrix is None else "means")
    if picture is not None:
        plot(decisions, picture)
        note(f"Drawn: {picture}")


def _of_matrix(matrix: Path, runs: list[Path], measured: Measured, tested: Tested) -> Decisions:
    from rerank.evaluation.matrix import read_matrix
    from rerank.evaluation.pairs import decide

    flags = {"--qrels": measured.qrels, "--measure": measured.measures, "--relevant": measured.relevant}
    given = [*map(str, runs[:1]), *(flag for flag, value in flags.items() if value)]
    if given:
        raise UsageError(
            f"{given[0]} beside --matrix {matrix}",
            expected="either runs with judgments, or a matrix of scores alone",
            remedy="Leave one of them out",
        )
    return decide(read_matrix(matrix), tested.selector, tested.correction, alpha=tested.alpha)


def _of_runs(runs: list[Path], measured: Measured, tested: Tested) -> Comparison:
    from rerank.collections import judgments
    from rerank.evaluation import compare as test
    from rerank.io.run_files import read_run

    measures = measured.measures or ["nDCG@10"]
    if len(measures) > 1:
        raise UsageError(
            f"{len(measures)} measures: {', '.join(measures)}",
            expected="one, since the correction is over the pairs of one measure",
            remedy="Run compare once for each",
        )
    if measured.qrels is None:
        raise UsageError("No --qrels", expected="runs and judgments, or --matrix", remedy="Add --qrels FILE")
    selector = tested.selector  # a wrong one is told before files are read
    judged, lowest = judgments(measured.qrels)
    return test(
        judged,
        [read_run(path, name=str(path)) for path in run_files(runs)],
        measures[0],
        relevant=lowest if measured.relevant is None else measured.relevant,
        test=selector,
        correction=tested.correction,
        alpha=tested.alpha,
    )
