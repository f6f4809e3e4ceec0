"""Who may get the API key, and what may permit remote code: every file that can ask for it, in every command."""

# ruff: noqa: F811  # fixtures of the command line are imported, and are the parameters of tests

from __future__ import annotations

import itertools
import json
import logging
import random
import sqlite3
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from rerank import Reranker
from rerank.backends.openai import Openai
from rerank.cli import main
from rerank.errors import RerankError, UsageError
from rerank.experiment import prepare_run, run_experiment, verify_run_folder
from rerank.experiment.spec import Execution, RunSpec
from rerank.finetune.recipe import read_recipe
from rerank.leaderboard.suites.suite import read_suite
from rerank.store import RunFolder
from rerank.tasks import BackendOptions
from rerank.types import Window
from tests.attacks.scale import scaled_count
from tests.backends.faulty_server import Act, FaultyServer, error, models, raw, said
from tests.cli.conftest import Cli, cli, lists, own_folders  # noqa: F401
from tests.raising import raises

pytestmark = [pytest.mark.enable_socket, pytest.mark.filterwarnings("ignore:The server ignores")]

KEY = "sk-proj/Secret+of-this=test"
#: Every command that takes a run specification and asks a model: flags besides the specification.
WITH_SPEC: dict[str, tuple[str, ...]] = {
    "run": ("--out", "out"),
    "run --dry-run": ("--out", "out"),
    "rerank": ("--out", "out"),
    "robustness": ("--out", "out"),
    "label make": ("--output", "labels.jsonl", "--out", "out"),
}
#: The same for suites: the place of the address in the file.
IN_SUITES = {
    "options": 'models = ["openai:m"]\n[options]\nbase-url = "{url}"',
    "reranker": '[[rerankers]]\nmodel = "openai:m"\nbase_url = "{url}"',
    "data folder": 'models = ["openai:m"]\n[options]\nbase_url = "{start}{{data}}"',
}


