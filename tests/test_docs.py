"""The documentation is run: commands, Python, TOML, links, flags. CONTRIBUTING.md says how pages are written for it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from rerank.cli.app import app
from rerank.errors import UsageError
from rerank.experiment.spec import Execution, RunSpec, read_run_spec
from tests.docs_scripts import load_docs_script

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_INDEX = "docs/package-index.md"  # README.md once more
FOLDERS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS.remove(PACKAGE_INDEX)
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *FOLDERS]
COMMANDS = "docs/commands/"
#: Files that the build of the site makes.
PUBLISHED = load_docs_script("published").LINKED
REAL, FAKE = "smollm2-135m", "fake:reversed"
ASKING = ("run", "rerank", "demo")

_BLOCK = re.compile(
    r"(?P<mark>^[ ]*\*Not run: [^\n]+\*\n\n)?^[ ]*```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<body>.*?)^[ ]*```$",
    re.M | re.S,
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*[a-z0-9]")


@dataclass(frozen=True)
class Block:
    kind: str
    body: str
    title: str
    not_run: bool


def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(text: str) -> list[Block]:
    return [Block(m["kind"], m["body"], m["title"] or "", bool(m["mark"])) for m in _BLOCK.finditer(text)]


def run_line(line: str) -> str:
    """Run one command of a page, its model replaced, and return what it printed."""
    said, bar, command = line.rpartition(" | ")
    words = shlex.split(command if bar else line, comments=True)
    assert words[0] == "rerank", f"a bash block that is run has a line that is no command of ours: {line}"
    given = ""
    if bar:
        echo, *rest = shlex.split(said)
        assert echo == "echo"
        given = " ".join(rest) + "\n"
    words = [FAKE if word == REAL else word for word in words[1:]]
    if words[0] in ASKING and "--model" not in words and "--spec" not in words:
        words += ["--model", FAKE]
    result = CliRunner().invoke(app, words, input=given)
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
    return result.output


def run_block(block: Block, names: dict[str, Any]) -> None:
    if block.kind == "bash" and not block.not_run:
        for line in block.body.replace("\\\n", " ").splitlines():
            if line.strip():
                run_line(line.strip())
    elif block.kind == "python" and not block.not_run:
        with redirect_stdout(StringIO()):
            exec(compile(block.body.replace(REAL, FAKE), "page", "exec"), names)
    elif block.kind in READERS and not block.not_run and not block.body.startswith("--8<--"):
        READERS[block.kind](block.body)


def read_json(text: str) -> None:
    while text := text.strip():
        text = text[json.JSONDecoder().raw_decode(text)[1] :]


READERS: dict[str, Callable[[str], Any]] = {"json": read_json, "toml": tomllib.loads, "yaml": yaml.safe_load}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all pages, so that an index is built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def room(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return tmp_path


def run_page(page: str, room: Path) -> None:
    found = blocks(text_of(page))
    for block in found:
        if block.title:
            path = room / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body.replace(REAL, FAKE), "utf-8")
    names: dict[str, Any] = {"__name__": "page"}
    for block in found:
        run_block(block, names)


@pytest.mark.parametrize("page", [p for p in PAGES if not p.startswith(COMMANDS) and "```" in text_of(p)])
def test_the_page_runs(page: str, room: Path) -> None:
    run_page(page, room)


def test_the_examples_of_the_help_texts_run(room: Path) -> None:
    run_line("rerank demo")
    kept = room / "runs/FOLDER"
    next((room / "runs/demo").glob("fullrank-*")).rename(kept)
    for name, source in (("a.trec", "run"), ("b.trec", "first_stage"), ("qrels.txt", "qrels")):
        shutil.copy(kept / f"{source}.trec", room / name)
    for folder in ("one", "two", "again"):
        (room / folder).mkdir()
        for name in ("a.trec", "b.trec"):
            shutil.copy(room / name, room / folder / name)
        shutil.copy(room / "qrels.txt", room / f"{folder}.txt")
    shutil.copy(room / "data/requests/rank_llm.jsonl", room / "lists.jsonl")
    for page in PAGES:
        if page.startswith(COMMANDS):
            run_page(page, room)


def test_the_generated_pages_are_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    pytest.importorskip("peft")  # which counts the parameters of some adapters
    pages = load_docs_script("generate").pages()
    folders = {path.partition("/")[0] for path in pages if path.startswith(("commands/", "reference/"))}
    assert {page for page in FOLDERS if page.split("/")[1] in folders} <= {f"docs/{path}" for path in pages}
    for path, text in pages.items():
        assert text_of(f"docs/{path}") == text, "run: python docs/generate.py"


def test_specifications_are_read(tmp_path: Path) -> None:
    shown = [b for page in PAGES for b in blocks(text_of(page)) if b.kind == "toml" and "collection" in b.body]
    assert shown
    for block in shown:
        (tmp_path / "run.toml").write_text(block.body, "utf-8")
        values = read_run_spec(tmp_path / "run.toml")
        Execution.make({key: values.pop(key) for key in Execution.model_fields if key in values})
        RunSpec.make(values)


def commands(command: Any) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from commands(inner)


_COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:rerank|python \S+\.py)(?: |$)")
#: What a shell, not the command, would read, a result or remark on the same line, and placeholders.
_NO_ARGUMENT = re.compile(r" (?:\||>|2>|&|;|#|<|\() ?.*| \.\.\.|(?<=\S) {3,}\S.*")
_CLICK_ERROR: Any = typer.BadParameter.__mro__[2]  # ClickException, of which typer has a private copy


def printed_commands(text: str) -> Iterator[str]:
    """Every command of ours and every script of ours with its arguments, in blocks and in running text."""
    for block in re.finditer(r"^[ ]*```(?:bash|text|console)?\n(.*?)^[ ]*```$", text, re.M | re.S):
        for line in re.sub(r"\s*\\\n\s*", " ", block[1]).splitlines():
            if _COMMAND.match(line.strip()) or re.match(r"--\w", line.strip()):  # the latter, if a backslash is missing
                yield _NO_ARGUMENT.sub("", line.strip())
    for span in re.findall(r"`([^`]+)`", re.sub(r"^[ ]*```.*?^[ ]*```$", "", text, flags=re.M | re.S)):
        if _COMMAND.match(line := " ".join(span.split())):
            yield _NO_ARGUMENT.sub("", line)


@pytest.fixture
def parser_only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line, with commands that do nothing once their arguments are parsed."""
    command = typer.main.get_command(app)
    for inner in commands(command):
        if not hasattr(inner, "commands"):
            monkeypatch.setattr(inner, "callback", lambda **_: None)
    return command


