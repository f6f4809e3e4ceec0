"""Rank with models of a hub by the command, in Python and by the server, each in a process of its own.

A script that reads cases from stdin (JSON: ``model``, ``settings``, ``env``, ``ways``) and prints one outcome per case
and way. The processes are forks of one that has imported what they need, and thus take a moment each. It uses only the
public names of the package, so that versions of it can be compared (PYTHONPATH)::

    python tests/models/hub_outcomes.py < cases.json > outcomes.json
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

QUERY = "how long do fleas live"
TEXTS = ("cats live long", "fleas live for 12 weeks", "the cat of the house", "a flea", "query and document")
_TIME_LIMIT = 300.0  # seconds per process
_URL = re.compile(r"^http://\S+$", re.M)


def _flags(case: Mapping[str, Any]) -> list[str]:
    flags = ["--model", case["model"], "--dtype", "float32"]
    for name, value in case["settings"].items():
        flags += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return flags


def _count_loads() -> list[str]:
    """Return a list to which the classes of models are added whose weights are read in this process."""
    from transformers import PreTrainedModel

    loads: list[str] = []
    load = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        loads.append(cls.__name__)
        return load(cls, *args, **kwargs)

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)  # type: ignore[assignment]
    return loads


def _in_python(case: Mapping[str, Any]) -> None:
    from rerank import Reranker
    from rerank.errors import RerankError

    loads = _count_loads()
    try:
        with Reranker.from_pretrained(case["model"], dtype="float32", **case["settings"]) as reranker:
            hits = reranker.rank(QUERY, list(TEXTS))
            told = {"identity": dict(reranker.backend.identity), "method": reranker.name, "notes": list(hits.notes)}
            told["order"] = [int(hit.corpus_id) for hit in hits]
            sys.stdout.write(json.dumps({**told, "loads": loads}) + "\n")
    except RerankError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def _by_command(case: Mapping[str, Any]) -> None:
    rows = [{"docid": f"d{at}", "doc": text, "score": 100 - at} for at, text in enumerate(TEXTS)]
    Path("lists.jsonl").write_text(json.dumps({"query": {"qid": "q", "text": QUERY}, "candidates": rows}))
    Path("qrels.txt").write_text("q 0 d1 1\n")
    files = ["--collection", "requests:lists.jsonl", "--first-stage", "candidates", "--qrels", "qrels.txt"]
    _run_command("run", *files, "--out", "run", *_flags(case))


def _by_server(case: Mapping[str, Any]) -> None:
    _run_command("serve", "--port", "0", *_flags(case))


def _run_command(*words: str) -> None:
    from rerank.cli import main

    sys.argv = ["rerank", *words]
    main()


WAYS: dict[str, Callable[[Mapping[str, Any]], None]] = {"run": _by_command, "python": _in_python, "serve": _by_server}


def _start(way: str, case: Mapping[str, Any], folder: Path) -> int:
    """Start a process with its output in files of a folder, and return its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.chdir(folder)
        os.environ.update(case["env"])
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
        sys.stdin.close()
        WAYS[way](case)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - an error that the package did not expect is an outcome
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _ask(url: str) -> dict[str, Any]:
    body = json.dumps({"query": QUERY, "documents": list(TEXTS)}).encode()
    request = Request(f"{url}/v1/rerank", body, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=_TIME_LIMIT) as response:
            return {"order": [row["index"] for row in json.load(response)["results"]]}
    except HTTPError as error:
        return {"error": error.read().decode()}


def _outcome(way: str, case: Mapping[str, Any]) -> dict[str, Any]:
    with TemporaryDirectory() as name:
        folder, told = Path(name), dict[str, Any]()
        started = time.monotonic()
        process = _start(way, case, folder)
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                break
            written = (folder / "stdout").read_text() if (folder / "stdout").exists() else ""
            if way == "serve" and not told and (found := _URL.search(written)):
                told = _ask(found[0])
                os.kill(process, signal.SIGTERM)
            if time.monotonic() - started > _TIME_LIMIT:
                os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
        error = (folder / "stderr").read_text(errors="replace")
        code = os.waitstatus_to_exitcode(status)
        if way == "python" and code == 0:
            told = json.loads((folder / "stdout").read_text().splitlines()[-1])
        if (folder / "run/spec.json").is_file():
            spec = json.loads((folder / "run/spec.json").read_text())
            told["identity"] = spec["identity"]["model"]
            told["method"] = spec["spec"]["method"] if "spec" in spec else spec.get("method", "")
        if (folder / "run/run.trec").is_file():
            told["order"] = [int(line.split()[2][1:]) for line in (folder / "run/run.trec").read_text().splitlines()]
        return {"code": code, "stderr": error, "seconds": round(time.monotonic() - started, 2), **told}


def main() -> None:
    """Read cases and print their outcomes."""
    imported = (
        *("torch", "transformers", "sentence_transformers.cross_encoder", "peft", "scipy.stats", "ir_measures"),
        *("uvicorn", "rerank.cli", "rerank.reranker", "rerank.serving.app", "rerank.experiment"),
    )
    for name in imported:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for case in json.load(sys.stdin):
        outcome = {way: _outcome(way, case) for way in case["ways"]}
        sys.stdout.write(json.dumps({"model": case["model"], **outcome}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
