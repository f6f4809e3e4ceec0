"""The root command: version, completion, exit codes, and what a process does with its streams."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rerank.errors import BackendError, MissingPrerequisiteError, RerankError
from tests.cli.conftest import Cli

COMMANDS = [
    "demo",
    "run",
    "retrieve",
    "rerank",
    "eval",
    "compare",
    "parse",
    "replay",
    "verify",
    "methods",
    "models",
    "collections",
    "prompts",
    "cache",
    "doctor",
]


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("listrank ")


def test_help_names_every_command(cli: Cli) -> None:
    shown = cli("-h")
    assert shown.returncode == 0
    assert cli("--help").stdout == shown.stdout
    words = shown.stdout.split()
    assert [command for command in COMMANDS if command not in words] == []
    bare = cli()
    assert "Usage" in bare.stdout + bare.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli: Cli, command: str) -> None:
    done = cli(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout


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
        (("run", "--colection", "pydoc"), "--collection"),
        (("eval", "x", "--qrel", "y"), "--qrels"),
        (("run", "--collection", "pydock"), "Did you mean 'pydoc'?"),
        (("run", "--collection", "pydoc", "--method", "fulrank"), "Did you mean 'fullrank'"),
        (("run", "--collection", "pydoc", "--method", "slidin:generate"), "Did you mean 'sliding'?"),
        (("run", "--collection", "pydoc", "--method", "sliding:generat"), "Did you mean 'generate'"),
        (("run", "--collection", "pydoc", "--prompt", "listwize"), "Did you mean 'listwise'"),
        (("run", "--collection", "pydoc", "--dtype", "float8"), "'float16'"),
        (("run", "--collection", "pydoc", "--shuffle", "randm"), "'random'"),
        (("run", "--collection", "jsonl:{data}/jsonl", "--first-stage", "bm52"), "Did you mean 'bm25'?"),
        (("run", "--collection", "jsonl:{data}/jsonl", "--first-stage", "bm25,kk1=1"), "Did you mean 'k1'"),
        (("run", "--collection", "jsonl:{data}/jsonl", "--model", "fake:revesed"), "Did you mean 'reversed'?"),
        (("run", "--collection", "jsonl:{data}/jsonl", "--model", "smollm-135m"), "Did you mean 'smollm2-135m'?"),
        (("run", "--collection", "jsonl:{data}/jsonl", "--model", "fake:stutter,sed=1"), "Did you mean 'seed'"),
        (("run", "--collection", "jsonl:{data}/jsonl", "--query", "q11"), "Did you mean 'q1'"),
        (("methods", "--format", "jsn"), "'json'"),
    ],
)
def test_unknown_names_are_bad_arguments_with_a_suggestion(
    cli: Cli, data: Path, arguments: tuple[str, ...], suggestion: str
) -> None:
    done = cli(*(argument.format(data=data) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert suggestion in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--depth", "0"), "--depth is 0"),
        (("--depth", "many"), "'--depth'"),
        (("--max-failure-rate", "2"), "--max-failure-rate is 2"),
        (("--temperature", "-1"), "--temperature is -1"),
        (("--model", "fake:stutter,p=7"), "p=7"),
        (("--model", "fake:stutter,delay=-1"), "delay=-1"),
        (("--model", "replay"), "'replay'"),
        (("--window-size", "4"), "--window-size cannot be used with --method fullrank"),
        (("--method", "sliding", "--window-size", "2", "--stride", "5"), "stride"),
        (("--min-passage-tokens", "64", "--max-passage-tokens", "32"), "passage"),
        (("--context-size", "20"), "context"),
    ],
)
def test_values_that_do_not_fit(cli: Cli, lists: tuple[str, ...], flags: tuple[str, ...], message: str) -> None:
    done = cli("run", *lists, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_collection_must_be_named(cli: Cli) -> None:
    assert "No collection is given; expected a provider" in cli("run").stderr


@pytest.mark.parametrize("part", ["torch", "transformers"])
def test_a_missing_extra_is_3(cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "x.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, part, None)
    done = cli("run", "--collection", f"jsonl:{data / 'jsonl'}", "--model", tmp_path / "model")
    assert (done.returncode, done.stdout) == (3, "")
    assert "pip install 'listrank[hf]'" in done.stderr


def test_a_missing_extra_of_a_collection_is_3(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    done = cli("collections", "irds:vaswani")
    assert (done.returncode, done.stdout) == (3, "")
    assert "pip install 'listrank[irds]'" in done.stderr


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