def why_command_fails(line: str, command: Any) -> str:
    """Return the parser's message about a printed command; placeholders may stand for missing arguments."""
    words = [word for word in shlex.split(line) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    if words[0].startswith("--") or any("|" in word for word in words):
        return "not one command: a backslash is missing, or | stands for a choice"
    if words[0] == "python":
        script = ROOT / words[1]
        known = _FLAG.findall(script.read_text("utf-8")) if script.is_file() else []
        unknown = [flag for flag in _FLAG.findall(" ".join(words[2:])) if flag not in known]
        return ", ".join(unknown) if script.is_file() else f"no script {words[1]}"
    try:
        command.main(words[1:], standalone_mode=False)
    except (UsageError, _CLICK_ERROR) as error:
        mentioned = ("BadOptionUsage", "MissingParameter", "NoArgsIsHelpError")  # without arguments
        return "" if type(error.__cause__ or error).__name__ in mentioned else str(error)
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_every_printed_command_is_accepted(page: str, parser_only: Any) -> None:
    found = {line: why_command_fails(line, parser_only) for line in printed_commands(text_of(page))}
    assert {line: why for line, why in found.items() if why} == {}


def test_flags_that_are_named_exist() -> None:
    known = {"--help"}
    for command in commands(typer.main.get_command(app)):
        known |= {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for page in PAGES:
        text = _BLOCK.sub(lambda m: "" if m["mark"] else m[0], text_of(page))
        named = {flag.replace("_", "-") for flag in _FLAG.findall(text)}
        others = {"--strict"} if page == "CONTRIBUTING.md" else set()  # mypy's
        if page == "docs/log.md" or page.startswith("docs/decisions/"):  # commands of benchmarks
            others = {
                flag for path in (ROOT / "benchmarks").glob("*.py") for flag in _FLAG.findall(path.read_text("utf-8"))
            }
        assert named - known - others == set(), page


@pytest.mark.parametrize("page", [*PAGES, "data/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in _LINK.findall(_BLOCK.sub("", text_of(page))):
        if not re.match(r"https?:|#|mailto:", target) and target not in PUBLISHED:
            assert ((ROOT / page).parent / target.partition("#")[0]).exists(), target


def test_every_page_is_in_the_site() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8").partition("nav:")[2]
    assert {page.removeprefix("docs/") for page in FOLDERS} == set(re.findall(r"[\w/-]+\.md", nav))


def test_the_style_and_the_scripts_of_the_site_exist() -> None:
    lists = re.findall(r"^extra_(?:css|javascript): \[(.+)\]$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    names = [name.strip() for listed in lists for name in listed.split(",")]
    assert len(names) >= 2
    assert [name for name in names if not (ROOT / "docs" / name).is_file()] == []


def test_a_block_that_is_run_holds_only_commands_of_ours() -> None:
    with pytest.raises(AssertionError, match="no command of ours"):
        run_line("make demo")
    assert [b.not_run for b in blocks("*Not run: x.*\n\n```bash\nmake\n```\n```bash\nrerank\n```\n")] == [True, False]


def test_a_printed_command_that_would_fail_is_found(parser_only: Any) -> None:
    text = (
        "```text\nrerank run --no-such 1\nrerank nothing\nrerank run --method a|b\nrerank run\n    --method a\n```\n"
        "`python benchmarks/decoding.py\n--no-such` `rerank eval --qrels`"
    )
    found = [bool(why_command_fails(line, parser_only)) for line in printed_commands(text)]
    assert found == [True, True, True, False, True, True, False]


def test_the_page_for_a_package_index_has_no_relative_links() -> None:
    text = text_of(PACKAGE_INDEX)
    assert len(text) > len(text_of("README.md")) / 2
    assert all(link.startswith("https://") for link in _LINK.findall(text))


FIGURES = ("first_stage", "ndcg10", "low", "high", "p", "corrected")


@pytest.fixture(scope="module")
def results() -> ModuleType:
    return load_docs_script("results")


def entries_of_log() -> dict[str, str]:
    """Return the entries of the log by anchor, with numbers without the zero before the point."""
    parts = re.split(r"^## (.+)$", (ROOT / "docs/log.md").read_text("utf-8"), flags=re.M)
    anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in parts[1::2]]
    return dict(zip(anchors, [re.sub(r"(?<!\d)0\.", ".", text) for text in parts[2::2]], strict=True))


def test_the_page_is_what_the_script_writes(results: ModuleType) -> None:
    assert (ROOT / "docs/results.md").read_text("utf-8") == results.render_results_page(), "run: python docs/results.py"


def test_every_figure_of_a_row_stands_in_its_entry_of_the_log(results: ModuleType) -> None:
    entries = entries_of_log()
    for row in results.read_result_rows():
        text = entries[row["entry"]]
        for figure in (row[key].strip("< ") for key in FIGURES if not row[key].startswith(">")):
            assert figure in text, (row["method"], figure)


def test_differences_are_those_of_the_means(results: ModuleType) -> None:
    for row in results.read_result_rows():
        difference = float(row["ndcg10"]) - float(row["first_stage"])
        assert float(row["difference"]) == pytest.approx(difference, abs=1.1e-4), row["method"]  # rounded means
        if row["low"]:
            assert float(row["low"]) < float(row["difference"]) < float(row["high"])
