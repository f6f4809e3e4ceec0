"""`rerank run` and `rerank retrieve`."""

from __future__ import annotations

import gzip
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import BackendError
from rerank.experiment.demo import specify_runs
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


DEMO = ("demo", "--model", "fake:reversed", "--out", "d")


def test_the_demo(cli: Cli) -> None:
    done = cli(*DEMO)
    assert done.returncode == 0
    for words in ("bm25", "fullrank", "sliding", "nDCG@10", "win/tie/loss"):
        assert words in done.stdout
    assert "sliding: 24 calls for 12 queries, fake:reversed" in done.stderr
    assert "fullrank: d/fullrank-fake-reversed-" in done.stderr
    assert "- bm25 is significantly above fullrank: +0.2" in done.stderr
    assert "- sliding is not significantly different from fullrank: +0.0" in done.stderr
    assert len(list(Path("d").glob("sliding-fake-reversed-*/run.trec"))) == 1

    page = Path("d/before-and-after.html")
    assert done.stderr.splitlines()[-1].endswith(str(page))
    html = page.read_text()
    assert html.count("<details") == 12
    assert html.count("<ol>") == 36
    assert html.count("<li>") == 36 * 5 + 2
    assert "://" not in html.replace("data:,", "")  # it needs no other file

    again = cli(*DEMO, "--format", "json")  # from the folders
    report = json.loads(again.stdout)
    assert report["page"] == str(page)
    assert [run["run"] for run in report["comparison"]["runs"]] == ["bm25", "fullrank", "sliding"]
    assert [(row["method"], row["calls"], row["reused_calls"]) for row in report["costs"]] == [
        ("fullrank", 12, 12),
        ("sliding", 24, 24),
    ]
    assert json.loads(cli(*DEMO, "--format", "jsonl").stdout)["costs"] == report["costs"]


