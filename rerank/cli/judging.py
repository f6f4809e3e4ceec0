"""`qrels judge`: judge the documents of a pool, by a person at the keyboard or a model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TextIO

from typer import Argument, Option

from rerank.cli.app import command
from rerank.cli.options import EngineOptions, FormatOption, ModelLoadOptions, OptionGroup, PoolDepth
from rerank.cli.output import emit_content, print_note
from rerank.cli.qrels import group
from rerank.cli.run import progress_bar
from rerank.cli.run_files import read_run_arguments
from rerank.collections import Collection, open_collection, open_collection_qrels
from rerank.engines import open_engine
from rerank.errors import PartialFailureError, UsageError, ensure
from rerank.io.reports import Grid, make_grid
from rerank.io.run_files import write_qrels
from rerank.io.text_files import check_file_writable
from rerank.prompts import load_prompt
from rerank.terminal_text import strip_control_characters

if TYPE_CHECKING:
    from rich.console import Console

    from rerank.adjudication.judging.session import JudgingSession, JudgingTerms, PendingJudgment, PoolTexts


Judge = Annotated[Literal["person", "llm"], "Assessor: a person at the keyboard, or a model."]


class JudgingTaskOptions(OptionGroup):
    """Options that select the documents to judge, their order, the grades and who judges."""

    collection: Annotated[str, "Collection that contains the texts of queries and documents."]
    method: Annotated[str, "Judging order, such as mtf, hedge or depth."]
    budget: Annotated[str, "Budget: 10 (documents per topic), 10% (of each pool) or total:5000."]
    depth: PoolDepth = 100
    relevant: Annotated[
        int | None,
        Option(
            min=1,
            help="Lowest grade that the method counts as relevant. (default: 2 for grades 0,1,2,3, otherwise as in the "
            "collection)",
        ),
    ] = None
    grades: Annotated[str, "Available grades, starting with the least relevant."] = "0,1,2,3"
    seed: Annotated[int, Option(min=0, help="Seed for stochastic methods.")] = 0
    judge: Judge = "person"


class AssessorOptions(ModelLoadOptions, EngineOptions):
    """Options for a model as assessor."""

    panel = "Model"

    model: Annotated[str | None, "Model for --judge llm."] = None
    prompt: Annotated[str | None, "Name of a shipped prompt or path of a YAML file. (default: grade)"] = None
    by: Annotated[
        str | None,
        "Grading mode of a model: likelihood (of each grade), generation (of a reply), or auto (likelihood if "
        "supported). (default: auto)",
    ] = None

    def check(self, judge: str) -> None:
        """Check that model options are given if and only if the assessor is a model."""
        model_options = [name for name, value in vars(self).items() if value is not None]
        if judge == "person" and model_options:
            raise UsageError(
                f"--{model_options[0].replace('_', '-')} is given without --judge llm",
                expected="no model options, because a person judges",
                remedy="Add --judge llm, or omit the option",
            )
        if judge == "llm" and self.model is None:
            raise UsageError("--judge llm needs --model", expected="the name of a model", remedy="Add --model NAME")


class JudgmentFileOptions(OptionGroup):
    """Options for the files of judgments."""

    out: Annotated[Path, "JSON lines file for all judgments; if it exists, the session continues."]
    qrels_out: Annotated[Path | None, "Qrels file to write at the end."] = None
    unjudged: Annotated[
        bool, "Also write the unjudged documents of the pool to --qrels-out, with grade -1 (infAP)."
    ] = False
    against: Annotated[str | None, "Qrels for measuring agreement: a file, or the selector of a collection."] = None

    def check(self) -> None:
        """Check that the files can be written."""
        check_file_writable(self.out)
        if self.unjudged and self.qrels_out is None:
            raise UsageError("--unjudged needs --qrels-out", expected="a qrels file to write the documents to")
        if self.qrels_out is not None:
            check_file_writable(self.qrels_out, "qrels file")
            if self.qrels_out.resolve() == self.out.resolve():
                raise UsageError(f"--out and --qrels-out are both {self.out}", expected="two different files")


@command(
    "judge",
    "rerank qrels judge a.trec b.trec --collection pydoc --method mtf --budget 10% --out judgments.jsonl "
    "--qrels-out judged.txt --judge llm --model smollm2-135m --against pydoc",
    group=group,
)
def judge(
    task: JudgingTaskOptions,
    assessor: AssessorOptions,
    files: JudgmentFileOptions,
    *,
    runs: Annotated[list[Path], Argument(metavar="RUN...", help="Run files or folders whose documents are pooled.")],
    form: FormatOption = "text",
) -> None:
    """Judge the pooled documents of runs one by one, in the order of a method.

    Each judgment is saved immediately. The same command continues the session. The key u undoes the last judgment.
    With --judge llm, a model judges. With --against, the agreement with other qrels is reported.
    """
    from rerank.adjudication.agreement import compare_assessors
    from rerank.adjudication.judging.session import JudgingSession, PoolTexts
    from rerank.adjudication.pools import add_unjudged_documents, pool_runs

    assessor.check(task.judge)
    files.check()
    collection = open_collection(task.collection)
    terms = _terms(task, assessor, collection)  # invalid settings raise an error before any run is read
    people = open_collection_qrels(files.against)[0] if files.against is not None else None
    ordered = sorted(read_run_arguments(runs), key=lambda run: run.name)  # the order of arguments must have no effect
    pooled = pool_runs(ordered, depth=task.depth)
    session = JudgingSession.open(files.out, pooled, terms)
    waiting: Mapping[str, str] = {}
    stopped = False
    if session.left:
        texts = PoolTexts.look_up(pooled, collection.queries(), collection)
        try:
            if task.judge == "person":
                _judge_at_terminal(session, texts)
            else:
                waiting = _judge_by_model(session, texts, assessor, collection)
        except KeyboardInterrupt:
            stopped = task.judge == "llm"
            # read the file again: it shows whether the last judgment was saved
            session = JudgingSession.open(files.out, pooled, terms)
    if files.qrels_out is not None:
        judged = session.qrels()
        write_qrels(add_unjudged_documents(judged, pooled) if files.unjudged else judged, files.qrels_out)
    agreement = None if people is None else compare_assessors(session.qrels(), people)
    content = {
        **session.to_dict(),
        "unanswered": len(waiting),
        "topics": len(session.pool.topics),
        "pool": len(session.pool),
        "terms": session.terms.to_dict(session.pool),
        "out": str(files.out),
        "qrels": str(files.qrels_out) if files.qrels_out is not None else None,
        "against": files.against,
        "agreement": None if agreement is None else agreement.to_dict(session.terms.relevant),
    }
    emit_content(content, _parts(content), form)
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


def _terms(task: JudgingTaskOptions, assessor: AssessorOptions, collection: Collection) -> JudgingTerms:
    from rerank.adjudication.judging.grader import Grader, check_grading_prompt
    from rerank.adjudication.judging.session import SCALE, JudgingTerms, parse_grades
    from rerank.adjudication.orders import open_judging_order
    from rerank.adjudication.walks import AdjudicationBudget
    from rerank.models import backend_class_of_model

    open_judging_order(task.method)
    grades = parse_grades(task.grades)
    budget = AdjudicationBudget.parse(task.budget)
    judged_by = {"judge": "person"}
    if task.judge == "llm":
        model, prompt, by = assessor.model or "", assessor.prompt or Grader.prompt, assessor.by or "auto"
        ensure(by in ("auto", "likelihood", "generation"), f"--by is {by!r}", expected="likelihood, generation or auto")
        if prompt == Grader.prompt and tuple(grades) != SCALE:
            raise UsageError(
                f"The grades are {','.join(map(str, grades))}, but the prompt {prompt!r} defines 0,1,2,3",
                expected="a prompt that defines the grades",
                remedy=f"Write a prompt, starting from `rerank prompts show {prompt}`, and pass it as --prompt FILE",
            )
        template = load_prompt(prompt)
        check_grading_prompt(template)
        Grader.check(backend_class_of_model(model), model)
        judged_by = {"judge": "llm", "model": model, "prompt": f"{template.name} {template.digest[:12]}", "by": by}
    return JudgingTerms(
        method=task.method,
        budget=budget,
        seed=task.seed,
        depth=task.depth,
        relevant=task.relevant or (2 if grades == SCALE else collection.relevant),
        grades=grades,
        judge=judged_by,
    )


def _judge_by_model(
    session: JudgingSession, texts: PoolTexts, assessor: AssessorOptions, collection: Collection
) -> dict[str, str]:
    from rerank.adjudication.judging.grader import Grader, GradingWorkers, judge_session_by_model
    from rerank.models import open_model_backend

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
        with progress_bar("judging", session.left) as advance:
            return judge_session_by_model(session, grader, texts, name=model, on_judged=advance, workers=grading)


def _parts(content: Mapping[str, Any]) -> Iterator[Grid | str]:
    columns = ("judged", "relevant", "skipped", "failed", "left")
    yield make_grid(columns, [[content[name] for name in columns]])
    if (alike := content["agreement"]) is None:
        return
    if not alike["documents"]:
        yield f"No document is judged in both files: {content['out']} and {content['against']}"
        return
    grades = alike["grades"]
    rows = [[grade, *row] for grade, row in zip(grades, alike["table"], strict=True)]
    yield make_grid(["grade here", *(f"{grade} there" for grade in grades)], rows, further=True)
    names = ("documents", "overlap", "kappa", "kappa_linear", "kappa_quadratic", "binary_overlap", "binary_kappa")
    cells = [[name.replace("_", " "), alike[name]] for name in names]
    yield make_grid(["agreement", content["against"]], cells, further=True)


# Judging at a terminal

_END = "\x04"  #: End of input: Ctrl-D, or a closed terminal.
#: Meanings of the grades of TREC Deep Learning.
_MEANINGS = (
    "has nothing to do with the query",
    "is on the topic of the query but does not answer it",
    "answers the query in part, unclearly, or among other things",
    "is about the query only and contains the exact answer",
)
_UNDO, _SKIP, _LEAVE, _HELP = "u", "s", ("q", _END), ("?", "h")


def _judge_at_terminal(session: JudgingSession, texts: PoolTexts) -> None:
    from rich.console import Console

    for name, stream in (("Standard input", sys.stdin), ("Standard error", sys.stderr)):
        if not stream.isatty():
            raise UsageError(
                f"{name} is not a terminal, and {session.left} documents remain to be judged",
                expected="a terminal, to show documents and read keys",
                remedy="Run the command without redirections, or use a model: --judge llm --model NAME",
            )
    with open_keyboard(sys.stdin) as keys:
        TerminalAssessor(session, texts, keys, Console(stderr=True, highlight=False)).judge()


class Keyboard(Protocol):
    """A terminal from which single keys are read without Enter. Open it with `open_keyboard`."""

    def forget(self) -> None:
        """Discard keys that were pressed but have not been read."""

    def press(self) -> str:
        """Wait for a key and return it: a character, an escape sequence (as of arrow keys), or `_END` if input ends."""


class _Terminal:
    def __init__(self, descriptor: int, discard: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self.forget = discard

    def press(self) -> str:
        try:
            text = os.read(self._descriptor, 32).decode("utf-8", "replace")
        except OSError:  # the terminal was closed
            return _END
        return text if text.startswith("\x1b") else text[:1] or _END


class _Console:
    """The keyboard of a Windows console, which the standard module ``msvcrt`` reads."""

    def __init__(self, msvcrt: Any) -> None:
        self._msvcrt = msvcrt

    def forget(self) -> None:
        while self._msvcrt.kbhit():
            self._msvcrt.getwch()

    def press(self) -> str:
        key: str = self._msvcrt.getwch()
        if key == "\x03":  # Ctrl-C arrives as a character
            raise KeyboardInterrupt
        if key in "\0\xe0":  # the first half of a special key
            return f"\x1b{self._msvcrt.getwch()}"
        return _END if key == "\x1a" else key  # Ctrl-Z ends input


@contextmanager
def open_keyboard(stream: TextIO) -> Iterator[Keyboard]:
    """Yield a keyboard that reads single keys of a terminal, without Enter and echo; Ctrl-C still interrupts."""
    try:
        termios: Any = import_module("termios")
        tty: Any = import_module("tty")
    except ImportError:
        yield _Console(import_module("msvcrt"))
        return
    descriptor = stream.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSADRAIN)
        yield _Terminal(descriptor, lambda: termios.tcflush(descriptor, termios.TCIFLUSH))
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@dataclass(frozen=True)
class TerminalAssessor:
    """The dialogue with a person who judges the documents of a session."""

    session: JudgingSession
    texts: PoolTexts
    keys: Keyboard
    console: Console  #: Shows the documents. It is never cleared, so that the person can scroll back.

    def judge(self) -> None:
        """Show documents and save each judgment until no document is left or the person quits."""
        done, left = len(self.session.history), self.session.left
        self._say(f"{done} documents are judged, {left} remain. Each judgment is saved immediately.")
        while (pending := self.session.next()) is not None:
            self.keys.forget()  # a key pressed before the document is shown is not a judgment of it
            self._show(pending)
            if not self._judge(pending):
                return
        self._say("All documents of the budget are judged.")

    def _judge(self, pending: PendingJudgment) -> bool:
        """Read keys until the document is judged or skipped, or the last judgment is undone. Return False on quit."""
        from rerank.adjudication.judging.session import Judgment

        started = time.monotonic()
        grades = {str(grade): grade for grade in self.session.terms.grades}
        while True:
            key = self.keys.press()
            seconds = time.monotonic() - started
            if key in grades or key == _SKIP:
                judged = Judgment(topic=pending.topic, doc=pending.doc, grade=grades.get(key), seconds=seconds)
                self.session.record(judged if key in grades else replace(judged, gap="skipped"))
                self._say(f"-> {key if key in grades else 'cannot tell'}")
                return True
            if key in _LEAVE:
                return False
            if key == _UNDO and self._undo():
                return True
            if key in _HELP:
                self._say(self._help())
            elif key != _UNDO:
                self._say(f"{_name_of_key(key)} has no function; ? shows the keys")

    def _undo(self) -> bool:
        if (last := self.session.undo()) is None:
            self._say("There is nothing to undo.")
            return False
        label = "cannot tell" if last.grade is None else f"grade {last.grade}"
        self._say(f"Undone: {strip_control_characters(last.doc)}, {label}. The document is shown again.")
        return True

    def _show(self, pending: PendingJudgment) -> None:
        """Show the query and one document. If the document is longer than the screen, show the query again below it."""
        from rich.rule import Rule
        from rich.text import Text

        window = self.texts.window(pending)
        (doc,) = window.docs
        query = Text(strip_control_characters(f"Query {window.query.id}: {window.query.text}"), style="bold")
        body = Text(strip_control_characters(doc.text).strip("\n") or "(this document has no text)")
        self.console.print()
        self.console.print(Rule(Text(f"{self._progress(pending)}: {strip_control_characters(doc.id)}"), align="left"))
        self.console.print(query)
        self.console.print()
        if doc.title:
            self.console.print(Text(strip_control_characters(doc.title), style="underline"))
        self.console.print(body)
        if len(body.wrap(self.console, self.console.width)) > self.console.height - 6:
            self.console.print()
            self.console.print(query)
        grades = " ".join(map(str, self.session.terms.grades))
        self._say(f"{grades} = grade, s = cannot tell, u = undo, q = save and quit, ? = help")

    def _progress(self, pending: PendingJudgment) -> str:
        place = self.session.position(pending)
        if place.topic is None:
            topic = strip_control_characters(pending.topic)
            return f"topic {topic}, document {place.document} of {place.documents} over all topics"
        return f"topic {place.topic} of {place.topics}, document {place.document} of {place.documents}"

    def _help(self) -> str:
        from rerank.adjudication.judging.session import SCALE

        terms = self.session.terms
        lines = [f"Grades of {terms.relevant} or higher mean relevant."]
        if terms.grades == SCALE:
            lines += [f"  {grade}  the document {meaning}" for grade, meaning in enumerate(_MEANINGS)]
        else:
            scale = " ".join(map(str, terms.grades))
            lines.append(f"  {scale}  grade of the document; the last grade is the most relevant")
        lines.append("  s  skip the document if you cannot tell; it gets no judgment")
        lines.append("  u  undo the previous judgment; may be repeated")
        lines.append("  q  quit, like Ctrl-C and Ctrl-D; the same command continues from here")
        return "\n".join(lines)

    def _say(self, text: str) -> None:
        from rich.text import Text

        self.console.print(Text(text, style="dim"))


def _name_of_key(key: str) -> str:
    if key.isprintable() and not key.isspace():
        return repr(key)
    return {" ": "The space bar", "\n": "Enter", "\r": "Enter", "\t": "Tab", "\x7f": "Backspace"}.get(key, "That")
