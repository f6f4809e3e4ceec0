"""`qrels agreement` and `qrels estimate`: agreement of assessors, and estimates from few judgments by people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import TableFormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.cli.run_files import NamesOption, RunsArgument, expand_run_arguments, read_named_runs, short_run_names
from rerank.errors import UsageError

if TYPE_CHECKING:
    from rerank.io.reports import TableReport

_AGREEMENT = "Example: rerank qrels agreement qrels.txt pydoc --relevant 1 --by-topic"
_ESTIMATE = "Example: rerank qrels estimate a.trec b.trec --people qrels.txt --predicted pydoc --baseline a.trec"

AlphaOption = Annotated[float, typer.Option(help="Intervals have the confidence level 1 - alpha.")]


def register_cli_commands(group: typer.Typer) -> None:
    """Add the commands ``agreement`` and ``estimate`` to the group ``qrels``."""
    group.command("agreement", epilog=_AGREEMENT)(agreement_command)
    group.command("estimate", epilog=_ESTIMATE)(estimate_command)


@dataclass(frozen=True, kw_only=True)
class AgreementOptions:
    """Options for the agreement of assessors and its intervals."""

    relevant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]GRADE",
            help="Lowest relevant grade of one assessor or, without NAME, of all others, to compare binary relevance; "
            "repeatable. (default: compare the grades, which must have the same meaning)",
        ),
    ] = None
    weights: Annotated[
        Literal["none", "linear", "quadratic"],
        typer.Option(help="Disagreement weights of the kappas in the printed table."),
    ] = "none"
    by_topic: Annotated[bool, typer.Option("--by-topic", help="Also print alpha for every topic.")] = False
    resamples: Annotated[int, typer.Option(min=0, help="Number of bootstrap samples of topics for intervals.")] = 1000
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0
    alpha: AlphaOption = 0.05

    @property
    def kappa(self) -> str:
        """Key under which the results contain the kappa with the chosen weights."""
        return "kappa" if self.weights == "none" else f"kappa_{self.weights}"

    def lowest_grades(self, assessors: Sequence[str]) -> list[int] | None:
        """Return the lowest relevant grade of every assessor; None if no option is given."""
        grades: dict[str, int] = {}
        for text in self.relevant or ():
            name, _, grade = text.rpartition("=")
            if not grade.isdigit() or int(grade) < 1 or (name and name not in assessors):
                raise UsageError(
                    f"--relevant is {text!r}",
                    expected=f"GRADE or NAME=GRADE, where NAME is one of: {', '.join(assessors)}",
                )
            grades[name] = int(grade)
        if not grades:
            return None
        if missing := [name for name in assessors if name not in grades and "" not in grades]:
            raise UsageError(
                f"--relevant is missing for {', '.join(missing)}", expected="--relevant GRADE for all assessors"
            )
        return [grades.get(name, grades.get("", 0)) for name in assessors]


@expand_option_groups
def agreement_command(
    options: AgreementOptions,
    *,
    files: Annotated[list[str], typer.Argument(metavar="QRELS...", help="Qrels of two or more assessors.")],
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", help="Name of an assessor; repeat it for all assessors, in order. (default: end of the path)"
        ),
    ] = None,
    form: TableFormatOption = "text",
) -> None:
    """Measure the agreement of any number of assessors: kappa of every pair, and Krippendorff's alpha.

    Assessors need not have judged the same topics or documents. Intervals are percentiles over samples of topics.
    """
    from rerank.adjudication.agreement import AssessorPanel
    from rerank.collections import open_collection_qrels
    from rerank.evaluation.pairwise_decisions import check_significance_level

    check_significance_level(options.alpha)
    assessors = names or short_run_names(list(map(Path, files)))
    if len(assessors) != len(files) or len(set(assessors)) != len(files):
        raise UsageError(
            f"The names for {len(files)} files are {', '.join(assessors)}", expected="one name per file, all different"
        )
    lowest = options.lowest_grades(assessors)
    judgments = {name: open_collection_qrels(file)[0] for name, file in zip(assessors, files, strict=True)}
    content = AssessorPanel.from_qrels(judgments, lowest).to_dict(
        resamples=options.resamples, seed=options.seed, alpha=options.alpha
    )
    emit_output(
        content,
        form=form,
        text=lambda: _print_agreement(content, options.kappa, by_topic=options.by_topic),
        rows="pairs",
        reports=[_table_of_agreement(content, options.kappa)],
    )


def _format_interval_cell(value: float | None, interval: Sequence[float] | None, digits: int = 3) -> str:
    if value is None or interval is None:
        return format_number_cell(value, digits)
    return f"{value:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _kappa_matrix(content: Mapping[str, Any], kappa: str, *, intervals: bool) -> list[list[str]]:
    """Return one row of cells per assessor, with the kappas between this assessor and each of the others."""
    cells = {}
    for row in content["pairs"]:
        interval = row[f"{kappa}_interval"] if intervals else None
        cells[row["a"], row["b"]] = cells[row["b"], row["a"]] = _format_interval_cell(row[kappa], interval)
    assessors = content["assessors"]
    return [[a, *(cells.get((a, b), "") for b in assessors)] for a in assessors]


def _table_of_agreement(content: Mapping[str, Any], kappa: str) -> TableReport:
    """Return the matrix of kappas as a table for a paper, with Krippendorff's alpha in its caption."""
    from rerank.io.reports import Grid, TableReport

    alphas = (f"{level} {_format_interval_cell(**found)}" for level, found in content["alpha"].items())
    legend = [
        f"{kappa.replace('_', ' ')}, with {content['confidence']:.0%} bootstrap intervals over {content['topics']} "
        f"topics ({content['resamples']} samples, seed {content['seed']}).",
        f"Krippendorff's alpha: {'; '.join(alphas)}.",
    ]
    grid = Grid(["", *content["assessors"]], _kappa_matrix(content, kappa, intervals=True))
    return TableReport([grid], legend)


