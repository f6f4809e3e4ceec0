"""Plug-ins of other distributions: a strategy of twenty lines, and broken ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

STRATEGY = '''
"""Judges neighbours two at a time, once through from the tail."""
from __future__ import annotations

from dataclasses import dataclass

from rerank.types import Plan, Ranking, Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Ascend:
    rounds: int = 1

    def __call__(self, ranking: Ranking) -> Plan:
        for _ in range(self.rounds):
            for at in range(len(ranking) - 2, -1, -1):
                (order,) = yield [Window(ranking.query, ranking.docs[at : at + 2])]
                ranking = ranking.reorder(at, order)
        return ranking

    def calls(self, n: int) -> int:
        return self.rounds * max(n - 1, 0)
'''

Program = Callable[..., "subprocess.CompletedProcess[str]"]


def install(site: Path, module: str, source: str, entry_points: str) -> None:
    """Lay a distribution down as pip would."""
    (site / f"{module}.py").write_text(source, encoding="utf-8")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program, with ``site/`` on its path and a small file of requests where it runs."""
    (tmp_path / "site").mkdir()
    docs = [{"docid": f"d{n}", "doc": f"text {n}"} for n in range(5)]
    row = {"query": {"qid": "q", "text": "question"}, "candidates": docs}
    (tmp_path / "lists.jsonl").write_text(json.dumps(row), encoding="utf-8")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        paths = (str(tmp_path / "site"), os.environ.get("PYTHONPATH", ""))
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        command = [sys.executable, "-m", "rerank", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60)

    return run


RERANK = ("rerank", "--collection", "requests:lists.jsonl", "--model", "fake:reversed")


def test_a_strategy_from_elsewhere(program: Program, tmp_path: Path) -> None:
    install(tmp_path / "site", "ascending", STRATEGY, "[rerank.strategies]\nascend = ascending:Ascend\n")
    done = program(*RERANK, "--method", "ascend:generate", "--out", "a")
    assert done.returncode == 0, done.stderr
    # The last document wins every comparison on its way up; the others keep their order.
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["d4", "d0", "d1", "d2", "d3"]
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["calls"] == 4
    assert program("verify", "a").returncode == 0
    unknown = program(*RERANK, "--method", "ascent:generate")
    assert unknown.returncode == 2
    assert "Did you mean 'ascend'" in unknown.stderr


BROKEN = {"raises": "raise RuntimeError('I am broken')", "imports": "import no_such_module", "lacks": "x = 1"}


#: Method cards that cannot be used; the last has the name of a built-in method.
CARDS = {"no-toml": "strategy =", "no-strategy": 'strategy = "nosuch"\njudge = "generate"', "fullrank": ""}


def test_broken_ones_break_nothing_else(program: Program, tmp_path: Path) -> None:
    cards = "".join(f"{name} = broken_cards\n" for name in CARDS)
    install(tmp_path / "site", "cards", "", f"[rerank.methods]\n{cards}missing = no_such_package\n")
    (tmp_path / "site" / "broken_cards").mkdir()
    for name, card in CARDS.items():
        (tmp_path / "site" / "broken_cards" / f"{name}.toml").write_text(card, encoding="utf-8")
    for name, source in BROKEN.items():
        entry = f"{name} = {name}:Thing\n"
        install(tmp_path / "site", name, source, f"[rerank.strategies]\n{entry}[rerank.collections]\n{entry}")
    fine = program(*RERANK)
    assert fine.returncode == 0, fine.stderr
    assert "cannot be loaded" not in fine.stderr
    methods = program("methods")
    assert methods.returncode == 0
    assert {"fullrank", "sliding"} <= {line.split("\t")[0] for line in methods.stdout.splitlines()}
    for name in (*CARDS, "missing"):
        assert f"'{name}'" in methods.stderr
    listed = program("collections")
    assert listed.returncode == 0
    assert "requests\t" in listed.stdout
    for name in BROKEN:
        assert f"'{name}'" in listed.stderr
        asked = program(*RERANK, "--method", f"{name}:generate")
        assert asked.returncode == 3
        assert f"'{name}:Thing'" in asked.stderr
        assert "Traceback" not in asked.stderr


