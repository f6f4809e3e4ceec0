"""The root command: version, completion, exit codes, and what a process does with its streams."""

from __future__ import annotations

import errno
import gzip
import inspect
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from rerank.cli.app import app
from rerank.cli.options import expand_groups
from rerank.errors import BackendError, MissingPrerequisiteError, RerankError
from rerank.store import RunFolder
from tests.cli.conftest import Cli


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    code = "import sys; sys.argv[0] = 'rerank'; from rerank.cli import app; app(prog_name='rerank')"
    env = os.environ | {"_RERANK_COMPLETE": f"source_{shell}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "_RERANK_COMPLETE" in done.stdout


def test_completion_of_a_command() -> None:
    code = "import sys; sys.argv[0] = 'rerank'; from rerank.cli import app; app(prog_name='rerank')"
    env = os.environ | {"_RERANK_COMPLETE": "complete_bash", "COMP_WORDS": "rerank re", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.stdout.split() == ["retrieve", "rerank", "reproduce", "replay"]


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("runn",), "Did you mean 'run'?"),
        (("eval", "x", "--qrel", "y"), "--qrels"),
        (("run", "--collection", "pydoc", "--method", "fulrank"), "Did you mean 'fullrank'"),
        (("run", "--collection", "pydoc", "--method", "slidin:generate"), "Did you mean 'sliding'?"),
        (("run", "--collection", "pydoc", "--method", "sliding:generat"), "Did you mean 'generate'"),
        (("run", "--collection", "jsonl:{data}/jsonl", "--first-stage", "bm25,kk1=1"), "Did you mean 'k1'"),
        (("run", "--collection", "jsonl:{data}/jsonl", "--model", "fake:revesed"), "Did you mean 'reversed'?"),
        (("run", "--collection", "jsonl:{data}/jsonl", "--model", "smollm-135m"), "Did you mean 'smollm2-135m'?"),
        (("run", "--collection", "jsonl:{data}/jsonl", "--model", "fake:stutter,sed=1"), "Did you mean 'seed'"),
    ],
)
def test_unknown_names_are_bad_arguments_with_a_suggestion(
    cli: Cli, data: Path, arguments: tuple[str, ...], suggestion: str
) -> None:
    done = cli(*(argument.format(data=data) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert suggestion in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(("flags", "message"), [(("--model", "fake:stutter,delay=-1"), "delay=-1")])
def test_values_that_do_not_fit(cli: Cli, lists: tuple[str, ...], flags: tuple[str, ...], message: str) -> None:
    done = cli("run", *lists, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


@pytest.mark.parametrize("part", ["torch", "transformers"])
def test_a_missing_extra_is_3(cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "x.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, part, None)
    done = cli("run", "--collection", f"jsonl:{data / 'jsonl'}", "--model", tmp_path / "model")
    assert (done.returncode, done.stdout) == (3, "")
    assert "[hf]'" in done.stderr


def test_a_missing_extra_of_a_collection_is_3(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    done = cli("collections", "irds:vaswani")
    assert (done.returncode, done.stdout) == (3, "")
    assert "[irds]'" in done.stderr


def test_a_model_that_was_not_pulled_is_4(cli: Cli, data: Path) -> None:
    done = cli("run", "--collection", f"jsonl:{data / 'jsonl'}", "--model", "smollm2-135m")
    assert (done.returncode, done.stdout) == (4, "")
    assert "Run: rerank models pull smollm2-135m" in done.stderr


def test_a_backend_that_breaks_is_6(cli: Cli, lists: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(*_: object) -> None:
        raise BackendError("The model fell over", remedy="Pick it up")

    monkeypatch.setattr("rerank.backends.fake.Fake.generate", generate)
    done = cli("run", *lists)
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr == "error: The model fell over. Pick it up\n"


def test_a_model_that_fails_is_7_and_everything_is_saved(cli: Cli, lists: tuple[str, ...]) -> None:
    done = cli("run", *lists, "--model", "fake:fail", "--out", "a")
    assert done.returncode == 7
    assert "fullrank\t" in done.stdout
    assert "100% of the windows failed" in done.stderr
    assert Path("a/run.trec").is_file()
    half = cli("run", *lists, "--model", "fake:fail,rate=0", "--out", "b")
    assert half.returncode == 0


@pytest.mark.parametrize("error", [MissingPrerequisiteError, BackendError])
def test_any_error_of_ours_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch, error: type[RerankError]) -> None:
    def broken() -> None:
        raise error("This is so", expected="that", remedy="Do this")

    monkeypatch.setattr("rerank.methods.describe_methods", broken)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = cli("methods")
    assert done.returncode == error.exit_code
    assert "error: This is so; expected that. Do this" in done.stderr


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "rerank", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("listrank")


def test_a_reader_that_goes_while_we_write(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("rerank.methods.describe_methods", gone)
    monkeypatch.setattr(sys, "stdout", io.StringIO())  # typer puts wrappers around both streams
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    done = cli("methods")
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


def test_a_reader_that_has_gone_is_no_message_and_no_success() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", "from rerank.cli import main; main()", "methods"]
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_that_cannot_be_written_is_a_disk_failure(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rerank", "methods"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 6
    assert "The output cannot be written" in done.stderr


def test_results_that_go_to_a_closed_stdout_are_no_success(tmp_path: Path, data: Path) -> None:
    """Commands that write files need no stdout."""
    codes = []
    for arguments in ("methods", f"retrieve --collection jsonl:{data / 'jsonl'} --depth 2 -o {tmp_path / 'run'}"):
        command = f"{sys.executable} -m rerank {arguments} >&- 2>&- <&-"
        codes.append(subprocess.run(["bash", "-c", command], check=False).returncode)
    assert codes == [6, 0]
    assert (tmp_path / "run").is_file()


def test_an_error_of_reading_does_not_speak_of_the_output(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error", "some.file")

    monkeypatch.setattr("rerank.methods.describe_methods", fail)
    monkeypatch.setattr(os, "_exit", sys.exit)
    done = cli("methods")
    assert done.returncode == 4
    assert "some.file" in done.stderr
    assert "output cannot" not in done.stderr


#: Runs `rerank methods` and presses Ctrl-C when a module is imported. A finalizer may be the place where it arrives.
_INTERRUPTED = """
import importlib.abc, signal, sys

class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

module = place = ""

class Interrupter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == module:
            signal.raise_signal(signal.SIGINT) if place == "here" else Finalized()

signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of scripts ignore it
sys.meta_path.insert(0, Interrupter())
from rerank.__main__ import main
_, module, place = sys.argv
sys.argv = ["rerank", "methods"]
main()
"""


@pytest.mark.parametrize("module", ["rerank.cli", "rerank.errors", "rerank.methods"])
@pytest.mark.parametrize("place", ["here", "in a finalizer"])
def test_ctrl_c_while_modules_load_is_one_line(module: str, place: str) -> None:
    command = [sys.executable, "-c", _INTERRUPTED, module, place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Stopped.\n")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Two options, one of them required."""

    width: Annotated[int, typer.Option(min=1, help="How wide.")]
    height: Annotated[int, typer.Option()] = 2


@expand_groups
def draw(size: Size, name: str = "a", *, loud: bool = False) -> None:
    """Draw something."""
    typer.echo(f"{name} {size.width}x{size.height} {loud}")


def test_fields_become_options() -> None:
    app = typer.Typer()
    app.command()(draw)
    assert list(inspect.signature(draw).parameters) == ["width", "height", "name", "loud"]
    assert draw.__doc__ == "Draw something."
    result = CliRunner().invoke(app, ["--width", "3", "--name", "b", "--loud"])
    assert result.output == "b 3x2 True\n"
    assert CliRunner().invoke(app, []).exit_code == 2
    assert CliRunner().invoke(app, ["--width", "0"]).exit_code == 2


def command_paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    children = getattr(command, "commands", {})
    for name, child in children.items():
        yield from command_paths(child, (*path, name))
    if not children:
        yield path


WRONG_COMMANDS = [(*path, "--no-such-option") for path in command_paths(get_command(app))]


def test_there_are_commands_to_check() -> None:
    assert len(WRONG_COMMANDS) > 30


@pytest.mark.parametrize(
    "arguments",
    [
        *WRONG_COMMANDS,
        ("no-such-command",),
        ("--no-such-option",),
        ("qrels", "no-such-command"),
        ("robustness", "--probe", "no-such-value"),
        ("run", "--format", "no-such-value"),
        ("eval", "--format", "no-such-value"),
        ("serve", "--port", "no-such-value"),
        ("serve", "--max-documents", "no-such-value"),
        ("run", "--depth", "no-such-value"),
    ],
)
def test_the_message_is_one_line_that_names_the_argument(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert arguments[-2 if arguments[-1] == "no-such-value" else -1] in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("eval",), "RUN"),
        (("serve", "--max-documents", "0"), "at least 1"),
        (("serve", "--port", "x"), "a valid integer"),
    ],
)
def test_what_is_expected_is_said(cli: Cli, arguments: tuple[str, ...], named: str) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert named in done.stderr


@pytest.mark.parametrize("arguments", [(), ("qrels",)])
def test_a_group_without_a_command_shows_its_help(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stdout + done.stderr
    assert "error:" not in done.stderr


RERANK = ("rerank", "--collection", "requests:odd.jsonl", "--model", "fake:reversed")


def write(*rows: object) -> None:
    Path("odd.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))


def request(qid: str, text: str, *docs: object) -> dict[str, Any]:
    return {"query": {"qid": qid, "text": text}, "candidates": list(docs)}


def doc(doc_id: str, text: str = "some text", **more: object) -> dict[str, object]:
    return {"docid": doc_id, "doc": text, **more}


def test_empty_queries_keep_their_order_and_ask_nothing(cli: Cli) -> None:
    write(request("q", " ", doc("a"), doc("b")), request("r", "real", doc("a"), doc("b")))
    done = cli(*RERANK, "--out", "a")
    assert done.returncode == 0
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["a", "b", "b", "a"]
    assert json.loads(Path("a/summary.json").read_text())["calls"] == 1


def test_empty_lists_and_single_documents_ask_nothing(cli: Cli) -> None:
    write(request("none", "q"), request("one", "q", doc("a")))
    done = cli(*RERANK, "--out", "a")
    assert done.returncode == 0
    assert done.stdout.split()[:3] == ["one", "Q0", "a"]
    assert json.loads(Path("a/summary.json").read_text())["calls"] == 0
    assert cli("verify", "a").returncode == 0
    rows = [json.loads(line) for line in cli(*RERANK, "--out", "a", "--format", "jsonl").stdout.splitlines()]
    assert [row["query"]["qid"] for row in rows if row["candidates"]] == ["one"]


def test_nothing_but_empty_lists(cli: Cli) -> None:
    write(request("none", "q"))
    for _ in range(2):  # run, then answered from the folder
        done = cli(*RERANK, "--out", "a")
        assert (done.returncode, done.stdout) == (0, "")
        assert "windows: none" in done.stderr
    rows = [json.loads(cli(*RERANK, "--out", "a", "--format", form).stdout) for form in ("jsonl", "json")]
    assert rows == [{"query": {"text": "q", "qid": "none"}, "candidates": []}, [rows[0]]]
    assert cli("verify", "a").returncode == 0


def test_empty_documents_are_documents(cli: Cli) -> None:
    write(request("q", "q", doc("a", ""), doc("b", "   "), doc("c")))
    assert [line.split()[2] for line in cli(*RERANK).stdout.splitlines()] == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((request("q", "q", doc("a"), doc("a")),), "duplicate document 'a' in query 'q'"),
        ((request("q", "q", doc("a")), request("q", "r", doc("b"))), "duplicate query 'q'"),
        ((request("q", "q", doc("a", score=float("nan"))),), "expected a finite number or null"),
        ((request("q", "q", doc("a", score="high")),), "score is 'high'"),
        (({"query": "q"},), "no list of candidates"),
        (("{",), "odd.jsonl"),
        (("\0\0\0",), "is a binary file"),
        (("",), "odd.jsonl"),
    ],
)
def test_requests_that_are_wrong(cli: Cli, rows: tuple[object, ...], message: str) -> None:
    write(*rows)
    done = cli(*RERANK)
    assert (done.returncode, done.stdout) == (5, "")
    assert message in done.stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"q Q0 a 1 nan x\n", "nan"),
        (b"q Q0 a 1 inf x\n", "inf"),
        (b"q Q0 a 1 2 x\nq Q0 a 2 1 x\n", "'a'"),
        (b"\x7fELF\x00\x00\x00", "is a binary file"),
        (b"\xff\xfe q", "not in UTF-8"),
        (gzip.compress(b"".join(b"q Q0 d%d 1 %d x\n" % (n, -n) for n in range(5000)))[:-20], "truncated gzip"),
        (b"q Q0 a\n", "run.trec"),
        (b"", "run.trec"),
    ],
)
def test_runs_that_are_wrong(cli: Cli, content: bytes, message: str) -> None:
    Path("run.trec").write_bytes(content)
    Path("qrels.txt").write_text("q 0 a 1\n")
    done = cli("eval", "run.trec", "--qrels", "qrels.txt")
    assert (done.returncode, done.stdout) == (5, "")
    assert message in done.stderr


@pytest.mark.parametrize("content", [b"q 0 a\n", b"q 0 a high\n", b"\x00\x01", b"q 0 a 1\nq 0 a 2\n", b""])
def test_judgments_that_are_wrong(cli: Cli, content: bytes) -> None:
    Path("run.trec").write_text("q Q0 a 1 2 x\n")
    Path("qrels.txt").write_bytes(content)
    done = cli("eval", "run.trec", "--qrels", "qrels.txt")
    assert (done.returncode, done.stdout) == (5, "")
    assert "qrels.txt" in done.stderr


def test_judgments_of_other_queries(cli: Cli, lists: tuple[str, ...]) -> None:
    Path("other.txt").write_text("someone 0 d 1\n")
    cli("retrieve", *lists[:4], "-o", "first.trec")
    evaluated = cli("eval", "first.trec", "--qrels", "other.txt")
    assert (evaluated.returncode, evaluated.stdout) == (5, "")
    assert "shares no query with other.txt" in evaluated.stderr
    done = cli("run", *lists[:4], "--qrels", "other.txt", "--model", "fake:reversed")
    assert done.returncode == 5
    assert "Check that --qrels belongs to the collection" in done.stderr


def test_a_run_of_another_collection(cli: Cli, data: Path) -> None:
    flags = ("retrieve", "--collection", f"jsonl:{data / 'jsonl'}", "--first-stage", "run:run.trec")
    Path("run.trec").write_text("q1 Q0 stranger 1 2 x\n")
    done = cli(*flags)
    assert done.returncode == 5
    assert "1 of 1 documents are not in the collection" in done.stderr
    Path("run.trec").write_text("other Q0 d1 1 2 x\n")
    assert cli(*flags).returncode == 5
    Path("run.trec").unlink()
    assert cli(*flags).returncode == 4


@pytest.mark.parametrize(
    ("files", "code", "message"),
    [
        ((), 4, "config.json"),
        (("adapter_config.json",), 4, "--adapter"),
        (("config.json",), 4, ".safetensors"),
        (("config.json", "pytorch_model.bin"), 5, "pytorch_model.bin"),
    ],
)
def test_a_model_folder_that_is_none(
    cli: Cli, lists: tuple[str, ...], files: tuple[str, ...], code: int, message: str
) -> None:
    Path("model").mkdir()
    for name in files:
        Path("model", name).write_text("{}")
    done = cli("run", *lists[:6], "--model", "./model")
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert cli("run", *lists[:6], "--model", "./absent").returncode == 4
    assert cli("run", *lists[:6], "--model", "qrels.txt").returncode == 5


def test_an_out_folder_of_something_else_is_left_alone(cli: Cli, lists: tuple[str, ...]) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("precious")
    done = cli("run", *lists, "--out", "thesis", "--overwrite")
    assert done.returncode == 2
    assert [path.name for path in Path("thesis").iterdir()] == ["chapter.tex"]


@pytest.mark.parametrize("name", ["run.trec", "scores.json", "summary.json", "first_stage.trec"])
def test_a_full_disk_while_results_are_written(
    cli: Cli, lists: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace = Path.replace

    def full(self: Path, target: str | Path) -> Path:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        done = cli("run", *lists, "--out", "a")
    assert (done.returncode, done.stdout) == (6, "")
    assert "could not be written: No space left on device. Free space" in done.stderr
    assert [path for path in Path("a").iterdir() if path.name.endswith(".tmp")] == []
    again = json.loads(cli("run", *lists, "--out", "a", "--resume", "--format", "json").stdout)
    assert again["reused_calls"] == (0 if name == "first_stage.trec" else 4)
    assert cli("verify", "a").returncode == 0


def test_a_disk_that_fills_up_between_calls(cli: Cli, lists: tuple[str, ...]) -> None:
    """A real limit: no file of the process may grow past a few pages, so SQLite's log hits it after some commits."""
    code = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    code += f"resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]})); "
    code += "from rerank.cli import main; main()"
    windows = ("--method", "sliding", "--window-size", "4", "--stride", "2", "--batch-size", "1")
    flags = ("run", *lists, *windows, "--out", "a")
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert (done.returncode, done.stdout) == (6, ""), done.stderr
    assert "committed calls are kept" in done.stderr
    with RunFolder("a").calls() as log:
        committed = len(log)
    assert 0 < committed < 20
    again = json.loads(cli(*flags, "--resume", "--format", "json").stdout)
    assert (again["calls"], again["reused_calls"]) == (20, committed)
    assert cli("verify", "a").returncode == 0


def test_a_run_folder_that_cannot_be_made(cli: Cli, lists: tuple[str, ...]) -> None:
    done = cli("run", *lists, "--out", "qrels.txt/a")
    assert (done.returncode, done.stdout) == (6, "")
    assert all(value in done.stderr for value in ("'qrels.txt/a'", "a file"))
