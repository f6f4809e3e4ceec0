"""`mteb choose`: smaller benchmarks that say the same: fewer tasks, fewer queries, smaller corpora."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rerank.cli.groups import unfolded
from rerank.cli.output import FormatOption, emit, note, number, table
from rerank.cli.runfiles import RunsArgument, read_runs
from rerank.errors import DataError, UsageError

if TYPE_CHECKING:
    from rerank.downsampling import Choice, Goal, Paired, Table

_EXAMPLES = {
    "tasks": "Example: rerank mteb choose tasks scores.csv --keep ranking --min-tau 0.9",
    "queries": "Example: rerank mteb choose queries scores.jsonl --keep significance",
    "pool": "Example: rerank mteb choose pool a.trec b.trec --qrels qrels.txt --from a --keep significance",
}
Scores = Annotated[
    Path,
    typer.Argument(
        metavar="SCORES",
        help="CSV with a row a model and a column a task; CSV or JSON lines with model, task, score and perhaps "
        "query; or a folder of mteb's results.",
    ),
]
DropIncomplete = Annotated[bool, typer.Option("--drop-incomplete", help="Leave out models that lack a score.")]


def register(group: typer.Typer) -> None:
    """Add the commands to the group ``mteb``."""
    choose = typer.Typer(help="Smaller benchmarks that say the same.", no_args_is_help=True)
    for function in (tasks, queries, pool):
        choose.command(function.__name__, epilog=_EXAMPLES[function.__name__])(function)
    group.add_typer(choose, name="choose")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What must be kept, and how it is tested."""

    keep: Annotated[str, typer.Option(help="What must be kept: ranking, significance or both.")] = "ranking"
    min_tau: Annotated[float, typer.Option(help="Least Kendall's tau of the systems' means with those of all.")] = 0.9
    min_recall: Annotated[float, typer.Option(help="Least share of the significant differences that are kept.")] = 0.9
    min_precision: Annotated[
        float, typer.Option(help="Least share of the significant differences found that all confirm.")
    ] = 0.9
    test: Annotated[str, typer.Option(help="The paired test: t, wilcoxon, sign, permutation, bootstrap ...")] = "t"
    correction: Annotated[str, typer.Option(help="none, bonferroni, holm, hochberg, bh or by.")] = "bh"
    alpha: Annotated[float, typer.Option(help="Level of significance.")] = 0.05

    @property
    def goal(self) -> Goal:
        """What must be kept."""
        from rerank.downsampling import Goal

        if self.keep not in ("ranking", "significance", "both"):
            raise UsageError(f"--keep {self.keep}", expected="ranking, significance or both")
        differences = self.keep != "ranking"
        return Goal(
            tau=None if self.keep == "significance" else self.min_tau,
            recall=self.min_recall if differences else None,
            precision=self.min_precision if differences else None,
        )

    @property
    def paired(self) -> Paired:
        """How it is tested."""
        from rerank.adjudication.verdicts import crossed
        from rerank.downsampling import Paired

        (procedure,) = crossed([self.test], [self.correction])
        return Paired(procedure=procedure, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class Dropping:
    """How tasks are dropped."""

    order: Annotated[
        str,
        typer.Option(
            help="What is dropped first: correlation (what the other tasks predict best) or significance (what costs "
            "the fewest significant differences)."
        ),
    ] = "correlation"
    unit: Annotated[
        str | None, typer.Option(help="Rows that are tested: task or query. (default: query where there are any)")
    ] = None
    least: Annotated[int, typer.Option(min=1, help="Tasks that stay at least.")] = 2
    always: Annotated[list[str] | None, typer.Option(help="A task that is never dropped; repeatable.")] = None
    hold_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the models that only check what the others chose.")
    ] = 0.0
    seed: Annotated[int, typer.Option(min=0, help="Of drawing these.")] = 0