def test_a_name_that_is_taken(program: Program, tmp_path: Path) -> None:
    install(tmp_path / "site", "ascending", STRATEGY, "[rerank.strategies]\nsliding = ascending:Ascend\n")
    assert program(*RERANK).returncode == 0
    done = program(*RERANK, "--method", "sliding")
    assert done.returncode == 2
    assert "The strategy 'sliding' is built in" in done.stderr


def test_a_strategy_that_is_no_dataclass(program: Program, tmp_path: Path) -> None:
    """Its options and its identity are its fields, so without any it is refused, in words."""
    source = STRATEGY.replace("@dataclass(frozen=True, slots=True, kw_only=True)\n", "")
    install(tmp_path / "site", "ascending", source, "[rerank.strategies]\nascend = ascending:Ascend\n")
    done = program(*RERANK, "--method", "ascend:generate")
    assert done.returncode == 2
    assert "'ascend' is not a dataclass" in done.stderr


PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
#: Package and name of each example of the page, and its class.
EXAMPLES = {
    "strategies/neighbours": "Neighbours",
    "judges/affirm": "Affirm",
    "judges/favourite": "Favourite",
    "backends/constant": "Constant",
    "retrieval/bigrams": "Bigrams",
}


def example_blocks() -> dict[str, str]:
    """Return the examples of the page by their titles."""
    return dict(re.findall(r'^```(?:python|toml) title="([^"]+)"\n(.*?)^```$', PAGE.read_text("utf-8"), re.S | re.M))


def test_the_examples_of_the_architecture_page_as_another_distribution(program: Program, tmp_path: Path) -> None:
    blocks = example_blocks()
    for path, class_name in EXAMPLES.items():
        package, name = path.split("/")
        module = f"example_{name}"
        entry = f"[rerank.{package}]\n{name} = {module}:{class_name}\n"
        install(tmp_path / "site", module, blocks[f"rerank/{path}.py"], entry)
    card = blocks["my_package/cards/bubble-once.toml"]
    install(tmp_path / "site", "example_card", "", "[rerank.methods]\nbubble-once = example_cards\n")
    (tmp_path / "site" / "example_cards").mkdir()
    (tmp_path / "site" / "example_cards" / "bubble-once.toml").write_text(card, encoding="utf-8")
    requests = ("rerank", "--collection", "requests:lists.jsonl")
    done = program(*requests, "--model", "constant:[2]", "--method", "bubble-once", "--out", "a")
    assert done.returncode == 0, done.stderr
    # The second document of each window wins, so the last one rises to the top.
    assert [line.split()[2] for line in done.stdout.splitlines()] == ["d4", "d0", "d1", "d2", "d3"]
    for method, model in {"full:affirm": "fake:reversed", "tournament:favourite": "constant:[B]"}.items():
        judged = program(*requests, "--model", model, "--method", method, "--out", method.partition(":")[2])
        assert judged.returncode == 0, judged.stderr
    searched = program("retrieve", "--collection", "requests:lists.jsonl", "--first-stage", "bigrams,min_shared=1")
    assert searched.returncode == 0, searched.stderr


@pytest.mark.full
def test_the_examples_of_the_architecture_page_as_built_in_plug_ins(tmp_path: Path) -> None:
    """Two files per plug-in suffice: its own test and the contract pass in a copy of the checkout."""
    root = PAGE.parents[1]
    for name in ("rerank", "tests"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(root / name, tmp_path)
    own_tests = []
    for path, source in example_blocks().items():
        if path.startswith(("rerank/", "tests/")):
            (tmp_path / path).write_text(source, encoding="utf-8")
            own_tests += [path] if path.startswith("tests/") else []
    names = " or ".join(path.partition("/")[2] for path in EXAMPLES)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *own_tests,
        "tests/contracts",
        "-k",
        names,
        "-p",
        "no:cacheprovider",
    ]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(own_tests) == len(EXAMPLES)
