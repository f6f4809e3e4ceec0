"""`rerank qrels judge`: a person at a terminal, a model, and everything that can be wrong with what they are given."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rerank.cli import judging
from rerank.terminal_text import strip_control_characters
from tests.backends.faulty_server import decided, open_decision_server
from tests.cli.conftest import Cli

TOPICS = 3
NAMED = ("a.trec", "b.trec", "--collection", "jsonl:docs", "--method", "mtf", "--out", "j.jsonl")
JUDGE = ("qrels", "judge", *NAMED, "--budget", "2", "--relevant", "2")
LLM = (*JUDGE, "--judge", "llm", "--model", "fake:perfect")

#: `_OWN` takes the terminal for its own, so that Ctrl-C reaches it as from a shell, and is not ignored, as it is in
#: all that a script starts in the background: these tests too may have been.
_MAIN = "import sys; from rerank.cli import main; sys.argv[0] = 'rerank'; main()"
_OWN = (
    "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.default_int_handler); " + _MAIN
)
_EVIL = "\x1b[2J[bold]red[/bold] {query} \x07bell\r\x9b31m \u202eturned"


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    """Two runs over three topics, a collection, and two sets of people's judgments."""
    (tmp_path / "docs").mkdir()
    docs = [{"id": f"d{n}", "title": f"Title {n}", "text": f"This is the text of document {n}."} for n in range(6)]
    docs[0]["text"] = _EVIL
    queries = [{"id": f"t{t}", "text": f"question number {t}"} for t in range(TOPICS)]
    for name, rows in (("docs", docs), ("queries", queries)):
        (tmp_path / "docs" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    for name, turn in (("a", 0), ("b", 2)):
        lines = [f"t{t} Q0 d{(n + turn) % 6} {n} {9 - n} {name}" for t in range(TOPICS) for n in range(4)]
        (tmp_path / f"{name}.trec").write_text("\n".join(lines))
    grades = [f"t{t} 0 d{n} {n % 4}" for t in range(TOPICS) for n in range(6)]
    (tmp_path / "people.txt").write_text("\n".join(grades))
    (tmp_path / "docs" / "qrels.txt").write_text("\n".join(grades))


class Terminal:
    """A command at a terminal of its own; stdout is a pipe, so that results can be read from it."""

    def __init__(self, folder: Path, *words: str, own: bool = False) -> None:
        self.screen, self._seen = "", 0
        self._master, slave = os.openpty()
        termios.tcsetwinsize(slave, (24, 100))
        self._before = None if own else termios.tcgetattr(slave)  # its own one is hung up when it ends
        self._slave = slave
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWN if own else _MAIN, *words],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=slave,
            cwd=folder,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"},
            start_new_session=True,
            text=True,
        )

    def wait_for(self, text: str) -> str:
        """Read on until a text stands on the screen behind what was waited for before; return what came until then."""
        deadline = time.monotonic() + 60
        while text not in self.screen[self._seen :]:
            assert time.monotonic() < deadline, f"{text!r} never came:\n{self.screen}"
            if select.select([self._master], [], [], 0.2)[0]:
                self.screen += os.read(self._master, 4096).decode("utf-8", "replace").replace("\r\n", "\n")
            else:
                assert self.process.poll() is None, f"it ended without {text!r}:\n{self.screen}"
        end = self.screen.index(text, self._seen) + len(text)
        part, self._seen = self.screen[self._seen : end], end
        return part

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def ready(self) -> str:
        """Wait until a document is shown and a key is asked for."""
        self.wait_for("document ")
        return self.wait_for("? = help")

    def close(self) -> None:
        self.process.kill()  # without effect on one that has ended
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        os.close(self._slave)
        os.close(self._master)

    def end(self) -> tuple[int, str]:
        """The exit code and what stood on stdout; the terminal must be as it was."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=30)
        if self.process.poll() is None:  # a signal that came just before the system's read is noticed with the next key
            self.press("?")
        out = self.process.communicate(timeout=60)[0]
        assert self._before is None or termios.tcgetattr(self._slave) == self._before
        return self.process.returncode, out


Open = Callable[..., Terminal]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Open]:
    """Opens terminals, and ends what a failed test leaves running."""
    opened: list[Terminal] = []

    def opener(*words: str, own: bool = False) -> Terminal:
        opened.append(Terminal(tmp_path, *words, own=own))
        return opened[-1]

    yield opener
    for one in opened:
        one.close()


def rows(path: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key != "check"} for line in found]


def grades(path: Path) -> list[int | None]:
    """Of the judgments in the file, those taken back too."""
    return [row["grade"] for row in rows(path)[1:] if "topic" in row]


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_person_judges_leaves_and_comes_back(terminal: Open, tmp_path: Path) -> None:
    command = (*JUDGE, "--qrels-out", "q.txt", "--against", "people.txt", "--format", "json")
    at = terminal(*command)
    shown = at.ready()
    assert "topic 1 of 3, document 1 of 2" in at.screen
    assert "Query t0: question number 0" in shown
    assert "Title 0" in shown
    at.press("3")
    at.wait_for("-> 3")
    at.ready()
    assert grades(tmp_path / "j.jsonl") == [3]  # on the disk while the next document is shown
    at.press("x")
    at.wait_for("'x' has no function")
    at.press("\x1b[A")
    at.wait_for("That has no function")
    at.press("?")
    at.wait_for("you cannot tell")
    at.press("u")
    at.wait_for("Undone: ")
    at.ready()
    at.press("u")
    at.wait_for("nothing to undo")
    at.press("0")
    at.wait_for("-> 0")
    at.ready()
    at.press("s")
    at.wait_for("-> cannot tell")
    at.ready()
    assert "topic 2 of 3, document 1 of 2" in at.screen
    at.press("q")
    code, out = at.end()
    found = json.loads(out)
    assert code == 0
    assert {key: found[key] for key in ("judged", "skipped", "failed", "left", "relevant", "out", "qrels")} == {
        "judged": 1,
        "skipped": 1,
        "failed": 0,
        "left": 4,
        "relevant": 0,
        "out": "j.jsonl",
        "qrels": "q.txt",
    }
    assert found["agreement"]["documents"] == 1
    assert grades(tmp_path / "j.jsonl") == [3, 0, None]
    assert len((tmp_path / "q.txt").read_text().splitlines()) == 1

    at = terminal(*command)
    at.ready()
    assert "topic 2 of 3, document 1 of 2" in at.screen
    for _ in range(3):
        at.press("2")
        at.wait_for("-> 2")
        at.ready()
    at.press("1")
    at.wait_for("All documents of the budget are judged.")
    code, out = at.end()
    assert (code, json.loads(out)["judged"], json.loads(out)["left"]) == (0, 5, 0)


def test_ctrl_c_and_ctrl_d_leave_and_the_screen_is_safe(terminal: Open) -> None:
    at = terminal("qrels", "judge", *NAMED, "--budget", "4", "--relevant", "2", own=True)
    for _ in range(4):
        at.ready()
        at.press("1")
    at.ready()
    at.press("\x03")
    code, out = at.end()
    assert code == 0
    assert out.splitlines() == ["judged\trelevant\tskipped\tfailed\tleft", "4\t0\t0\t0\t8"]
    assert "[bold]red[/bold] {query} bell" in at.screen
    shown = re.sub(r"\x1b\[[0-9;]*m", "", at.screen)  # what rich draws itself
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
    at = terminal("qrels", "judge", *NAMED, "--budget", "4", "--relevant", "2", own=True)
    at.ready()
    at.press("\x04")
    assert at.end()[0] == 0


def test_a_killed_session_goes_on(terminal: Open, tmp_path: Path) -> None:
    at = terminal(*JUDGE)
    at.ready()
    at.press("2")
    at.wait_for("-> 2")
    at.process.send_signal(signal.SIGKILL)
    at.process.wait()
    assert grades(tmp_path / "j.jsonl") == [2]
    at = terminal(*JUDGE)
    at.ready()
    assert "document 2 of 2" in at.screen
    at.press("q")
    assert at.end()[0] == 0


def test_nothing_is_written_before_the_first_key(terminal: Open, tmp_path: Path) -> None:
    at = terminal(*JUDGE)
    at.ready()
    at.press("q")
    assert at.end()[0] == 0
    assert not (tmp_path / "j.jsonl").exists()


def test_without_a_terminal(cli: Cli, tmp_path: Path) -> None:
    done = cli(*JUDGE, stdin=b"2")
    assert done.returncode == 2
    assert "Standard input" in done.stderr
    assert "--judge llm" in done.stderr
    assert not (tmp_path / "j.jsonl").exists()


def test_what_is_finished_needs_no_terminal(terminal: Open, cli: Cli, tmp_path: Path) -> None:
    """Qrels can be written again from a finished file by a script."""
    (tmp_path / "j.jsonl").write_text("")
    at = terminal("qrels", "judge", *NAMED, "--budget", "total:1")
    at.ready()
    at.press("1")
    assert at.end()[0] == 0
    found = result(cli("qrels", "judge", *NAMED, "--budget", "total:1", "--qrels-out", "q.txt", "--format", "json"))
    assert (found["judged"], found["left"]) == (1, 0)
    assert (tmp_path / "q.txt").read_text().endswith(" 1\n")


def test_a_model_judges(cli: Cli, tmp_path: Path) -> None:
    done = cli(*LLM, "--qrels-out", "q.txt", "--against", "people.txt", "--format", "json")
    found = result(done)
    assert (found["judged"], found["failed"], found["unanswered"], found["left"]) == (6, 0, 0, 0)
    assert found["agreement"]["documents"] == 6
    assert found["agreement"].keys() >= {"table", "kappa", "kappa_linear", "kappa_quadratic", "binary_kappa"}
    assert found["terms"]["model"] == "fake:perfect"
    assert "saved: j.jsonl" in done.stderr
    assert len((tmp_path / "q.txt").read_text().splitlines()) == 6
    again = cli(*LLM, "--qrels-out", "q.txt", "--against", "people.txt", "--format", "json")
    assert result(again) == found
    assert len(rows(tmp_path / "j.jsonl")) == 7
    text = cli(*LLM, "--against", "jsonl:docs")
    assert text.stdout.splitlines()[0].split("\t") == ["judged", "relevant", "skipped", "failed", "left"]
    assert any(line.startswith("kappa quadratic\t") for line in text.stderr.splitlines())


def test_a_model_judges_across_topics(cli: Cli) -> None:
    flags = [word if word != "mtf" else "mtf-global" for word in LLM]
    assert result(cli(*flags, "--format", "json"))["judged"] == 6


def test_a_model_that_does_not_answer(cli: Cli, tmp_path: Path) -> None:
    flags = [word if word != "fake:perfect" else "fake:fail" for word in LLM]
    done = cli(*flags, "--format", "json")
    assert done.returncode == 7
    assert (json.loads(done.stdout)["unanswered"], json.loads(done.stdout)["left"]) == (3, 6)
    assert "3 documents" in done.stderr
    assert not (tmp_path / "j.jsonl").exists()


def test_a_model_is_interrupted(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rerank.backends.fake import Fake

    calls = []
    answer = Fake.generate

    def generate(self: Fake, requests: Any) -> Any:
        calls.append(requests)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return answer(self, requests)

    monkeypatch.setattr(Fake, "generate", generate)
    done = cli(*LLM, "--format", "json")
    assert (done.returncode, json.loads(done.stdout)["judged"]) == (130, 3)
    assert "3 documents remain" in done.stderr
    assert result(cli(*LLM, "--format", "json"))["judged"] == 6


WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("--method", "mft"), 2, "'mft'.*'mtf'"),
    (("--grades", "3,2"), 2, "The grades are 3,2"),
    (("--out", "no/j.jsonl"), 4, "no folder"),
    (("--qrels-out", "j.jsonl"), 2, "both j.jsonl"),
    (("--against", "nobody.txt"), 4, "nobody.txt"),
    (("--batch-size", "4"), 2, "--batch-size is given without --judge llm"),
    (("--judge", "llm", "--model", "fake:perfect", "--prompt", "grades"), 2, "Did you mean 'grade'"),
    (("--judge", "llm", "--model", "fake:perfect", "--grades", "0,1,2"), 2, "0,1,2,3"),
    (("--judge", "llm", "--model", "nobody"), 2, "Unknown model 'nobody'"),
    (("--judge", "llm", "--model", "cross_encoder:x"), 2, "cross_encoder:x"),
    (("--judge", "llm", "--model", "fake:perfect", "--dtype", "int3"), 2, "dtype = 'int3'"),
]


@pytest.mark.parametrize(("flags", "code", "message"), WRONG)
def test_wrong_input(flags: tuple[str, ...], code: int, message: str, cli: Cli, tmp_path: Path) -> None:
    done = cli(*JUDGE, *flags)
    assert (done.returncode, bool(re.search(message, done.stderr))) == (code, True), done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "j.jsonl").exists()


def test_runs_of_another_collection(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.trec").write_text("t0 Q0 d99 1 1 a\n")
    done = cli(*LLM)
    assert done.returncode == 5
    assert "are not in the collection 'docs', including 'd99'" in done.stderr
    (tmp_path / "a.trec").write_text("t77 Q0 d1 1 1 a\n")
    done = cli(*LLM)
    assert all(value in done.stderr for value in ("1 of the 4 topics", "'docs'", "'t77'"))
    assert not (tmp_path / "j.jsonl").exists()


def test_other_options_than_before_are_refused(cli: Cli) -> None:
    result(cli(*LLM, "--format", "json"))
    done = cli(*LLM, "--seed", "1")
    assert (done.returncode, "--seed is 0 in the file and 1 now" in done.stderr) == (2, True)
    done = cli(*JUDGE)
    assert "--judge is llm in the file and person now" in done.stderr
    done = cli(*LLM, "--model", "fake:reversed")
    assert "--model is fake:perfect in the file and fake:reversed now" in done.stderr


@pytest.mark.filterwarnings("default:The last line of")
def test_a_crash_is_told(cli: Cli, tmp_path: Path) -> None:
    result(cli(*LLM, "--format", "json"))
    whole = (tmp_path / "j.jsonl").read_bytes()
    (tmp_path / "j.jsonl").write_bytes(whole[:-9])
    done = cli(*LLM, "--format", "json")
    assert "warning: The last line of j.jsonl, number 7," in done.stderr
    assert result(done)["judged"] == 6
    assert "warning" not in cli(*LLM).stderr


def test_text_for_a_terminal() -> None:
    assert strip_control_characters(_EVIL) == "[bold]red[/bold] {query} bell\n31m turned"
    assert strip_control_characters("a\tb\nc\u2028d é 文 👩\u200d🚀") == "a\tb\nc\nd é 文 👩\u200d🚀"


@pytest.mark.model
def test_the_embedded_model_judges_the_demo_collection(cli: Cli, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")  # the model lies in the user's own
    (tmp_path / "r.trec").write_text(
        "q01 Q0 textwrap.dedent 1 2 r\nq01 Q0 ast.get_docstring 2 1 r\nq02 Q0 textwrap.wrap 1 2 r\n"
    )
    flags = ("--method", "depth", "--budget", "2", "--out", "j.jsonl", "--judge", "llm", "--model", "smollm2-135m")
    words = ("qrels", "judge", "r.trec", "--collection", "pydoc", *flags, "--relevant", "2")
    found = result(cli(*words, "--dtype", "float32", "--against", "pydoc", "--format", "json"))
    assert found["judged"] + found["failed"] == 3
    assert (found["left"], found["unanswered"]) == (0, 0)
    assert found["agreement"]["documents"] <= found["judged"]


@pytest.mark.enable_socket
def test_a_decision_api_judges(cli: Cli) -> None:
    with open_decision_server(decided()) as server:
        model = ("--judge", "llm", "--model", "decisions:m", "--base-url", server.url)
        done = cli(*JUDGE, *model, "--qrels-out", "q.txt", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["judged"] == 2 * TOPICS
    questions = [question for asked in server.asked for question in asked["questions"]]
    assert {question["type"] for question in questions} == {"score"}
    assert set(grades(Path("j.jsonl"))) == {3}  # the server finds the highest grade the most probable


def test_the_keys_of_a_windows_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard module ``msvcrt`` yields characters, two for a special key; Ctrl-C is a character, too."""
    waiting = list("x2\xe0Hq\x1a\x03")
    console = SimpleNamespace(kbhit=lambda: bool(waiting) and waiting[0] == "x", getwch=lambda: waiting.pop(0))
    monkeypatch.setitem(sys.modules, "termios", None)
    monkeypatch.setitem(sys.modules, "msvcrt", console)
    with judging.open_keyboard(sys.stdin) as keys:
        keys.forget()
        assert [keys.press() for _ in range(4)] == ["2", "\x1bH", "q", "\x04"]
        with pytest.raises(KeyboardInterrupt):
            keys.press()
