"""`rerank run` and `rerank retrieve`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import BackendError
from rerank.io.run_files import read_run
from rerank.store import RunFolder
from tests.cli.conftest import Cli

STATUSES = ["ok", "repaired", "partial", "empty", "refused", "error"]


def test_json_is_the_contract(cli: Cli, lists: tuple[str, ...]) -> None:
    done = cli("run", *lists, "--method", "fullrank", "--depth", "100", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert summary["queries"] == 4
    assert summary["scores"] == {"nDCG@10": 1.0}
    assert list(summary["first_stage_scores"]) == ["nDCG@10"]
    assert list(summary["windows"]) == STATUSES
    assert summary["windows"]["ok"] == summary["calls"] == 4
    assert summary["reused_calls"] == 0
    for key, kind in (("tokens_in", int), ("tokens_out", int), ("seconds", float), ("folder", str)):
        assert isinstance(summary[key], kind)
    assert Path(summary["folder"]).parent == Path("runs")
    assert Path(summary["folder"], "run.trec").is_file()


def test_jsonl_is_one_line_with_the_same(cli: Cli, lists: tuple[str, ...]) -> None:
    whole = cli("run", *lists, "--out", "a", "--format", "json")
    (line,) = cli("run", *lists, "--out", "a", "--format", "jsonl").stdout.splitlines()
    assert json.loads(line) == json.loads(whole.stdout) | {"reused_calls": 4}


def test_text_when_piped_is_tabs_on_stdout_and_notes_on_stderr(cli: Cli, lists: tuple[str, ...]) -> None:
    done = cli("run", *lists, "--out", "a", "-m", "nDCG@10", "-m", "P@5")
    assert done.returncode == 0
    head, first, reranked = done.stdout.splitlines()
    assert head.split("\t") == ["", "nDCG@10", "P@5"]
    assert first.startswith("first stage\t0.")
    assert reranked == "fullrank\t1.0000\t1.0000"
    for words in ("windows: 4 ok", "calls: 4 (0 reused)", "folder: a"):
        assert words in done.stderr


def test_judged_queries_without_a_list_are_mentioned(cli: Cli, lists: tuple[str, ...]) -> None:
    Path("first.trec").write_text("q0 Q0 d0-1 1 2.0 x\nq0 Q0 d0-2 2 1.0 x\n")
    flags = [flag if flag != "candidates" else "run:first.trec" for flag in lists]
    done = cli("run", *flags)
    assert done.returncode == 0
    assert "3 judged queries" in done.stderr


def test_flags_may_have_underscores(cli: Cli, lists: tuple[str, ...]) -> None:
    done = cli("run", *lists, "--max_queries", "2", "--max_failure_rate", "1", "--format", "json")
    assert json.loads(done.stdout)["queries"] == 2


def test_a_finished_folder_answers_and_overwrite_starts_again(cli: Cli, lists: tuple[str, ...]) -> None:
    def reused(*flags: str) -> int:
        return int(json.loads(cli("run", *lists, "--out", "a", "--format", "json", *flags).stdout)["reused_calls"])

    assert [reused(), reused(), reused("--overwrite"), reused("--resume")] == [0, 4, 0, 4]


def test_another_run_in_the_folder_is_refused(cli: Cli, lists: tuple[str, ...]) -> None:
    cli("run", *lists, "--out", "a")
    done = cli("run", *lists, "--out", "a", "--depth", "3")
    assert (done.returncode, done.stdout) == (2, "")
    assert all(value in done.stderr for value in ("'a'", "--out", "--overwrite"))
    assert cli("run", *lists, "--out", "a", "--depth", "3", "--overwrite").returncode == 0


def test_a_run_that_was_stopped_wants_a_word(cli: Cli, lists: tuple[str, ...]) -> None:
    model = ("--model", "fake:reversed,batch_size=1")
    capped = cli("run", *lists, *model, "--out", "a", "--max-total-tokens", "600")
    assert capped.returncode == 7  # more than a fifth was not asked any more
    assert "--max-total-tokens 600" in capped.stderr
    done = cli("run", *lists, *model, "--out", "a")
    assert done.returncode == 2
    assert "Pass --resume" in done.stderr
    resumed = json.loads(cli("run", *lists, *model, "--out", "a", "--resume", "--format", "json").stdout)
    assert resumed["calls"] == 4
    assert 0 < resumed["reused_calls"] < 4


def test_interrupt_keeps_what_is_committed(cli: Cli, lists: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.backends.fake import Fake

    whole = Fake.generate

    def generate(self: Fake, requests: Any) -> Any:
        if self.served:
            raise KeyboardInterrupt
        return whole(self, requests)

    monkeypatch.setattr(Fake, "generate", generate)
    done = cli("run", *lists, "--out", "a", "--batch-size", "1")
    assert (done.returncode, done.stdout) == (130, "")
    assert "the same command with --resume" in done.stderr
    monkeypatch.undo()


def test_dry_run_asks_nothing(cli: Cli, lists: tuple[str, ...], tmp_path: Path) -> None:
    flags = (*lists, "--dry-run", "--method", "sliding", "--window-size", "4", "--stride", "2")
    done = cli("run", *flags, "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    expected = json.loads(done.stdout)
    assert list(expected) == ["queries", "calls", "tokens_in", "tokens_out", "cost"]
    assert (expected["queries"], expected["calls"], expected["cost"]) == (4, 20, None)
    assert not Path("runs").exists()
    head, values = cli("run", *flags).stdout.splitlines()
    assert head.split("\t") == list(expected)
    assert values.endswith("\tunknown")

    prices = tmp_path / "config" / "listrank" / "prices.toml"
    prices.parent.mkdir(parents=True)
    prices.write_text('["fake:perfect"]\ninput = 1\noutput = 2\n')
    priced = json.loads(cli("run", *flags, "--format", "json").stdout)
    assert priced["cost"] == pytest.approx((priced["tokens_in"] + 2 * priced["tokens_out"]) / 1e6)


def test_a_toml_spec_says_everything_and_flags_win(cli: Cli, lists: tuple[str, ...]) -> None:
    Path("spec.toml").write_text(
        'collection = "requests:lists.jsonl"\nfirst-stage = "candidates"\nqrels = "qrels.txt"\n'
        'model = "fake:reversed"\nmethod = "sliding"\nwindow_size = 4\nstride = 2\ndepth = 8\n'
        'measures = ["P@5", "AP"]\nout = "from-toml"\nresume = true\nbatch_size = 2\n'
    )
    summary = json.loads(cli("run", "--spec", "spec.toml", "--format", "json").stdout)
    assert (summary["folder"], summary["method"], summary["calls"]) == ("from-toml", "sliding", 12)
    assert list(summary["scores"]) == ["P@5", "AP"]
    flags = ("--depth", "4", "-m", "RR", "--out", "elsewhere", "--format", "json")
    other = json.loads(cli("run", "--spec", "spec.toml", *flags).stdout)
    assert (other["folder"], other["calls"], list(other["scores"])) == ("elsewhere", 4, ["RR"])
    assert RunFolder("elsewhere").spec()["spec"]["method"] == "sliding"


def test_a_switch_in_the_toml_stays_on(cli: Cli, lists: tuple[str, ...]) -> None:
    Path("spec.toml").write_text("overwrite = true\nmax_failure_rate = 0.5")
    for _ in range(2):
        summary = json.loads(cli("run", *lists, "--spec", "spec.toml", "--out", "a", "--format", "json").stdout)
        assert summary["reused_calls"] == 0
    assert RunFolder("a").spec()["spec"]["max_failure_rate"] == 0.5


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"colection = 'x'", 2, "Did you mean 'collection'"),
        (b"batch_sise = 3", 2, "Did you mean 'batch_size'"),
        (b"collection = 5", 2, "--collection is 5"),
        (b"collection = 'pydoc'\nmeasures = 'AP'", 2, "--measures is 'AP'"),
        (b"collection", 5, "TOML"),
        (b"\xff\xfe", 5, "UTF-8"),
        (None, 4, "no file"),
    ],
)
def test_specs_that_are_wrong(cli: Cli, content: bytes | None, code: int, message: str) -> None:
    if content is not None:
        Path("spec.toml").write_bytes(content)
    done = cli("run", "--spec", "spec.toml")
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr


def test_retrieve_writes_a_run(cli: Cli, data: Path) -> None:
    flags = ("retrieve", "--collection", f"jsonl:{data / 'jsonl'}", "--first-stage", "bm25,k1=1.2", "--depth", "2")
    done = cli(*flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert cli(*flags, "-o", "bm25.trec").stdout == ""
    assert Path("bm25.trec").read_text() == done.stdout
    run = read_run(Path("bm25.trec"))
    assert run["q3"].doc_ids == ("4",)
    assert all(len(ranking) <= 2 for ranking in run.values())


def test_retrieve_tells_the_measures_that_are_asked(cli: Cli, data: Path) -> None:
    done = cli("retrieve", "--collection", f"jsonl:{data / 'jsonl'}", "-m", "P@1", "-o", "bm25.trec")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("P@1: ")


@pytest.mark.parametrize("stage", ["bm25", "run:bm25.trec", "hybrid:bm25+(run:bm25.trec)"])
def test_retrieve_tells_what_it_took(cli: Cli, data: Path, stage: str) -> None:
    collection = ("retrieve", "--collection", f"jsonl:{data / 'jsonl'}")
    cli(*collection, "-o", "bm25.trec")
    asked = (*collection, "--first-stage", stage, "-m", "nDCG@10", "-m", "P@1", "--format", "json")
    done = cli(*asked, "--out", "again.trec")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert list(told) == ["run", "queries", "seconds", "index_mb", "scores"]
    assert (told["run"], told["queries"]) == ("again.trec", len(read_run(Path("again.trec"))))
    assert (told["index_mb"] > 0) is ("bm25" in stage.removeprefix("run:bm25"))
    assert told["seconds"] > 0
    assert list(told["scores"]) == ["nDCG@10", "P@1"]
    scored = cli("eval", "--qrels", data / "jsonl/qrels.txt", "again.trec", *asked[-6:])
    assert told["scores"] == json.loads(scored.stdout)["runs"][0]["scores"]
    bare = cli(*asked)
    assert json.loads(bare.stdout) | {"seconds": 0} == told | {"seconds": 0, "run": None}
    assert "--out FILE" in bare.stderr


def test_beirs_rule_drops_the_query_itself(cli: Cli, data: Path) -> None:
    def rows(options: str) -> list[list[str]]:
        done = cli("retrieve", "--collection", f"beir:{data / 'beir'}{options}")
        return [line.split() for line in done.stdout.splitlines()]

    assert [row for row in rows("") if row[0] == row[2]] == []
    assert [row for row in rows(",drop_self=false") if row[0] == row[2]] != []


def test_help_has_examples_and_defaults(cli: Cli) -> None:
    for command in ("run", "retrieve", "rerank"):
        done = cli(command, "--help")
        assert done.returncode == 0
        words = " ".join(done.stdout.replace("│", " ").split())
        assert f"Example: rerank {command} " in words
        assert "(default: 100)" in words
        assert "--spec" in words
        if command != "retrieve":  # which asks no model
            assert "(default: auto)" in words
            for flag in ("--device", "--dtype", "--batch-size", "--max-total-tokens"):
                assert flag in words


@pytest.mark.parametrize("command", ["run", "retrieve", "rerank"])
def test_the_example_in_the_help_parses(cli: Cli, command: str) -> None:
    import shlex

    from typer.main import get_command

    from rerank.cli.app import app

    root: Any = get_command(app)
    words = shlex.split(root.commands[command].epilog.removeprefix("Example: rerank "))
    done = cli(*words, "--spec", "no-such-file.toml")
    assert done.returncode == 4, done.stderr  # every flag was known; the file is looked for after that


def test_a_progress_bar_on_a_terminal_only(
    cli: Cli, lists: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = cli("run", *lists, "--out", "a", "--format", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["calls"] == 4
    assert "fullrank" in done.stderr
    assert "4/4" in done.stderr


def test_a_drawn_table_on_a_terminal(cli: Cli, lists: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    done = cli("run", *lists, "--out", "a")
    assert "\t" not in done.stdout
    assert "first stage" in done.stdout
    assert [line.split()[-1] for line in done.stdout.splitlines()[:2]] == ["nDCG@10", "0.5347"]
    assert cli("run", *lists, "--out", "a", "--format", "json").stdout.startswith("{\n  ")


@pytest.mark.filterwarnings("ignore:The server .* does not answer")
@pytest.mark.enable_socket
def test_several_servers_are_named_if_none_answers(cli: Cli, lists: tuple[str, ...]) -> None:
    addresses = [f"http://127.0.0.1:{port}/v1" for port in (1, 2)]
    model = ("--model", "openai:m", "--method", "fullrank", "--context-size", "4096", "--retries", "0", "--out", "a")
    done = cli("run", *lists, *model, *(flag for address in addresses for flag in ("--base-url", address)))
    assert (done.returncode, done.stdout) == (BackendError.exit_code, "")
    assert all(address in done.stderr for address in addresses)
    assert json.loads(Path("a/spec.json").read_text())["spec"]["base_url"] == addresses
