"""The examples run as they are, in an empty folder and without a network, and their results are right."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NOTEBOOKS = runpy.run_path(str(EXAMPLES / "make_notebooks.py"))


def run_example(name: str, folder: Path, *arguments: str) -> list[str]:
    """Run a script in a folder, and return the lines that it printed."""
    paths = [str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ | offline, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_two_systems_are_compared(tmp_path: Path) -> None:
    pair, *table = run_example("compare_two_systems", tmp_path)
    assert pair.startswith("BM25 minus BM25 without lengths: +")
    assert pair.endswith(", significant")
    assert r"\begin{tabular}" in "\n".join(table)


@pytest.mark.model
def test_files_are_searched_and_reranked(tmp_path: Path) -> None:
    lines = run_example("rerank_your_files", tmp_path)
    assert "1. bread.txt:1" not in lines[1]
    assert "1. bread.txt:1" in lines[lines.index("reranked:") + 1]


@pytest.mark.model
def test_files_of_a_folder_are_searched_and_reranked(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.md").write_text("Rice is cooked in water.\n\nThe key hangs behind the door.\n", "utf-8")
    lines = run_example("rerank_your_files", tmp_path, "notes", "where is the key")
    assert "1. notes/a.md:2" in lines[lines.index("reranked:") + 1]


def test_a_folder_without_texts_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "rerank_your_files.py"), "nowhere", "where is the key"]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert "'nowhere'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.model
def test_a_model_is_checked_as_an_assessor(tmp_path: Path) -> None:
    """SmolLM2 gives one grade to every document, which the check finds."""
    kappa, verdict = run_example("judge_with_a_model", tmp_path)[-2:]
    (value, low, high) = map(float, re.findall(r"-?\d+\.\d+", kappa))
    assert low <= value <= high < 0.5
    assert verdict.startswith("no better than chance")


@pytest.mark.model
def test_an_adapter_is_trained_and_used(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    training, first, _ = run_example("train_an_adapter", tmp_path)
    assert training.startswith("4 steps, ")
    assert (tmp_path / "adapter/adapter_model.safetensors").is_file()
    assert first.startswith("1 sorted")


@pytest.mark.model
def test_a_server_is_started_called_and_ended(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    first, _, end = run_example("serve_and_call", tmp_path)
    assert first.endswith("sorted returns a new sorted list.")
    assert end == "the server has ended"


@pytest.mark.ray
def test_a_run_with_workers_of_ray(tmp_path: Path) -> None:
    windows, *_ = run_example("batch_on_ray", tmp_path)
    assert windows.startswith("windows: {'ok': 6, ")
    engine = json.loads((tmp_path / "runs/ray/spec.json").read_text("utf-8"))["engine"]
    assert engine["workers"] == 2


@pytest.mark.integrations
def test_a_chain_of_langchain_gets_reranked_passages(tmp_path: Path) -> None:
    lines = run_example("rag_with_langchain", tmp_path)
    assert lines[0].startswith("1.0 Bread")
    assert lines[2:4] == ["Answer from these passages:", lines[0].removeprefix("1.0 ")]


@pytest.mark.parametrize("name", NOTEBOOKS["NOTEBOOKS"])
def test_a_notebook_is_its_script(name: str) -> None:
    written = (EXAMPLES / f"{name}.ipynb").read_text("utf-8")
    assert written == NOTEBOOKS["notebook_text"](name), "run: python examples/make_notebooks.py"
    code = ["".join(cell["source"]) for cell in json.loads(written)["cells"] if cell["cell_type"] == "code"]
    script = (EXAMPLES / f"{name}.py").read_text("utf-8")
    assert ast.dump(ast.parse("\n".join(code))) == ast.dump(ast.parse(script))


def test_every_script_is_listed_short_and_tested() -> None:
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    tests = Path(__file__).read_text("utf-8")
    scripts = sorted(set(EXAMPLES.glob("*.py")) - {EXAMPLES / "make_notebooks.py"})
    assert len(scripts) == 7
    for script in scripts:
        assert f"`{script.name}`" in listed
        assert f'run_example("{script.stem}"' in tests
        assert len(script.read_text("utf-8").splitlines()) <= 70
