"""`qrels judge`: a person or a model judges a pool, in the order of a method."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rerank.cli.model_options import PANEL, ModelLoadOptions
from rerank.cli.option_groups import expand_option_groups
from rerank.cli.output import FormatOption, emit, format_number, print_note, print_table
from rerank.errors import PartialFailureError, UsageError

if TYPE_CHECKING:
    from rerank.adjudication.judging.grader import Grader
    from rerank.adjudication.judging.judging_terms import JudgingTerms
    from rerank.adjudication.judging.pool_texts import PoolTexts
    from rerank.adjudication.judging.session import JudgingSession
    from rerank.collections import Collection
    from rerank.types import Qrels

_EXAMPLE = (
    "Example: rerank qrels judge a.trec b.trec --collection pydoc --method mtf --budget 10% --out judgments.jsonl "
    "--qrels-out judged.txt --judge llm --model smollm2-135m --against pydoc"
)


def register(group: typer.Typer) -> None:
    """Add the command to the group `qrels`."""
    group.command("judge", epilog=_EXAMPLE)(judge)


@dataclass(frozen=True, kw_only=True)
class JudgingTaskOptions:
    """What is judged, and how far."""

    collection: Annotated[str, typer.Option(help="Where queries' and documents' texts are; see rerank collections.")]
    method: Annotated[str, typer.Option(help="The order of judging, such as mtf, hedge or depth.")]
    budget: Annotated[str, typer.Option(help="10 (documents a topic), 10% (of each topic's pool) or total:5000.")]
    depth: Annotated[int, typer.Option(min=1, help="Documents of each run that are pooled.")] = 100
    relevant: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Lowest grade that tells the method: relevant. (default: of 0,1,2,3 it is 2; else the collection's)",
        ),
    ] = None
    grades: Annotated[str, typer.Option(help="The grades that can be given, the least relevant first.")] = "0,1,2,3"
    seed: Annotated[int, typer.Option(min=0, help="Of the chance in the method.")] = 0


@dataclass(frozen=True, kw_only=True)
class AssessorOptions(ModelLoadOptions):
    """Who judges."""

    judge: Annotated[Literal["person", "llm"], typer.Option(help="You, at the keyboard, or a model.")] = "person"
    model: Annotated[str | None, typer.Option(help="The model of --judge llm.", rich_help_panel=PANEL)] = None
    prompt: Annotated[
        str | None, typer.Option(help="A prompt by name or file. (default: grade)", rich_help_panel=PANEL)
    ] = None
    by: Annotated[
        str | None,
        typer.Option(
            help="likelihood (of each grade), generation (of a reply), or auto: the first that the model can do. "
            "(default: auto)",
            rich_help_panel=PANEL,
        ),
    ] = None

    def check(self) -> None:
        """Refuse a model's options without a model, and a model's work without one."""
        given = [name for name, value in vars(self).items() if value is not None and name != "judge"]
        if self.judge == "person" and given:
            raise UsageError(
                f"--{given[0].replace('_', '-')} without --judge llm",
                expected="no such option: a person judges",
                remedy="Add --judge llm, or leave it out",
            )
        if self.judge == "llm" and self.model is None:
            raise UsageError("--judge llm without --model", expected="a model that judges; see rerank models")


@dataclass(frozen=True, kw_only=True)
class JudgmentFileOptions:
    """What is written, and what it is held against."""

    out: Annotated[Path, typer.Option(help="The judgments as they are made, JSON lines; goes on where it ends.")]
    qrels_out: Annotated[Path | None, typer.Option(help="The judgments as a qrels file, when you leave.")] = None
    against: Annotated[
        str | None, typer.Option(help="People's judgments to agree with: a file, or a collection's selector.")
    ] = None

    def check(self) -> None:
        """See whether they could be written."""
        from rerank.io.text_files import check_writable

        check_writable(self.out)
        if self.qrels_out is not None:
            check_writable(self.qrels_out)
            if self.qrels_out.resolve() == self.out.resolve():
                raise UsageError(f"--out and --qrels-out are both {self.out}", expected="two files")


@expand_option_groups
def judge(
    task: JudgingTaskOptions,
    who: AssessorOptions,
    files: JudgmentFileOptions,
    *,
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run files, or folders of them; their best are judged.")
    ],
    form: FormatOption = "text",
) -> None:
    """Judge the best documents of some runs, one after the other, in the order of a method.

    Every judgment is saved at once; the same command goes on where the last one ended, and u takes judgments back.
    With --judge llm a model judges instead, and --against says how far it agrees with people.
    """
    from rerank.adjudication.judging.pool_texts import PoolTexts
    from rerank.adjudication.judging.session import JudgingSession
    from rerank.adjudication.pools import pool_runs
    from rerank.cli.run_files import read_runs
    from rerank.collections import judgments, open_collection
    from rerank.io.run_files import write_qrels

    who.check()
    files.check()
    collection = open_collection(task.collection)
    terms = _terms(task, who, collection)
    people = judgments(files.against)[0] if files.against is not None else None
    ordered = sorted(read_runs(runs), key=lambda run: run.name)  # so that the order they are given in is no matter
    pooled = pool_runs(ordered, depth=task.depth)
    session = JudgingSession.open(files.out, pooled, terms)
    waiting: Mapping[str, str] = {}
    stopped = False
    if session.left:
        ask = _ask_person if who.judge == "person" else _ask_model
        texts = PoolTexts.look_up(pooled, collection.queries(), collection)
        try:
            waiting = ask(session, texts, who, collection)
        except KeyboardInterrupt:
            stopped = who.judge == "llm"
            session = JudgingSession.open(files.out, pooled, terms)  # the file knows whether the last one was saved
    if files.qrels_out is not None:
        write_qrels(session.qrels(), files.qrels_out)
    content = _content(session, files, people, waiting)
    emit(content, form=form, text=lambda: _show(content))
    _close(content, waiting, stopped=stopped)


def _terms(task: JudgingTaskOptions, who: AssessorOptions, collection: Collection) -> JudgingTerms:
    """How is judged; everything that can be wrong with it is told before a run is read."""
    from rerank.adjudication.budgets import AdjudicationBudget
    from rerank.adjudication.judging.judging_terms import SCALE, JudgingTerms, parse_grades
    from rerank.adjudication.judging_sequence import open_order

    open_order(task.method)
    grades = parse_grades(task.grades)
    return JudgingTerms(
        method=task.method,
        budget=AdjudicationBudget.parse(task.budget),
        seed=task.seed,
        depth=task.depth,
        relevant=task.relevant or (2 if grades == SCALE else collection.relevant),
        grades=grades,
        judge={"judge": "person"} if who.judge == "person" else _model_terms(who, grades),
    )


def _model_terms(who: AssessorOptions, grades: Sequence[int]) -> dict[str, str]:
    """A model by its name and question: judgments of another are not to go into the same file."""
    from rerank.adjudication.judging.grader import Grader, check_prompt
    from rerank.adjudication.judging.judging_terms import SCALE
    from rerank.models import backend_class
    from rerank.prompts import load_prompt

    model, prompt, by = who.model or "", who.prompt or Grader.prompt, who.by or "auto"
    if by not in ("auto", "likelihood", "generation"):
        raise UsageError(f"--by {by}", expected="likelihood, generation or auto")
    if prompt == Grader.prompt and tuple(grades) != SCALE:
        raise UsageError(
            f"The grades {','.join(map(str, grades))} with the prompt {prompt!r}, which explains 0,1,2,3",
            expected="a prompt that explains the grades",
            remedy=f"Write one, beginning with `rerank prompts show {prompt}`, and give it with --prompt FILE",
        )
    template = load_prompt(prompt)
    check_prompt(template)
    Grader.check(backend_class(model), model)
    return {"judge": "llm", "model": model, "prompt": f"{template.name} {template.digest[:12]}", "by": by}


def _ask_person(
    session: JudgingSession, texts: PoolTexts, who: AssessorOptions, collection: Collection
) -> dict[str, str]:
    from rich.console import Console

    from rerank.cli.terminal import keyboard
    from rerank.cli.terminal_assessor import TerminalAssessor

    del who, collection
    for name, stream in (("Standard input", sys.stdin), ("Standard error", sys.stderr)):
        if not stream.isatty():
            raise UsageError(
                f"{name} is no terminal, and {session.left} documents are left to judge",
                expected="a terminal, to show documents and read keys",
                remedy="Run it in one without redirections, or let a model judge: --judge llm --model NAME",
            )
    with keyboard(sys.stdin) as keys:
        TerminalAssessor(session, texts, keys, Console(stderr=True, highlight=False)).judge()
    return {}


def _ask_model(
    session: JudgingSession, texts: PoolTexts, who: AssessorOptions, collection: Collection
) -> dict[str, str]:
    from rerank.adjudication.judging.model_judging import judge_by_model
    from rerank.cli.run import progress

    grader = _grader(session, who, collection)
    with progress("judging", session.left) as advance:
        return judge_by_model(session, grader, texts, name=who.model or "", on_judged=advance)


def _grader(session: JudgingSession, who: AssessorOptions, collection: Collection) -> Grader:
    from rerank.adjudication.judging.grader import Grader
    from rerank.assemble import open_model
    from rerank.prompts import load_prompt

    backend = open_model(who.model or "", who.options(), qrels=collection.qrels() or None)
    by: Any = who.by or "auto"
    template = load_prompt(who.prompt or Grader.prompt)
    return Grader(backend=backend, template=template, grades=session.terms.grades, by=by)


def _content(
    session: JudgingSession, files: JudgmentFileOptions, people: Qrels | None, waiting: Mapping[str, str]
) -> dict[str, Any]:
    """What is printed."""
    from rerank.adjudication.agreement import compute_agreement

    alike = compute_agreement(session.qrels(), people).to_dict(session.terms.relevant) if people is not None else None
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


def _show(content: Mapping[str, Any]) -> None:
    columns = ("judged", "relevant", "skipped", "failed", "left")
    print_table(columns, [[content[name] for name in columns]])
    alike = content["agreement"]
    if alike is None:
        return
    if not alike["documents"]:
        print_note(f"No document is judged both here and in {content['against']}")
        return
    rows = zip(alike["grades"], alike["table"], strict=True)
    print_table(
        ["grade here", *(f"{grade} there" for grade in alike["grades"])], [[grade, *row] for grade, row in rows]
    )
    names = ("overlap", "kappa", "kappa_linear", "kappa_quadratic", "binary_overlap", "binary_kappa")
    cells = [[name.replace("_", " "), format_number(alike[name])] for name in names]
    print_table(["agreement", content["against"]], [["documents", alike["documents"]], *cells])


def _close(content: Mapping[str, Any], waiting: Mapping[str, str], *, stopped: bool) -> None:
    """Say where everything is, and fail if a model did not answer."""
    if content["judged"] + content["skipped"] + content["failed"]:
        print_note(f"Saved: {content['out']}")
    if content["qrels"] is not None:
        print_note(f"Written: {content['qrels']}, {content['judged']} judgments")
    if content["failed"]:
        print_note(
            f"{content['failed']} replies held no grade; they are in {content['out']}, and their documents unjudged"
        )
    if content["left"]:
        print_note(f"{content['left']} documents are left; the same command goes on with them")
    if waiting:
        topic, detail = next(iter(waiting.items()))
        raise PartialFailureError(
            f"No reply came for {len(waiting)} documents; topic {topic!r}: {detail}",
            remedy="The same command asks for them again",
        )
    if stopped:
        sys.exit(130)
