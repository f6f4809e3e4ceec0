"""Wrong values for every option of every command, generated from the tree of commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tests.attacks.option_server import PIPE
from tests.frozen.snapshot import command_line, input_files, walk_commands

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v2d4cd24"

#: Values that are a number in one way or another, and texts.
TEXTS: Mapping[str, str] = {
    "empty": "",
    "blank": " ",
    "zero": "0",
    "negative": "-1",
    "huge": "999999999999",
    "24 digits": "9" * 24,
    "5,000 digits": "9" * 5000,
    "tiny": "1e-320",
    "nan": "nan",
    "inf": "inf",
    "-inf": "-inf",
    "1e308": "1e308",
    "fraction": "0.5",
    "other digits": "١٢",
    "non-ASCII": "Zürich 日本 🎈",
    "NUL": "a\0b",
    "surrogate": "a\udcffb",
    "line break": "a\nb",
    "escape": "\x1b[31mred",
    "selector": "a:b,c=d,c=e",
    "parenthesis": "((a",
    "option": "--format",
}
#: Paths in the working folder that are not what an option expects.
PATHS: Mapping[str, str] = {
    "folder": "empty",
    "full folder": "docs",
    "pipe": PIPE,
    "missing parent": "missing/parent/file",
    "below a file": "notes.md/file",
    "file of another kind": "notes.md",
    "picture": "red.png",
    "binary file": "binary.bin",
    "dash": "-",
    "trailing slash": "new/",
    "long name": "n" * 300,
    "long path": "p/" * 2500,
    "dangling link": "dangling",
    "link to itself": "loop",
    "home": "~/file",
}
#: Options whose value is a file or folder that the command writes.
OUTPUTS = frozenset({"--out", "--output", "--plot", "--per-query", "--qrels-out", "--prompts"})
#: Folders in which any command may write: that of its output, and the user's cache.
WRITABLE = ("out", "cache")

_LISTS = "--collection requests:lists.jsonl --first-stage candidates --qrels qrels.txt --depth 4"
_RUN = f"{_LISTS} --model fake:perfect"
_SERVED = "--model fake:perfect --port 0"
_JUDGE = "--method mtf --budget 2 --relevant 2 --judge llm --model fake:perfect --by generation"

#: Command -> its arguments by name, and the options with which it succeeds (those marked # do not succeed offline).
BASES: Mapping[str, tuple[Mapping[str, str], str]] = {
    "": ({}, "methods"),
    "run": ({}, f"{_RUN} --out out/run"),
    "retrieve": ({}, f"{_LISTS} -o out/run.trec"),
    "rerank": ({}, f"{_RUN} --out out/run -o out/run.trec"),
    "demo": ({}, "--out out/demo --model fake:perfect"),
    "robustness": ({}, f"{_RUN} --out out/runs --shuffles 1"),
    "bench": ({"suite": "suite.toml"}, "--out out/suite"),
    "compare": ({"runs": "runs/s0.trec runs/s1.trec"}, "--qrels gold.txt"),
    "power": ({"runs": "runs/s0.trec runs/s1.trec"}, "--qrels gold.txt"),
    "worth": ({"first": "runs/s0.trec", "runs": "runs/s1.trec"}, "--qrels gold.txt"),
    "anova": ({"folders": "one two"}, "--qrels one.txt --qrels two.txt"),
    "reproduce": ({"runs": "base.trec new.trec base2.trec new2.trec"}, "--qrels three.txt"),
    "eval": ({"runs": "runs"}, "--qrels gold.txt"),
    "calibrate": ({"runs": "scored"}, "--out out/calibration.json --complete"),
    "replay": ({"folder": "finished"}, ""),
    "verify": ({"folder": "finished"}, ""),
    "parse": ({"file": "reply.txt"}, "--count 4"),
    "serve": ({}, _SERVED),
    "mcp": ({}, f"{_SERVED} --http"),
    "collections": ({"selector": "jsonl:docs"}, ""),
    "methods": ({}, ""),
    "doctor": ({}, "--model model --gpu 24GB"),
    "train": ({"recipe": "recipe-tiny.toml"}, "--out out/training --device cpu"),
    "transfer": (
        {"adapter": "adapter"},
        "--to model --collection jsonl:collection --recipe recipe-tiny.toml --out out/t",
    ),
    "inspect": ({"adapter": "adapter"}, "--model model --device cpu"),
    "merge": ({"adapters": "adapter"}, "--model model --out out/merged --device cpu"),
    "heads select": ({}, f"{_RUN} -o out/heads.json"),
    "qrels study": ({"runs": "runs"}, "--qrels gold.txt --out out/study --budget 20% --seeds 1"),
    "qrels compare": ({"files": "gold.txt other.txt"}, "--runs runs/s0.trec --runs runs/s1.trec"),
    "qrels agreement": ({"files": "gold.txt other.txt"}, "--resamples 10"),
    "qrels estimate": ({"runs": "runs"}, "--people few.txt --predicted other.txt"),
    "qrels pool": ({"runs": "runs"}, "--out out/pool.trec"),
    "qrels leave-out": ({"runs": "runs"}, "--qrels gold.txt"),
    "qrels judge": ({"runs": "a.trec b.trec"}, f"--collection jsonl:docs --out out/judged.jsonl {_JUDGE}"),
    "label make": ({}, f"{_RUN} --teacher qrels -o out/labels.jsonl --out out/run"),
    "label check": ({"file": "pairs.jsonl"}, "--against jsonl:queries=test-queries.jsonl"),
    "label filter": ({"file": "pairs.jsonl"}, "-o out/kept.jsonl"),
    "label split": ({"file": "pairs.jsonl"}, "--dev 0.4 --no-leak-check -o out/parts"),
    "label augment": ({"file": "pairs.jsonl"}, "--shuffle -o out/more.jsonl"),
    "label convert": ({"file": "flag.jsonl"}, "-o out/made"),
    "label queries": ({}, "--collection jsonl:docs=titled.jsonl --from title --within 1 -o out/made"),
    "leaderboard build": ({"runs": "runs"}, "--qrels gold.txt --out out/site"),
    "leaderboard open": ({"site": "empty"}, ""),  #
    "leaderboard check": ({"card": "s0.toml"}, "--qrels gold.txt"),
    "leaderboard export": (
        {"runs": "runs/s0.trec"},
        "--collection c --team t --repository https://example.org --out out/export",  #
    ),
    "mteb tasks": ({}, "--task AskUbuntuDupQuestions"),
    "mteb run": ({}, "--task AskUbuntuDupQuestions --model fake:perfect --out out/results"),  #
    "mteb choose tasks": ({"scores": "tasks.csv"}, ""),
    "mteb choose queries": ({"scores": "queries.jsonl"}, "--size 5 --seeds 2"),
    "mteb choose pool": ({"runs": "runs"}, "--qrels gold.txt --k 1 --k 6 --min-tau 0 --out out/pool.jsonl"),
    "models list": ({}, ""),
    "models pull": ({"name": "smollm2-135m"}, "--source hub"),  #
    "models tokenize": ({"name": "model"}, "--collection jsonl:docs"),
    "prompts list": ({}, ""),
    "prompts show": ({"name": "listwise"}, ""),
    "prompts render": ({"name": "listwise"}, "--query why --passage one --passage two"),
    "cache list": ({}, ""),
    "cache clean": ({}, "--yes"),
}


def write_template(folder: Path) -> None:
    """Write the folder in which the commands of `BASES` run."""
    import os
    import shutil
    import tarfile

    for name, text in input_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    inputs = FIXTURES / "inputs"
    for name in ("model", "adapter"):
        shutil.copytree(inputs / name, folder / name)
    shutil.copy(inputs / "pictures" / "red.png", folder)
    for name, archive in (("finished", "fullrank"), ("scored", "pointwise")):
        with tarfile.open(FIXTURES / "folders" / f"{archive}.tar.gz") as file:
            file.extractall(folder, filter="data")
        (folder / archive).rename(folder / name)
    shutil.copytree(inputs / "collection", folder / "collection")
    (folder / "recipe-tiny.toml").write_text(
        'model = "model"\n[data]\nlists = ["collection/labels.jsonl"]\ncollection = "jsonl:collection"\ndocuments = 4\n'
        '[method]\nmethod = "full:attention,calibrate=false"\nprompt = "icr_ie"\nmax_passage_tokens = 40\n'
        'min_passage_tokens = 1\n[training]\nsteps = 1\n[[losses]]\nname = "distill"\non = "log-attention"\n'
    )
    (folder / "notes.md").write_text("# Notes of the user\n")
    (folder / "binary.bin").write_bytes(b"\x7fELF\x00\x00\x00")
    for name in ("empty", "out"):
        (folder / name).mkdir()
    os.symlink("nowhere", folder / "dangling")
    os.symlink("loop", folder / "loop")


@dataclass(frozen=True, slots=True)
class Case:
    """A command with one unusual value."""

    command: str
    option: str  #: First name of the option, or the name of the argument in angle brackets.
    kind: str  #: Key of `TEXTS` or `PATHS`, or ``flag``.
    words: tuple[str, ...]
    value: str
    names: frozenset[str]  #: All names of the option.
    help: str = ""

    def __str__(self) -> str:
        return f"{self.command} {self.option} {self.kind}"

    def may_write(self, path: str) -> bool:
        """Return whether the command may create this file or folder, a path in the working folder."""
        allowed = [*WRITABLE]
        if self.is_output and self.value.strip("/"):
            first = self.value.partition("/")[0]
            allowed += [first, Path(first).stem + "."]  # files beside it with another ending, such as a diagram
        return path.startswith(tuple(allowed))

    @property
    def is_output(self) -> bool:
        return bool(self.names & OUTPUTS)


def leaf_commands() -> dict[str, Any]:
    """Return the commands that run something, by their words; the root command is the empty text."""
    tree = dict(walk_commands(command_line()))
    return {path: found for path, found in tree.items() if not path or not getattr(found, "commands", {})}


def generate_cases() -> Iterator[Case]:
    """Yield a case for every option and argument of every command and every value that is odd for it."""
    for path, command in leaf_commands().items():
        arguments, options = BASES[path]
        for parameter in command.params:
            names = frozenset({*parameter.opts, *parameter.secondary_opts})
            if "--help" in names or "--version" in names:
                continue
            is_argument = parameter.param_type_name == "argument"
            shown = f"<{parameter.name}>" if is_argument else max(parameter.opts, key=len)
            for kind, value in odd_values(parameter):
                given = {name: shlex.split(words) for name, words in arguments.items()}
                words = [*path.split(), *shlex.split(options)]
                if is_argument:
                    given[parameter.name] = [value, *given.get(parameter.name, ())[1:]]
                elif kind == "flag":
                    words += [value]
                else:
                    words += [shown, value]
                words += ["--", *(word for several in given.values() for word in several)] if given else []
                text = getattr(parameter, "help", None) or ""
                yield Case(path, shown, kind, tuple(words), value, names, text)


def odd_values(parameter: Any) -> Iterator[tuple[str, str]]:
    """Yield kinds and values that are odd for an option; a flag is only given."""
    if getattr(parameter, "is_flag", False):
        yield from (("flag", name) for name in (*parameter.opts[:1], *parameter.secondary_opts[:1]))
        return
    kind = parameter.type_descriptor.annotation
    kinds = {kind, *get_args(kind)}
    yield from TEXTS.items()
    yield from () if kinds & {int, float} else PATHS.items()