def test_a_terminal_gets_fewer_columns_unless_it_is_wide(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "--wide shows them" in cli(*DEMO).stdout
    assert "not shown" not in cli(*DEMO, "--wide").stdout


def test_all_questions(cli: Cli) -> None:
    report = json.loads(cli(*DEMO, "--all", "--format", "json").stdout)
    assert report["comparison"]["queries"] >= 60
    assert all(row["windows"]["ok"] == row["calls"] for row in report["costs"])


def test_the_demo_of_the_embedded_model_has_its_default_and_one_flag_more() -> None:
    default, fullrank, adapter = specify_runs(model="smollm2-135m")
    assert (default.method, fullrank.method, adapter.adapter) == ("auto", "fullrank", "smollm2-135m-attention")
    assert not {"method", "prompt", "max_passage_tokens"} & default.model_fields_set


def test_the_model_is_got_first(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.errors import MissingResourceError

    asked = []

    def pull(name: str, **_: object) -> Path:
        asked.append(name)
        raise MissingResourceError("No network")

    monkeypatch.setattr("rerank.models.download.pull_model", pull)
    done = cli("demo")
    assert (done.returncode, asked) == (4, ["smollm2-135m"])


@pytest.fixture
def requests(data: Path) -> tuple[str, ...]:
    return ("--collection", f"requests:{data / 'requests' / 'rank_llm.jsonl'}", "--model", "fake:reversed")


def test_the_given_lists_are_reranked_whole(cli: Cli, requests: tuple[str, ...]) -> None:
    done = cli("rerank", *requests)
    assert done.returncode == 0
    assert done.stderr.startswith("windows: 2 ok\n")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [(row[0], row[2]) for row in rows] == [
        ("t1", "p3"),
        ("t1", "p2"),
        ("t1", "p1"),
        ("2", "2:3"),
        ("2", "p4"),
        ("2", "p2"),
    ]
    assert [row[3] for row in rows] == ["1", "2", "3"] * 2
    assert all(len(row) == 6 for row in rows)


def test_a_search_in_a_file_of_lists_names_the_first_stage_of_its_candidates(
    cli: Cli, requests: tuple[str, ...]
) -> None:
    note = "with --first-stage candidates, its own candidates are reranked"
    for flags, noted in (((), True), (("--first-stage", "bm25"), False), (("--first-stage", "candidates"), False)):
        done = cli("run", *requests, *flags, "--dry-run")
        assert (done.returncode, note in done.stderr) == (0, noted)


def test_output_to_a_file(cli: Cli, requests: tuple[str, ...]) -> None:
    shown = cli("rerank", *requests).stdout
    assert cli("rerank", *requests, "-o", "out.trec").stdout == ""
    assert Path("out.trec").read_text() == shown
    assert cli("rerank", *requests, "--output", "out.trec.gz").returncode == 0
    assert gzip.decompress(Path("out.trec.gz").read_bytes()).decode() == shown


def test_jsonl_has_rank_llms_shape(cli: Cli, requests: tuple[str, ...]) -> None:
    done = cli("rerank", *requests, "--format", "jsonl")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["query"] for row in rows] == [
        {"text": "how to tune a drum", "qid": "t1"},
        {"text": "怎样给鼓调音", "qid": "2"},
    ]
    first = rows[0]["candidates"]
    assert [hit["docid"] for hit in first] == ["p3", "p2", "p1"]
    assert first[2]["doc"] == {"title": "Drums", "text": "Turn the rods a little at a time, crosswise."}
    assert first[0]["doc"] == {"text": "Cellos have four strings."}
    scores = [hit["score"] for hit in first]
    assert scores == sorted(scores, reverse=True)
    assert json.loads(cli("rerank", *requests, "--format", "json").stdout) == rows

    assert cli("rerank", *requests, "--format", "jsonl", "-o", "out.jsonl").stdout == ""
    assert Path("out.jsonl").read_text() == done.stdout
    again = cli("rerank", "--collection", "requests:out.jsonl", "--model", "fake:reversed")  # what we write, we read
    assert [line.split()[2] for line in again.stdout.splitlines()[:3]] == ["p1", "p2", "p3"]


@pytest.mark.parametrize("name", ["rankgpt.json", "rankify.jsonl"])
def test_other_dialects(cli: Cli, data: Path, name: str) -> None:
    done = cli("rerank", "--collection", f"requests:{data / 'requests' / name}", "--model", "fake:reversed")
    assert [line.split()[2] for line in done.stdout.splitlines()] in (["p3", "p1"], ["p1", "p3"])


def test_a_run_over_a_collection(cli: Cli, data: Path) -> None:
    collection = ("--collection", f"jsonl:{data / 'jsonl'}")
    cli("retrieve", *collection, "-o", "bm25.trec")
    first = Path("bm25.trec").read_text().splitlines()
    done = cli("rerank", *collection, "--first-stage", "run:bm25.trec", "--model", "fake:reversed")
    assert done.returncode == 0
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[2] for row in rows if row[0] == "q1"] == [line.split()[2] for line in first if line[:2] == "q1"][::-1]
    assert {row[5] for row in rows} == {"fullrank"}


def test_failures_come_after_the_output(cli: Cli, requests: tuple[str, ...]) -> None:
    done = cli("rerank", *requests[:-1], "fake:fail")
    assert done.returncode == 7
    assert [line.split()[2] for line in done.stdout.splitlines()[:3]] == ["p1", "p2", "p3"]  # the given order
    assert "100% of the windows failed" in done.stderr
    allowed = cli("rerank", *requests[:-1], "fake:fail", "--max-failure-rate", "1", "--resume")
    assert allowed.returncode == 0
    assert "windows: 2 error" in allowed.stderr


def test_an_output_that_cannot_be_written_is_found_before_the_first_call(cli: Cli, requests: tuple[str, ...]) -> None:
    for form in ("text", "jsonl"):
        done = cli("rerank", *requests, "--out", f"run-{form}", "--format", form, "-o", "no/such/folder/x")
        assert (done.returncode, done.stdout) == (4, "")
        assert "no folder" in done.stderr
        assert not Path(f"run-{form}").exists()


def test_a_dry_run_of_robustness_asks_nothing(cli: Cli, lists: tuple[str, ...]) -> None:
    done = cli("robustness", *lists, "--dry-run", "--format", "json")
    expected = json.loads(done.stdout)
    assert (expected["runs"], expected["calls"], expected["cost"]) == (5, 20, None)
    assert cli("robustness", *lists, "--dry-run").stdout.splitlines()[1].endswith("\tunknown")
    assert not Path("runs").exists()