def share_of(*values: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the share of all combinations that is tried."""
    whole = list(itertools.product(*values))
    return random.Random(0).sample(whole, scaled_count(len(whole)))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RERANK_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    """A server that answers well, and notes the keys that it gets."""
    with FaultyServer([said("[2] > [1]", tokens=500)], listing=models("m", max_model_len=50000)) as opened:
        yield opened


def write_spec(flags: tuple[str, ...], url: str, **more: str) -> None:
    """Write a specification of the lists with a server of the file's own."""
    values = {flag.removeprefix("--"): value for flag, value in zip(flags[::2], flags[1::2], strict=True)}
    values |= {"model": "openai:m", "base-url": url, **more}
    Path("spec.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))


def write_suite(place: str, url: str) -> None:
    """Write a suite of the lists with a server of the file's own."""
    start, end = url[:-2], url[-2:]
    assert end == "v1"
    table = '{collection = "requests:lists.jsonl", qrels = "qrels.txt"}'
    text = f'name = "s"\ncollections = [{table}]\nfirst_stages = ["candidates"]\n'
    Path("suite.toml").write_text(text + IN_SUITES[place].format(url=url, start=start))


def interrupted_folder(flags: tuple[str, ...], server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leave a folder of somebody else's whose run is unfinished, so that continuing it asks its server."""
    good, server.acts = server.acts, [error(400, "too long")]
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert main_code(
        monkeypatch, "run", *flags[:-2], "--model", "openai:m", "--base-url", server.url, "--out", "theirs"
    )
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.acts = good
    server.asked.clear()
    return Path("theirs")


def main_code(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line without looking at its output."""
    monkeypatch.setattr("sys.argv", ["rerank", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def refused(done: Any, server: FaultyServer) -> bool:
    """Return whether a command ended without a traceback, named the address, and sent nothing."""
    assert done.returncode in (2, 7), done
    assert "Traceback" not in done.stderr
    assert server.url in done.stderr
    assert (server.asked, server.looked, server.seen_keys) == ([], [], set())
    return True


@pytest.mark.parametrize("command", WITH_SPEC)
def test_a_specification_gets_no_key(command: str, cli: Cli, lists: tuple[str, ...], server: FaultyServer) -> None:
    write_spec(lists, server.url)
    assert refused(cli(*command.split(), "--spec", "spec.toml", *WITH_SPEC[command]), server)


@pytest.mark.parametrize("way", ["flag", "environment", "configuration", "no key", "empty key"])
def test_the_user_may_name_the_server(
    way: str, cli: Cli, lists: tuple[str, ...], server: FaultyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_spec(lists, server.url)
    if way == "environment":
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/")
    elif way == "configuration":
        (tmp_path / "config" / "listrank").mkdir(parents=True)
        (tmp_path / "config" / "listrank" / "config.toml").write_text(f'key_addresses = ["{server.url}"]')
    elif way == "no key":
        monkeypatch.delenv("OPENAI_API_KEY")
    elif way == "empty key":
        monkeypatch.setenv("RERANK_API_KEY", "")
    flag = ("--base-url", server.url) if way == "flag" else ()
    done = cli("run", "--spec", "spec.toml", "--out", "out", *flag)
    assert done.returncode == 0, done.stderr
    assert server.seen_keys == ({""} if "key" in way else {f"Bearer {KEY}"})


@pytest.mark.parametrize(
    "other", ["http://localhost:9/v1", "https://api.openai.com/v2", "https://api.openai.com.evil/v1"]
)
def test_naming_one_server_does_not_name_another(
    other: str, cli: Cli, lists: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, server: FaultyServer
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    write_spec(lists, other)
    done = cli("run", "--spec", "spec.toml", "--out", "out")
    assert (done.returncode, server.seen_keys) == (2, set())
    assert other in done.stderr


@pytest.mark.parametrize(
    "text",
    ["key_adresses = []", "key_addresses = 'https://a.b/v1'", "key_addresses = [1]", "key_addresses = ['x']", "="],
)
def test_a_broken_configuration_permits_nothing(
    text: str, cli: Cli, lists: tuple[str, ...], server: FaultyServer, tmp_path: Path
) -> None:
    (tmp_path / "config" / "listrank").mkdir(parents=True)
    (tmp_path / "config" / "listrank" / "config.toml").write_text(text)
    write_spec(lists, server.url)
    done = cli("run", "--spec", "spec.toml", "--out", "out")
    assert done.returncode in (2, 5)
    assert server.seen_keys == set()


@pytest.mark.parametrize("place", IN_SUITES)
@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--model", "openai:m")])
def test_a_suite_gets_no_key(
    place: str, more: tuple[str, ...], cli: Cli, lists: tuple[str, ...], server: FaultyServer
) -> None:
    write_suite(place, server.url)
    done = cli("bench", "suite.toml", "--data", "v1", *more)
    if place == "reranker" and "--model" in more:  # which replaces the file's rerankers
        assert server.seen_keys == set()
    else:
        assert refused(done, server)


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--resume", "--out", "theirs"),
        ("run", "--spec", "theirs/spec.json", "--out", "mine"),
        ("rerank", "--spec", "theirs/spec.json", "--out", "mine"),
        ("rerank", "--resume", "--out", "theirs"),
        ("robustness", "--spec", "theirs/spec.json", "--out", "mine"),
    ],
    ids=" ".join,
)
def test_a_run_folder_gets_no_key(
    words: tuple[str, ...], cli: Cli, lists: tuple[str, ...], server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_folder(lists, server, monkeypatch)
    server.looked.clear()
    server.seen_keys.clear()
    assert refused(cli(*words), server)
    if "run" in words and "--resume" in words:
        assert cli(*words, "--base-url", server.url).returncode == 0
        assert server.seen_keys == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "theirs"),
        ("replay", "theirs"),
        ("calibrate", "theirs", "--out", "calibration.json"),
        ("leaderboard", "build", "theirs", "--out", "site"),
        ("eval", "theirs", "--qrels", "qrels.txt"),
        ("compare", "theirs", "theirs", "--qrels", "qrels.txt"),
    ],
    ids=" ".join,
)
def test_looking_at_a_folder_asks_nobody(
    words: tuple[str, ...], cli: Cli, lists: tuple[str, ...], server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_folder(lists, server, monkeypatch)
    server.looked.clear()
    server.seen_keys.clear()
    done = cli(*words)
    assert "Traceback" not in done.stderr
    assert (server.asked, server.looked, server.seen_keys) == ([], [], set())


def test_in_python_the_caller_names_the_server(
    lists: tuple[str, ...], server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    Reranker.from_pretrained("openai:m", base_url=server.url).rank("q", ["a", "b"])
    Openai.connect("m", BackendOptions(base_url=server.url)).tokens.context_size  # noqa: B018  # it asks the server
    spec = RunSpec(**fields_of(lists) | {"model": "openai:m", "base_url": server.url})
    run_experiment(spec, Execution(out=Path("mine"), call_cache=False))
    assert server.seen_keys == {f"Bearer {KEY}"}
    server.seen_keys.clear()
    recorded = RunSpec.from_record(RunFolder("mine").spec()["spec"])
    with raises(UsageError, server.url):
        prepare_run(recorded, Execution(out=Path("other")))
    assert verify_run_folder(RunFolder("mine")) == []
    monkeypatch.setenv("OPENAI_API_KEY", "")  # a key that is set later is not sent either
    backend = prepare_run(recorded, Execution(out=Path("other"))).backend
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with raises(UsageError, server.url):
        backend.generate(prepare_requests(recorded))
    assert server.seen_keys <= {""}


def prepare_requests(spec: RunSpec) -> Any:
    """Return one request of a run, made without its server."""
    prepared = prepare_run(spec.model_copy(update={"model": "fake:perfect", "base_url": None}), Execution())
    ranking = next(iter(prepared.first_stage.values()))
    return prepared.judge.requests(Window(ranking.query, ranking.docs))


#: Ways to permit remote code in a TOML file.
PERMISSIONS = (
    "trust_remote_code = true",
    "trust-remote-code = true",
    'trust_remote_code = "yes"',
    "trust_remote_code = 1",
    'trust_remote_code = "false"',
    'first_stage = "dense:some/model,trust_remote_code=true"',
    'first-stage = "dense:some/model,trust-remote-code=YES"',
    'first-stage = "hybrid:(sparse:some/model,trust_remote_code=1)+bm25"',
)


@pytest.mark.parametrize(
    ("line", "command"),
    share_of(PERMISSIONS, ("run", "rerank", "robustness", "retrieve", "label make", "heads select")),
)
def test_a_specification_cannot_permit_remote_code(line: str, command: str, cli: Cli, lists: tuple[str, ...]) -> None:
    if "first" in line:
        lists = tuple(x for x in lists if x not in ("--first-stage", "candidates"))
    model = () if command == "retrieve" else ("--model", "some/model")
    Path("spec.toml").write_text(line)
    files = {"heads select": ("--output", "heads.json"), "label make": ("--output", "labels.jsonl")}
    done = cli(*command.split(), *lists[:-2], *model, "--spec", "spec.toml", *files.get(command, ()))
    assert (done.returncode, "spec.toml" in done.stderr) == (2, True), done.stderr
    assert "trust" in done.stderr


@pytest.mark.parametrize("line", PERMISSIONS)
def test_a_run_folder_cannot_permit_remote_code(line: str, cli: Cli, lists: tuple[str, ...]) -> None:
    assert cli("run", *lists, "--out", "theirs").returncode == 0
    spec = RunFolder("theirs").spec()
    spec["spec"] |= {name.replace("-", "_"): value for name, value in tomllib.loads(line).items()}
    Path("theirs/spec.json").write_text(json.dumps(spec))
    for words in (("run", "--resume", "--out", "theirs"), ("run", "--spec", "theirs/spec.json", "--out", "new")):
        done = cli(*words)
        assert (done.returncode, "trust" in done.stderr) == (2, True), done.stderr


def permitting_file(line: str, where: str) -> str:
    """Return the text of a suite or recipe with a line that permits remote code."""
    is_first_stage = line.startswith("first")
    if where == "recipe":
        before, after = ("", f'[validation]\ncollection = "pydoc"\n{line}') if is_first_stage else (line, "")
        return f'{before}\n[data]\nlists = ["x.jsonl"]\n{after}\n'
    suite = 'name = "s"\ncollections = ["pydoc"]\n'
    if is_first_stage:
        return f'{suite}models = ["some/model"]\nfirst_stages = [{line.partition(" = ")[2]}]\n'
    return (
        f'{suite}[[rerankers]]\nmodel = "some/model"\n{line}\n'
        if where == "reranker"
        else (f'{suite}models = ["some/model"]\n[options]\n{line}\n')
    )


@pytest.mark.parametrize(("line", "where"), share_of(PERMISSIONS, ("options", "reranker", "recipe")))
def test_a_suite_or_recipe_cannot_permit_remote_code(line: str, where: str, cli: Cli) -> None:
    Path("file.toml").write_text(permitting_file(line, where))
    read: Callable[..., object] = read_recipe if where == "recipe" else read_suite
    with raises(UsageError, "file.toml", "trust"):
        read("file.toml")
    words = ("train", "file.toml", "--out", "o") if where == "recipe" else ("bench", "file.toml", "--dry-run")
    done = cli(*words)
    assert (done.returncode, "file.toml" in done.stderr) == (2, True)
    # with the user's permission, the file is read, and only true is a permission
    is_word = line.startswith("trust") and not line.endswith(" = true")
    with pytest.raises(UsageError) if is_word else nullcontext():
        read("file.toml", trust_remote_code=True)


@pytest.mark.parametrize("value", ["yes", "true", 1, "on"])
def test_a_word_is_not_a_permission_in_python_either(value: Any) -> None:
    with raises(UsageError, "trust_remote_code"):
        Reranker.from_pretrained("fake:perfect", trust_remote_code=value)
    with raises(UsageError, "trust-remote-code"):
        RunSpec.make({"collection": "pydoc", "trust_remote_code": value})


def escaped(text: str) -> str:
    """Return the text as JSON may write it."""
    return "".join(f"\\u{ord(c):04x}" if n % 2 else c for n, c in enumerate(text))


def said_with(text: str, place: str) -> Act:
    """Return a good answer that repeats a text somewhere."""
    body = json.loads(said("[2] > [1]", tokens=500).body)
    if place == "reply":
        body["choices"][0]["message"]["content"] = f"[2] > [1] {text}"
    elif place == "thoughts":
        body["choices"][0]["message"]["reasoning_content"] = text
    elif place == "names":
        body |= {"model": text, "system_fingerprint": text, text: text}
    elif place == "finish reason":
        body["choices"][0]["finish_reason"] = text
    return raw(body)


ECHOES: dict[str, Act] = {
    **{place: said_with(KEY, place) for place in ("reply", "thoughts", "names", "finish reason")},
    "escaped reply": Act(body=said_with("ECHO", "reply").body.replace(b"ECHO", escaped(KEY).encode())),
    "slashes escaped": Act(body=said_with("ECHO", "reply").body.replace(b"ECHO", KEY.replace("/", "\\/").encode())),
    **{f"error {status}": error(status, f"Bad key {KEY}") for status in (400, 401, 403, 404, 413, 422, 429, 500)},
    "error of another form": raw({"detail": [{"input": KEY}]}, status=422),
    "error that is no JSON": Act(status=500, body=f"<h1>{KEY}</h1>".encode()),
    "error code": error(400, "no", code=KEY, param=KEY),
    "escaped error": Act(status=400, body=b'{"error": {"message": "' + escaped(KEY).encode() + b'"}}'),
    "refused field": error(400, f"temperature is not allowed for {KEY}", param="temperature"),
    "no JSON": Act(body=f"hello {KEY}".encode()),
    "a JSON text": raw(KEY),
    "no choice": raw({"choices": [], "key": KEY}),
    "no message": raw({"choices": [{KEY: KEY}]}),
    "redirect": Act(status=307, headers={"Location": f"http://127.0.0.1:9/?key={KEY}"}),
    "header": Act(body=said("[2] > [1]", tokens=500).body, headers={"X-Key": KEY, "Set-Cookie": f"k={KEY}"}),
    "retry-after": error(429, "wait", headers={"Retry-After": KEY}),
    "truncated": Act(body=f'{{"{KEY}'.encode(), headers={"Content-Length": "999"}),
    "encoding": Act(body=KEY.encode(), headers={"Content-Encoding": "gzip"}),
}


def everything_written(folder: Path) -> str:
    """Return the text of all files, and of all cells of the call logs."""
    texts = [path.read_bytes().decode("utf-8", "replace") for path in folder.rglob("*") if path.is_file()]
    for path in folder.rglob("*.sqlite"):
        with closing(sqlite3.connect(path)) as database:
            tables = [row[0] for row in database.execute("select name from sqlite_master where type = 'table'")]
            texts += [str(row) for table in tables for row in database.execute(f"select * from {table}")]
    return "\n".join(texts)


@pytest.mark.parametrize(("place", "asked"), share_of(tuple(ECHOES), ("a chat", "the models")))
def test_a_key_that_the_server_repeats_is_shown_nowhere(
    place: str, asked: str, cli: Cli, lists: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    act = ECHOES[place]
    caplog.set_level(logging.WARNING)
    shown = act if asked == "the models" else models("m", KEY, max_model_len=50000)
    with FaultyServer([act], listing=shown) as server, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        flags = ("--model", "openai:m", "--base-url", server.url, "--retries", "0")
        done = cli("run", *lists[:-2], *flags, "--out", "out", "--format", "json")
        cli("verify", "out")
        options = BackendOptions(base_url=server.url, retries=0)
        raised = ""
        try:
            Openai.connect("other", options).generate(prepare_requests(RunSpec(**fields_of(lists))))
        except RerankError:
            raised = traceback.format_exc()
    texts = [done.stdout, done.stderr, raised, caplog.text, *(str(w.message) for w in warned)]
    texts.append(everything_written(tmp_path))
    for text in texts:
        assert KEY not in text
        assert KEY not in text.replace("\\/", "/")
    assert server.seen_keys == {f"Bearer {KEY}"}


def fields_of(flags: tuple[str, ...]) -> dict[str, Any]:
    """Return flags as fields of a specification."""
    return dict(zip((flag[2:].replace("-", "_") for flag in flags[::2]), flags[1::2], strict=True))
