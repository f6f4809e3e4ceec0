"""`qrels`: how judgments are made, and what cheaper ones keep of the conclusions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rerank.cli import qrels_judge as judging
from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit, format_number, print_note, print_table
from rerank.cli.run import progress
from rerank.cli.run_files import RunsArgument, read_runs, run_files
from rerank.errors import StorageError, UsageError

_STUDY = (
    "Example: rerank qrels study a.trec b.trec --qrels qrels.txt --method depth --method mtf --budget 10% --budget 20% "
    "--out study"
)
_COMPARE = "Example: rerank qrels compare qrels.txt pydoc --runs a.trec b.trec -m nDCG@10 --test t --correction bh"
_POOL = "Example: rerank qrels pool a.trec b.trec --depth 50 --out pool.trec"


def register(app: typer.Typer) -> None:
    """Add the command group."""
    qrels = typer.Typer(help="How judgments are made, and what cheaper ones keep.", no_args_is_help=True)
    qrels.command("study", epilog=_STUDY)(study)
    qrels.command("compare", epilog=_COMPARE)(compare)
    qrels.command("pool", epilog=_POOL)(pool)
    judging.register(qrels)
    app.add_typer(qrels, name="qrels")


@dataclass(frozen=True, kw_only=True)
class ProcedureOptions:
    """How conclusions are drawn; everything may be given several times."""

    measures: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="A measure; repeatable. (default: nDCG@10)")
    ] = None
    test: Annotated[
        list[str] | None,
        typer.Option(
            help="t, wilcoxon, sign, permutation, bootstrap, tukey-randomised or tukey-anova; repeatable. (default: t)"
        ),
    ] = None
    correction: Annotated[
        list[str] | None,
        typer.Option(help="none, bonferroni, holm, hochberg, bh or by; repeatable, with every test. (default: bh)"),
    ] = None
    alpha: Annotated[float, typer.Option(help="Level of significance.")] = 0.05
    relevant: Annotated[
        int | None,
        typer.Option(min=1, help="Lowest grade that counts as relevant; 2 for TREC Deep Learning. (default: 1)"),
    ] = None

    @property
    def procedures(self) -> Any:
        """Every test with every correction."""
        from rerank.adjudication.significance_verdicts import cross_procedures

        return cross_procedures(self.test or ["t"], self.correction or ["bh"])


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How judging goes."""

    method: Annotated[
        list[str] | None,
        typer.Option(
            help="An order of judging: docid, random, depth, ntcir, borda, combmnz, condorcet, rrf, dcg, rbp-a, rbp-b, "
            "rbp-c, mtf, mtf-global, hedge, mm, mm-ns, ts, ucb1-tuned, eps-n-greedy, llm:RUN; repeatable; all: every "
            "one but the last. (default: depth and mtf)"
        ),
    ] = None
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="10 (documents a topic), 10% (of each pool) or total:5000; repeatable. (default: 10% to 100%)"
        ),
    ] = None
    depth: Annotated[int, typer.Option(min=1, help="Documents of each run that are pooled.")] = 100
    unjudged: Annotated[
        bool, typer.Option("--unjudged", help="Pool documents without a gold judgment too; judging one finds nothing.")
    ] = False
    seeds: Annotated[int, typer.Option(min=1, help="How often a method with chance in it is asked.")] = 10
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0