@unfolded
def tasks(
    kept: Kept,
    dropping: Dropping,
    *,
    scores: Scores,
    drop_incomplete: DropIncomplete = False,
    form: FormatOption = "text",
) -> None:
    """Drop tasks one by one, as long as what all of them said stands."""
    from rerank.downsampling import Design, choose_tasks

    found = _read(scores, drop_incomplete)
    design = Design(
        goal=kept.goal,
        order=_one_of("order", dropping.order, ("correlation", "significance")),
        unit=_one_of("unit", dropping.unit or ("query" if found.by_query else "task"), ("task", "query")),
        paired=kept.paired,
        least=dropping.least,
        always=tuple(dropping.always or ()),
        hold_out=dropping.hold_out,
        seed=dropping.seed,
    )
    _print(choose_tasks(found, design), form)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How queries are drawn."""

    sizes: Annotated[
        list[int] | None, typer.Option("--size", help="A number of queries to try; repeatable. (default: a dozen)")
    ] = None
    seeds: Annotated[int, typer.Option(min=1, help="How many random draws.")] = 20
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0


@unfolded
def queries(
    kept: Kept,
    draws: Draws,
    *,
    scores: Scores,
    as_matrix: Annotated[
        bool,
        typer.Option("--matrix", help="SCORES has a row a query and a column a system, as for rerank compare."),
    ] = False,
    drop_incomplete: DropIncomplete = False,
    form: FormatOption = "text",
) -> None:
    """Find how many queries, drawn by chance, still say what all of them say."""
    from rerank.downsampling import choose_queries
    from rerank.evaluation import read_matrix

    matrix = read_matrix(scores) if as_matrix else _read(scores, drop_incomplete).matrix()
    sizes = draws.sizes or ()
    found = choose_queries(matrix, kept.goal, paired=kept.paired, sizes=sizes, seeds=draws.seeds, seed=draws.seed)
    _print(found, form)


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """How pools are made, and what systems are compared by."""

    makers: Annotated[
        list[str] | None, typer.Option("--from", help="A run that makes the pools; repeatable. (default: all)")
    ] = None
    measure: Annotated[str, typer.Option("--measure", "-m", help="What systems are compared by.")] = "nDCG@10"
    depths: Annotated[
        list[int] | None, typer.Option("--k", help="A depth to try; repeatable. (default: a dozen, 1 to 250)")
    ] = None


@unfolded
def pool(
    kept: Kept,
    pooling: Pooling,
    *,
    runs: RunsArgument,
    qrels: Annotated[str, typer.Option("--qrels", help="Judgments: a file, or a collection's selector.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Write the ids of the chosen corpus there, the union of all queries' pools, as JSON lines."),
    ] = None,
    form: FormatOption = "text",
) -> None:
    """Find the least depth of hard-negative pools that says what the whole lists say."""
    from rerank.collections import judgments
    from rerank.downsampling import choose_pool
    from rerank.downsampling.pools import DEPTHS
    from rerank.io.text_files import check_writable

    if out is not None:
        check_writable(out)
    systems, judged = read_runs(runs), judgments(qrels)[0]
    makers, depths = pooling.makers or (), pooling.depths or DEPTHS
    found = choose_pool(
        systems, judged, kept.goal, makers=makers, measure=pooling.measure, depths=depths, paired=kept.paired
    )
    if out is not None and found.chosen is not None:
        _write_corpus(out, [run for run in systems if not makers or run.name in makers], judged, found.chosen.size)
    _print(found, form)
    if out is not None and found.chosen is None:
        raise DataError(
            f"No depth meets the goal, so {out} was not written",
            expected="one that does, as do all larger ones",
            remedy="Ask for less with --min-tau, --min-recall or --min-precision, or try deeper pools with --k",
        )


def _write_corpus(out: Path, makers: list[Any], judged: Any, depth: int) -> None:
    import json

    from rerank.downsampling.pools import corpus_of, pooled
    from rerank.io.text_files import replace_text

    with replace_text(out) as file:
        for doc_id in sorted(corpus_of(pooled(makers, judged, depth))):
            file.write(json.dumps({"id": doc_id}, ensure_ascii=False) + "\n")
    note(f"Written: {out}")


def _read(path: Path, drop_incomplete: bool) -> Table:
    from rerank.downsampling import read_table

    return read_table(path, drop_incomplete=drop_incomplete)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise UsageError(f"--{name} {value}", expected=" or ".join(known))
    return value


_SHOWN = ("tau", "spearman", "AA", "AD", "MA_missed", "MA_spurious", "recall", "precision")


def _print(found: Choice, form: Literal["text", "json", "jsonl"]) -> None:
    content = found.to_dict()
    emit(content, form=form, text=lambda: _show(content), rows="steps")


def _show(content: dict[str, Any]) -> None:
    note(
        f"all: {content['systems']} systems, {content['rows']} rows, {content['significant']} of {content['pairs']} "
        "pairs differ significantly"
    )
    extra = [name for name in ("predicted", "draws_that_meet", "documents") if name in content["steps"][0]]
    rows = [
        [
            step["size"],
            step["label"],
            "yes" if step["met"] else "no",
            *(_cell(step[name]) for name in (*extra, *_SHOWN)),
        ]
        for step in content["steps"]
    ]
    heads = ["size", "change", "met", *extra, *_SHOWN]
    table([head.replace("_", " ") for head in heads], rows)
    chosen = content["chosen"]
    note(f"chosen: {_chosen(content['kind'], chosen['size'])}" if chosen else "no size meets the goal")
    if chosen and (checked := chosen.get("held_out")):
        note("on the systems held out: " + ", ".join(f"{name} {_cell(value)}" for name, value in checked.items()))
    if content["kept"]:
        note(
            ", ".join(content["kept"][:20]) + (f" and {len(content['kept']) - 20} more" if content["kept"][20:] else "")
        )
    fates = {fate: len(pairs) for fate, pairs in content["differences"].items()}
    note("significant differences: " + ", ".join(f"{count} {fate}" for fate, count in fates.items()))
    for text in content["notes"]:
        note(f"note: {text}")


def _chosen(kind: str, size: int) -> str:
    return f"k = {size}" if kind == "pool" else f"{size} {kind}"


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, int) else number(value, 3)