#: A cap at which only some of the calls are made, so that the run stays unfinished.
CAP = ("--max-total-tokens", "700")


@pytest.fixture
def stopped(cli: Cli, lists: tuple[str, ...]) -> Path:
    """The folder of an unfinished run with options that are not the defaults."""
    done = cli("run", *lists, "--method", "sliding,size=4,stride=2", "--depth", "9", *CAP, "--out", "a")
    assert done.returncode == 7, done.stderr
    return Path("a")


def summary_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return content


def test_omitted_options_come_from_the_folder(cli: Cli, stopped: Path) -> None:
    done = cli("run", "--resume", "--out", stopped)
    assert done.returncode == 0, done.stderr
    summary = summary_of(stopped)
    assert (summary["complete"], summary["depth"], summary["method"]) == (True, 9, "sliding,size=4,stride=2")
    assert 0 < summary["reused_calls"] < summary["calls"]
    assert cli("verify", stopped).returncode == 0


def test_calls_that_no_request_matches_are_counted(cli: Cli, stopped: Path) -> None:
    with closing(sqlite3.connect(stopped / "calls.sqlite")) as log, log:
        log.execute("DELETE FROM checksums WHERE digest = (SELECT digest FROM calls WHERE rowid = 1)")
        log.execute("UPDATE calls SET digest = 'of another prompt' WHERE rowid = 1")
    done = cli("run", "--resume", "--out", stopped)
    assert done.returncode == 0, done.stderr
    assert summary_of(stopped)["unmatched_calls"] == 1
    assert "1 logged calls match no request" in done.stderr
    assert cli("verify", stopped).returncode == 0


def test_a_damaged_log_is_found_before_new_calls_are_made(cli: Cli, stopped: Path) -> None:
    with closing(sqlite3.connect(stopped / "calls.sqlite")) as log, log:
        log.execute("UPDATE calls SET text = 'another reply' WHERE rowid = 1")
        before = log.execute("SELECT count(*) FROM calls").fetchone()
    done = cli("run", "--resume", "--out", stopped)
    assert done.returncode == 5
    assert "--repair" in done.stderr
    with closing(sqlite3.connect(stopped / "calls.sqlite")) as log:
        assert log.execute("SELECT count(*) FROM calls").fetchone() == before
    assert "calls" in cli("verify", "--repair", stopped).stderr
    assert cli("run", "--resume", "--out", stopped).returncode == 0


def test_without_out_nothing_is_read(cli: Cli, stopped: Path) -> None:
    done = cli("run", "--resume")
    assert done.returncode == 2
    assert "--collection" in done.stderr


def test_without_resume_nothing_is_read(cli: Cli, stopped: Path) -> None:
    done = cli("run", "--out", stopped)
    assert done.returncode == 2
    assert "--collection" in done.stderr


def test_a_given_option_replaces_the_recorded_one(cli: Cli, stopped: Path) -> None:
    other = cli("run", "--resume", "--out", stopped, "--depth", "8")
    assert other.returncode == 2
    assert "depth is 9 there and 8 here" in other.stderr
    done = cli("run", "--resume", "--out", stopped, "-m", "AP")  # not part of the identity
    assert done.returncode == 0, done.stderr
    assert list(summary_of(stopped)["scores"]) == ["AP"]


def test_a_folder_of_another_command_names_that_command(cli: Cli, lists: tuple[str, ...]) -> None:
    """`rerank rerank` uses all queries, `rerank run` those with judgments."""
    judged = Path("qrels.txt").read_text(encoding="utf-8")
    Path("qrels.txt").write_text("\n".join(judged.splitlines()[:36]), encoding="utf-8")  # the last query has none
    created = cli("rerank", *lists, "--out", "a")
    assert created.returncode == 0, created.stderr
    other = cli("run", "--resume", "--out", "a")
    assert other.returncode == 2
    assert "its candidates" in other.stderr
    assert "rerank rerank --resume" in other.stderr
    assert json.loads(Path("a/spec.json").read_text())["identity"]["first_stage"][:12] not in other.stderr
    assert cli("rerank", "--resume", "--out", "a").returncode == 0