@expand_option_groups
def study(
    judged: StudyOptions,
    tested: ProcedureOptions,
    *,
    runs: RunsArgument,
    qrels: Annotated[str, typer.Option("--qrels", help="Gold judgments: a file, or a collection's selector.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for study.json, study.csv, systems.csv and report.html.")
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Judge fewer documents, by several methods, and see which significant differences between the runs are kept.

    Gold judgments answer what a method asks. A report for the browser is written to --out.
    """
    from rerank.adjudication.budgets import AdjudicationBudget
    from rerank.adjudication.studies import run_study as run_study
    from rerank.adjudication.study_design import StudyDesign
    from rerank.adjudication.study_report import write_report
    from rerank.collections import judgments

    methods = _methods(judged.method or ["depth", "mtf"])
    budgets = tuple(
        AdjudicationBudget.parse(text) for text in judged.budget or [f"{share}%" for share in range(10, 101, 10)]
    )
    procedures = tested.procedures
    gold, lowest = judgments(qrels)
    design = StudyDesign(
        methods=methods,
        budgets=budgets,
        measures=tuple(tested.measures or ["nDCG@10"]),
        procedures=procedures,
        relevant=tested.relevant or lowest,
        depth=judged.depth,
        unjudged=judged.unjudged,
        alpha=tested.alpha,
        seeds=judged.seeds,
        seed=judged.seed,
    )
    if out is not None:
        check_folder(out)
    with progress("judging", len(design.walks)) as on_walk:
        found = run_study(read_runs(runs), gold, design, on_walk=on_walk)
    if out is not None:  # before anything is printed: a reader may close the pipe
        for path in [*found.write(out), write_report(found, out / "report.html")]:
            print_note(f"Written: {path}")
    content = found.to_dict()
    emit(content, form=form, text=lambda: _show_study(content), rows="results")


@expand_option_groups
def compare(
    tested: ProcedureOptions,
    *,
    files: Annotated[
        list[str],
        typer.Argument(metavar="QRELS_A QRELS_B", help="Judgments that are believed, and those held against them."),
    ],
    runs: Annotated[list[Path], typer.Option("--runs", metavar="RUN...", help="Run files, or folders of them.")],
    form: FormatOption = "text",
) -> None:
    """Hold the conclusions of one set of judgments against those of another, on the topics that both judge.

    Says too how far the two agree on the documents that both judge (Cohen's kappa).
    """
    from rerank.adjudication.qrels_comparison import compare_qrels
    from rerank.collections import judgments

    procedures = tested.procedures
    if len(files) < 2:
        raise UsageError(f"One set of judgments: {files[0]}", expected="two: rerank qrels compare A B --runs RUN...")
    gold, other, *more = files  # an option takes one value, so the runs behind the first stand among the files
    believed, lowest = judgments(gold)
    found = compare_qrels(
        read_runs([*runs, *map(Path, more)]),
        believed,
        judgments(other)[0],
        tested.measures or ["nDCG@10"],
        procedures=procedures,
        relevant=tested.relevant or lowest,
        alpha=tested.alpha,
    )
    content = found.to_dict()
    emit(content, form=form, text=lambda: _show_comparison(content), rows="results")


def pool(
    runs: RunsArgument,
    out: Annotated[Path, typer.Option(help="Where the pool is written, as a TREC run.")],
    depth: Annotated[int, typer.Option(min=1, help="Documents of each run that are pooled.")] = 100,
    method: Annotated[str, typer.Option(help="The order they are put in; one that judgments do not change.")] = "rrf",
    form: FormatOption = "text",
) -> None:
    """Write the union of the runs' first documents as one run, for a reranker to put in order.

    What it makes of them is an order of judging: rerank qrels study --method llm:reranked.trec.
    """
    from rerank.adjudication.judging_sequence import open_order, pool_as_run
    from rerank.adjudication.pools import pool_runs as pooled
    from rerank.io.run_files import write_run

    order = open_order(method)
    if any(out.resolve() == file.resolve() for file in run_files(runs)):
        raise UsageError(f"--out {out} is one of the runs", expected="another file", remedy="The run would be lost")
    found = pooled(read_runs(runs), depth=depth)
    write_run(pool_as_run(found, order), out)
    content = {**found.to_dict(), "out": str(out)}
    emit(content, form=form, text=lambda: print_table(list(content), [list(content.values())]))


def check_folder(path: Path) -> None:
    """Make a folder to write into, before the work whose results it is to hold.

    Raises:
        StorageError: It is a file, or cannot be made.
    """
    from rerank.io.text_files import check_writable

    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder {path} cannot be made: {error.strerror}", remedy="Name another with --out"
        ) from error
    check_writable(path / "report.html")


def _methods(given: Sequence[str]) -> tuple[str, ...]:
    """What was asked for, with all that need no argument in the place of ``all``."""
    from rerank.adjudication.judging_sequence import open_order, orders

    every = [name.replace("_", "-") for name in orders.names() if name != "llm"]
    found = dict.fromkeys(name for text in given for name in (every if text == "all" else [text]))
    for name in found:
        open_order(name)  # a wrong one is told before files are read
    return tuple(found)


_COLUMNS = ("AA", "AD", "MA", "MD", "PA", "PD", "precision", "recall", "balanced_accuracy", "tau", "tau_ap")


def _show_study(content: dict[str, Any]) -> None:
    for row in content["gold"]["all"]:
        print_note(
            f"gold: {row['significant']} of {row['pairs']} pairs differ significantly by {row['measure']}, "
            f"{_procedure(row)}, {content['gold']['topics']} topics"
        )
    heads = ["method", "budget", "measure", "test"]
    cells = [[r["method"], r["budget"], r["measure"], _procedure(r), *_numbers(r)] for r in content["results"]]
    print_table([*heads, *(name.replace("_", " ") for name in _COLUMNS)], cells)
    _notes(content)
    if any(row["seeds"] > 1 for row in content["results"]):
        print_note("methods with chance in them: means over seeds; --format json has the spread")


def _show_comparison(content: dict[str, Any]) -> None:
    cells = [[r["measure"], _procedure(r), *_numbers(r)] for r in content["results"]]
    print_table(["measure", "test", *(name.replace("_", " ") for name in _COLUMNS)], cells)
    alike = content["agreement"]
    print_note(
        f"{content['topics']} topics that both judge ({content['topics_left_out']} left out), {content['systems']} runs"
    )
    print_note(
        f"{alike['documents']} documents that both judge: same grade {format_number(alike['overlap'], 3)}, kappa "
        f"{format_number(alike['kappa'], 3)}, weighted (quadratic) {format_number(alike['kappa_quadratic'], 3)}"
    )
    print_note(
        f"relevant (from grade {content['relevant']}) or not: same {format_number(alike['binary_overlap'], 3)}, kappa "
        f"{format_number(alike['binary_kappa'], 3)}"
    )
    _notes(content)


def _notes(content: dict[str, Any]) -> None:
    for text in content["notes"]:
        print_note(f"note: {text}")


def _procedure(row: dict[str, Any]) -> str:
    return str(row["test"]) if row["correction"] == "none" else f"{row['test']} + {row['correction']}"


def _numbers(row: dict[str, Any]) -> list[str]:
    """Counts whole, or with a digit where they are means; rates with three."""
    return [
        f"{row[name]:g}" if isinstance(row[name], int) else format_number(row[name], 1 if name.isupper() else 3)
        for name in _COLUMNS
    ]
