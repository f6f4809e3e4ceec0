"""Everything that users begin with, in processes that lack what Windows lacks (`tests/without_posix.py`)."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.test_kill import write_lists
from tests.without_posix import MODULES, NAMES

ROOT = Path(__file__).resolve().parents[1]
_WITHOUT = [sys.executable, str(Path(__file__).with_name("without_posix.py"))]
#: Modules that use what Windows lacks where it exists, each behind a check.
_CHECKED = {
    "rerank/io/file_systems.py",
    "rerank/io/forks.py",
    "rerank/serving/file_roots.py",
    "rerank/tasks/concurrency.py",
}


def environment(folder: Path, keep: str = "") -> dict[str, str]:
    own = {"XDG_CACHE_HOME": str(folder / "cache"), "XDG_CONFIG_HOME": str(folder / "config"), "KEEP_POSIX": keep}
    return os.environ | own | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(folder: Path, *arguments: str, code: int = 0, keep: str = "") -> str:
    """Run a process without POSIX in a folder; return what it wrote to stdout, and to stderr if it failed."""
    command, env = [*_WITHOUT, *arguments], environment(folder, keep)
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, check=False, timeout=600)
    done.stdout += done.stderr if code or done.returncode else ""
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


def commands(*lines: str) -> str:
    """A program that executes commands one after another."""
    return f"""
import shlex, sys
from rerank.cli import main
for line in {lines!r}:
    sys.argv = ["rerank", *shlex.split(line)]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""


def test_ranking_in_python(tmp_path: Path) -> None:
    code = """
from rerank import Reranker
hits = Reranker.from_pretrained("fake:reversed").rank("q", ["a", "b", "c"])
print([hit.document.text for hit in hits])
"""
    assert run(tmp_path, "-c", code) == "['c', 'b', 'a']\n"


def test_commands(tmp_path: Path) -> None:
    """An index, runs, their evaluation, a damaged call log, a prompt of the user, and judgments."""
    flags = " ".join(map(str, write_lists(tmp_path, queries=3, depth=5)))
    prompt = (ROOT / "rerank/prompts/listwise.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(prompt, encoding="utf-8")
    judge = "qrels judge first.trec --method depth --budget 2 --judge llm --model fake:reversed --out judged.qrels"
    out = run(
        tmp_path,
        "-c",
        commands(
            "retrieve --collection pydoc --max-queries 3 --first-stage bm25:k1=1.1 --out first.trec",
            "retrieve --collection pydoc --max-queries 3 --first-stage bm25:k1=1.1 --out first.trec",
            f"run {flags} --model fake:reversed --out run",
            f"run {flags} --model fake:stutter --out run --overwrite",
            f"run {flags} --model fake:stutter --out run --resume",
            "eval run/run.trec --qrels qrels.txt --format json",
            "verify run",
            f"run {flags} --model fake:reversed --prompt ./mine.yaml --out prompted",
            f"{judge} --collection pydoc",
            f"{judge} --collection pydoc",
            "cache list",
        ),
    )
    assert "nDCG@10" in out
    assert (tmp_path / "judged.qrels").exists()
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".rerank-lock"))]
    with (tmp_path / "run/calls.sqlite").open("r+b") as log:
        log.seek(4096)
        log.write(b"\xff" * 2000)
    run(tmp_path, "-m", "rerank", "verify", "run", "--repair")
    assert (tmp_path / "run/calls.sqlite.damaged1").exists()


def test_a_run_is_killed_and_resumed(tmp_path: Path) -> None:
    flags = write_lists(tmp_path, queries=2, depth=6)
    model = "fake:reversed,delay=0.3,batch_size=1"
    words = ["-m", "rerank", "run", *flags, "--model", model, "--out", "out", "--method", "sliding"]
    words += ["--window-size", "2", "--stride", "1", "--batch-size", "1"]
    with subprocess.Popen([*_WITHOUT, *words], cwd=tmp_path, env=environment(tmp_path)) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "out/first_stage.trec").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(1)
        assert process.poll() is None
        process.kill()
    assert "--resume" in run(tmp_path, *words, code=2)
    run(tmp_path, *words, "--resume")
    assert json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))["complete"]


def test_a_journal_of_judgments(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from rerank.adjudication.judging.session import JudgmentJournal
for grade in (0, 1):
    JudgmentJournal(Path("journal"), {"about": "x"}).add({"grade": grade})
print(JudgmentJournal(Path("journal"), {"about": "x"}).lines)
"""
    assert run(tmp_path, "-c", code) == "[(2, {'grade': 0}), (3, {'grade': 1})]\n"


@pytest.mark.enable_socket
def test_a_server(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    words = [*_WITHOUT, "-m", "rerank", "serve", "--model", "fake:reversed", "--port", "0"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment(tmp_path), text=True, stdout=-1, stderr=-2) as process:
        assert process.stdout is not None
        url = next((match[0] for line in process.stdout if (match := re.search(r"http://[\w.:]+", line))), "")
        body = json.dumps({"query": "q", "documents": ["a", "b"]}).encode()
        request = urllib.request.Request(f"{url}/rerank", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            assert [row["index"] for row in json.load(response)["results"]] == [1, 0]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode in (0, 130), rest


@pytest.mark.full
def test_a_model_and_a_training(tmp_path: Path) -> None:
    """A chat template is tried in a new interpreter; a training saves its checkpoints and its adapter."""
    pytest.importorskip("peft")
    from tests.finetune.small import collection_folder, model_folder

    model, docs = model_folder(tmp_path / "model", layers=1), collection_folder(tmp_path / "docs")
    code = f"""
import accelerate, datasets, peft, sys
from transformers import LlamaForCausalLM, Trainer
sys.modules.update(dict.fromkeys(["resource", "termios", "tty"]))  # which other packages import on this system
from rerank import Reranker
print(len(Reranker.from_pretrained({str(model)!r}, device="cpu").rank("wing", ["lift", "heat"])))
from pathlib import Path
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import train_adapter
from tests.finetune.small import recipe
made = recipe(Path({str(model)!r}), Path({str(docs)!r}), training={{"steps": 2, "save_every": 1}})
train_adapter(made, Path("adapter"), resume=False)
"""
    assert run(tmp_path, "-c", code, keep="resource termios tty").startswith("2\n")
    assert (tmp_path / "adapter/adapter_model.safetensors").exists()


def test_no_module_uses_what_windows_lacks() -> None:
    hidden = {module.__name__: set(names.split()) for module, names in NAMES.items()}
    used = []
    for path in sorted((ROOT / "rerank").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found = node.attr in hidden.get(node.value.id, ())
            elif isinstance(node, ast.Import):
                found = bool({alias.name for alias in node.names} & {*MODULES} - {"uvloop"})
            else:
                found = isinstance(node, ast.ImportFrom) and node.module in MODULES
            if found:
                used.append(f"{path.relative_to(ROOT).as_posix()}:{node.lineno}")  # type: ignore[attr-defined]
    assert [place for place in used if place.partition(":")[0] not in _CHECKED] == []