def _print_agreement(content: Mapping[str, Any], kappa: str, *, by_topic: bool) -> None:
    from rerank.adjudication.agreement import LEAST_TOPICS

    print_table(
        [kappa.replace("_", " "), *content["assessors"]],
        _kappa_matrix(content, kappa, intervals=False),
        further=by_topic,
    )
    levels = content["alpha"]
    if content["relevant"] is not None:
        levels = {"nominal": levels["nominal"]}  # all levels are the same for two grades
    print_table(
        ["alpha", ""], [[level, _format_interval_cell(**found)] for level, found in levels.items()], further=True
    )
    if by_topic:
        rows = [
            [row["topic"], row["documents"], *(format_number_cell(row[v], 3) for v in levels)]
            for row in content["by_topic"]
        ]
        print_table(["topic", "documents", *levels], rows)
    print_note(f"{content['topics']} topics and {content['documents']} documents judged by two or more assessors")
    if all(found["interval"] is None for found in levels.values()):
        print_note(f"No intervals: they need {LEAST_TOPICS} topics, grades that differ, and samples (--resamples)")
    else:
        print_note(
            f"Intervals: {content['confidence']:.0%}, {content['resamples']} samples of topics, seed {content['seed']}"
            "; --format csv, json or markdown shows the intervals of the kappas"
        )


@dataclass(frozen=True, kw_only=True)
class EstimateOptions:
    """Options for estimates that correct a model's judgments by those of people (prediction-powered inference)."""

    people: Annotated[str, typer.Option(help="Qrels of a random sample of topics, judged by people.")]
    predicted: Annotated[str, typer.Option(help="Qrels of all topics, judged by a model.")]
    measures: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Measure; repeatable. (default: nDCG@10)")
    ] = None
    relevant: Annotated[
        int | None, typer.Option(min=1, help="Lowest grade that counts as relevant in both qrels. (default: 1)")
    ] = None
    baseline: Annotated[
        str | None, typer.Option(help="Name of a run: estimate the differences of the other runs from it.")
    ] = None
    alpha: AlphaOption = 0.05


@expand_option_groups
def estimate_command(
    options: EstimateOptions,
    *,
    runs: RunsArgument,
    names: NamesOption = None,
    form: TableFormatOption = "text",
) -> None:
    """Estimate measures from people's judgments of few topics and a model's judgments of all topics.

    The topics that people judged must be a random sample. Prediction-powered inference then corrects any errors of the
    model.
    """
    from rerank.adjudication.few_judgments import estimate_from_few_judgments
    from rerank.collections import open_collection_qrels
    from rerank.evaluation.pairwise_decisions import check_significance_level

    check_significance_level(options.alpha)
    judged, lowest = open_collection_qrels(options.people)
    report = estimate_from_few_judgments(
        read_named_runs(expand_run_arguments(runs), names or []),
        judged,
        open_collection_qrels(options.predicted)[0],
        options.measures or ["nDCG@10"],
        relevant=options.relevant or lowest,
        baseline=options.baseline or "",
        alpha=options.alpha,
    )
    content = report.to_dict()
    emit_output(
        content,
        form=form,
        rows="rows",
        reports=[_table_of_estimates(content)],
    )


def _table_of_estimates(content: Mapping[str, Any]) -> TableReport:
    """Return a table with one row per run: the estimate, and the values from people alone and from the model alone."""
    from rerank.io.reports import Grid, TableReport

    rows = [
        [
            row["run"],
            row["measure"],
            _format_interval_cell(row["estimate"], row["interval"], 4),
            _format_interval_cell(row["people"], row["people_interval"], 4),
            format_number_cell(row["model"]),
            format_number_cell(row["weight"], 2),
        ]
        for row in content["rows"]
    ]
    what = f"Differences from {content['baseline']}" if content["baseline"] else "Means"
    legend = [
        f"{what}, {content['confidence']:.0%} intervals; {content['topics_of_people']} topics judged by people and "
        f"{content['topics_of_model_only']} only by the model ({content['topics_left_out']} topics omitted)."
    ]
    heads = ["run", "measure", "estimate", "people only", "model only", "weight of the model"]
    return TableReport([Grid(heads, rows, left=2)], legend, content["notes"])
