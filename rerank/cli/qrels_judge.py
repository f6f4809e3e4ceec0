"""`qrels judge`: judge the documents of a pool, by a person or a model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rerank.cli.model_options import PANEL, EngineOptions, ModelLoadOptions
from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit_output, format_number_cell, print_note, print_table
from rerank.errors import PartialFailureError, UsageError

if TYPE_CHECKING:
    from rerank.adjudication.judging.session import JudgingSession, JudgingTerms, PoolTexts
    from rerank.collections import Collection
    from rerank.types import Qrels

_EXAMPLE = (
    "Example: rerank qrels judge a.trec b.trec --collection pydoc --method mtf --budget 10% --out judgments.jsonl "
    "--qrels-out judged.txt --judge llm --model smollm2-135m --against pydoc"
)


def register_cli_commands(group: typer.Typer) -> None:
    """Add the command ``judge`` to the group ``qrels``."""
    group.command("judge", epilog=_EXAMPLE)(judge_command)


@dataclass(frozen=True, kw_only=True)
class JudgingTaskOptions:
    """Options that select the documents to judge, their order and the grades."""

    collection: Annotated[str, typer.Option(help="Collection that contains the texts of queries and documents.")]
    method: Annotated[str, typer.Option(help="Judging order, such as mtf, hedge or depth.")]
    budget: Annotated[str, typer.Option(help="Budget: 10 (documents per topic), 10% (of each pool) or total:5000.")]
    depth: Annotated[int, typer.Option(min=1, help="Pool depth: number of documents pooled from each run.")] = 100
    relevant: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Lowest grade that the method counts as relevant. (default: 2 for grades 0,1,2,3, otherwise as in the "
            "collection)",
        ),
    ] = None
    grades: Annotated[str, typer.Option(help="Available grades, starting with the least relevant.")] = "0,1,2,3"
    seed: Annotated[int, typer.Option(min=0, help="Seed for stochastic methods.")] = 0


@dataclass(frozen=True, kw_only=True)
class AssessorOptions(ModelLoadOptions, EngineOptions):
    """Options for the assessor, which is a person or a model."""

    judge: Annotated[Literal["person", "llm"], typer.Option(help="Assessor: a person at the keyboard, or a model.")] = (
        "person"
    )
    model: Annotated[str | None, typer.Option(help="Model for --judge llm.", rich_help_panel=PANEL)] = None
    prompt: Annotated[
        str | None,
        typer.Option(help="Name of a shipped prompt or path of a YAML file. (default: grade)", rich_help_panel=PANEL),
    ] = None
    by: Annotated[
        str | None,
        typer.Option(
            help="Grading mode of a model: likelihood (of each grade), generation (of a reply), or auto (likelihood if "
            "supported). (default: auto)",
            rich_help_panel=PANEL,
        ),
    ] = None

    def check(self) -> None:
        """Check that model options are given if and only if the assessor is a model."""
        model_options = [name for name, value in vars(self).items() if value is not None and name != "judge"]
        if self.judge == "person" and model_options:
            raise UsageError(
                f"--{model_options[0].replace('_', '-')} is given without --judge llm",
                expected="no model options, because a person judges",
                remedy="Add --judge llm, or omit the option",
            )
        if self.judge == "llm" and self.model is None:
            raise UsageError("--judge llm needs --model", expected="the name of a model", remedy="Add --model NAME")


@dataclass(frozen=True, kw_only=True)
class JudgmentFileOptions:
    """Options for the files of judgments."""

    out: Annotated[Path, typer.Option(help="JSON lines file for all judgments; if it exists, the session continues.")]
    qrels_out: Annotated[Path | None, typer.Option(help="Qrels file to write at the end.")] = None
    unjudged: Annotated[
        bool,
        typer.Option(
            "--unjudged", help="Also write the unjudged documents of the pool to --qrels-out, with grade -1 (infAP)."
        ),
    ] = False
    against: Annotated[
        str | None,
        typer.Option(help="Qrels for measuring agreement: a file, or the selector of a collection."),
    ] = None

    def check(self) -> None:
        """Check that the files can be written."""
        from rerank.io.text_files import check_file_writable

        check_file_writable(self.out)
        if self.unjudged and self.qrels_out is None:
            raise UsageError("--unjudged needs --qrels-out", expected="a qrels file to write the documents to")
        if self.qrels_out is not None:
            check_file_writable(self.qrels_out)
            if self.qrels_out.resolve() == self.out.resolve():
                raise UsageError(f"--out and --qrels-out are both {self.out}", expected="two different files")


@expand_option_groups
def judge_command(
    task: JudgingTaskOptions,
    assessor: AssessorOptions,
    files: JudgmentFileOptions,
    *,
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run files or folders whose documents are pooled.")
    ],
    form: FormatOption = "text",
) -> None:
    """Judge the pooled documents of runs one by one, in the order of a method.

    Each judgment is saved immediately. The same command continues the session. The key u undoes the last judgment.
    With --judge llm, a model judges. With --against, the agreement with other qrels is reported.
    """
    from rerank.adjudication.judging.session import JudgingSession, PoolTexts
    from rerank.adjudication.pools import add_unjudged_documents, pool_runs
    from rerank.cli.run_files import read_run_arguments
    from rerank.collections import open_collection, open_collection_qrels
    from rerank.io.run_files import write_qrels

    assessor.check()
    files.check()
    collection = open_collection(task.collection)
    terms = _judging_terms_of_options(task, assessor, collection)
    people = open_collection_qrels(files.against)[0] if files.against is not None else None
    ordered = sorted(read_run_arguments(runs), key=lambda run: run.name)  # the order of arguments must have no effect
    pooled = pool_runs(ordered, depth=task.depth)
    session = JudgingSession.open(files.out, pooled, terms)
    waiting: Mapping[str, str] = {}
    stopped = False
    if session.left:
        judge_pool = _judge_at_terminal if assessor.judge == "person" else _judge_with_progress_bar
        texts = PoolTexts.look_up(pooled, collection.queries(), collection)
        try:
            waiting = judge_pool(session, texts, assessor, collection)
        except KeyboardInterrupt:
            stopped = assessor.judge == "llm"
            session = JudgingSession.open(
                files.out, pooled, terms
            )  # read the file again: it shows whether the last judgment was saved
    if files.qrels_out is not None:
        judged = session.qrels()
        write_qrels(add_unjudged_documents(judged, pooled) if files.unjudged else judged, files.qrels_out)
    content = _judge_command_output(session, files, people, waiting)
    emit_output(content, form=form, text=lambda: _print_judging_counts(content))
    _print_remaining_judgments(content, waiting, stopped=stopped)


def _judging_terms_of_options(
    task: JudgingTaskOptions, assessor: AssessorOptions, collection: Collection
) -> JudgingTerms:
    """Return the settings of the judging session. Invalid settings raise an error before any run is read."""
    from rerank.adjudication.judging.session import SCALE, JudgingTerms, parse_grades
    from rerank.adjudication.orders import open_judging_order
    from rerank.adjudication.walks import AdjudicationBudget

    open_judging_order(task.method)
    grades = parse_grades(task.grades)
    return JudgingTerms(
        method=task.method,
        budget=AdjudicationBudget.parse(task.budget),
        seed=task.seed,
        depth=task.depth,
        relevant=task.relevant or (2 if grades == SCALE else collection.relevant),
        grades=grades,
        judge={"judge": "person"} if assessor.judge == "person" else _model_terms_of_options(assessor, grades),
    )


def _model_terms_of_options(assessor: AssessorOptions, grades: Sequence[int]) -> dict[str, str]:
    """Return the model settings that a judgment file records: model, prompt and grading mode."""
    from rerank.adjudication.judging.grader import Grader, check_grading_prompt
    from rerank.adjudication.judging.session import SCALE
    from rerank.models import backend_class_of_model
    from rerank.prompts import load_prompt

    model, prompt, by = assessor.model or "", assessor.prompt or Grader.prompt, assessor.by or "auto"
    if by not in ("auto", "likelihood", "generation"):
        raise UsageError(f"--by is {by!r}", expected="likelihood, generation or auto")
    if prompt == Grader.prompt and tuple(grades) != SCALE:
        raise UsageError(
            f"The grades are {','.join(map(str, grades))}, but the prompt {prompt!r} defines 0,1,2,3",
            expected="a prompt that defines the grades",
            remedy=f"Write a prompt, starting from `rerank prompts show {prompt}`, and pass it as --prompt FILE",
        )
    template = load_prompt(prompt)
    check_grading_prompt(template)
    Grader.check(backend_class_of_model(model), model)
    return {"judge": "llm", "model": model, "prompt": f"{template.name} {template.digest[:12]}", "by": by}


def _judge_at_terminal(
    session: JudgingSession, texts: PoolTexts, assessor: AssessorOptions, collection: Collection
) -> dict[str, str]:
    from rich.console import Console

    from rerank.cli.terminal import read_keyboard_key
    from rerank.cli.terminal_assessor import TerminalAssessor

    del assessor, collection
    for name, stream in (("Standard input", sys.stdin), ("Standard error", sys.stderr)):
        if not stream.isatty():
            raise UsageError(
                f"{name} is not a terminal, and {session.left} documents remain to be judged",
                expected="a terminal, to show documents and read keys",
                remedy="Run the command without redirections, or use a model: --judge llm --model NAME",
            )
    with read_keyboard_key(sys.stdin) as keys:
        TerminalAssessor(session, texts, keys, Console(stderr=True, highlight=False)).judge()
    return {}


def _judge_with_progress_bar(
    session: JudgingSession, texts: PoolTexts, assessor: AssessorOptions, collection: Collection
) -> dict[str, str]:
    from rerank.adjudication.judging.grader import Grader, GradingWorkers, judge_session_by_model
    from rerank.cli.run import show_command_progress_bar
    from rerank.engines import open_engine
    from rerank.models import open_model_backend
    from rerank.prompts import load_prompt

    execution = assessor.execution()
    model, options, qrels = assessor.model or "", assessor.options(), collection.qrels() or None
    by: Any = assessor.by or "auto"
    with closing(open_engine(execution.engine, **execution.engine_options())) as engine:
        workers = engine.worker_map()
        backend = open_model_backend(model, options, qrels=qrels, lazy=workers is not None)
        template = load_prompt(assessor.prompt or Grader.prompt)
        grader = Grader(backend=backend, template=template, grades=session.terms.grades, by=by)
        engine.start(backend)
        opened = partial(open_model_backend, model, options, qrels=qrels)
        grading = None if workers is None else GradingWorkers(open_backend=opened, apply=workers)
        with show_command_progress_bar("judging", session.left) as advance:
            return judge_session_by_model(session, grader, texts, name=model, on_judged=advance, workers=grading)


def _judge_command_output(
    session: JudgingSession, files: JudgmentFileOptions, people: Qrels | None, waiting: Mapping[str, str]
) -> dict[str, Any]:
    """Return the result of the judging session as a JSON object."""
    from rerank.adjudication.agreement import compare_assessors

    alike = compare_assessors(session.qrels(), people).to_dict(session.terms.relevant) if people is not None else None
    return {
        **session.to_dict(),
        "unanswered": len(waiting),
        "topics": len(session.pool.topics),
        "pool": len(session.pool),
        "terms": session.terms.to_dict(session.pool),
        "out": str(files.out),
        "qrels": str(files.qrels_out) if files.qrels_out is not None else None,
        "against": files.against,
        "agreement": alike,
    }


def _print_judging_counts(content: Mapping[str, Any]) -> None:
    columns = ("judged", "relevant", "skipped", "failed", "left")
    print_table(columns, [[content[name] for name in columns]])
    alike = content["agreement"]
    if alike is None:
        return
    if not alike["documents"]:
        print_note(f"No document is judged in both files: {content['out']} and {content['against']}")
        return
    rows = zip(alike["grades"], alike["table"], strict=True)
    print_table(
        ["grade here", *(f"{grade} there" for grade in alike["grades"])],
        [[grade, *row] for grade, row in rows],
        further=True,
    )
    names = ("overlap", "kappa", "kappa_linear", "kappa_quadratic", "binary_overlap", "binary_kappa")
    cells = [[name.replace("_", " "), format_number_cell(alike[name])] for name in names]
    print_table(["agreement", content["against"]], [["documents", alike["documents"]], *cells], further=True)


def _print_remaining_judgments(content: Mapping[str, Any], waiting: Mapping[str, str], *, stopped: bool) -> None:
    """Print the names of the written files and the number of remaining documents."""
    if content["judged"] + content["skipped"] + content["failed"]:
        print_note(f"saved: {content['out']}")
    if content["qrels"] is not None:
        print_note(f"written: {content['qrels']}, {content['judged']} judgments")
    if content["failed"]:
        print_note(
            f"{content['failed']} replies contained no grade; they are in {content['out']}, and their documents "
            "remain unjudged"
        )
    if content["left"]:
        print_note(f"{content['left']} documents remain; the same command continues with them")
    if waiting:
        topic, detail = next(iter(waiting.items()))
        raise PartialFailureError(
            f"The model did not reply for {len(waiting)} documents. First error, for topic {topic!r}: {detail}",
            remedy="Run the same command to repeat these calls",
        )
    if stopped:
        sys.exit(130)
