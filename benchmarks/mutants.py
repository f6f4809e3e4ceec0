"""Mutation run: small faults put into a copy of the code one at a time, and whether the package's tests notice.

    python benchmarks/mutants.py --count 300 --seed 1 --seconds 7200

Prints every mutant that survives, and one JSON line last. Runs in a copy, so the checkout is never changed.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Package -> the tests that should notice.
TESTS = {
    "strategies": ("tests/contracts/test_strategies.py", "tests/strategies"),
    "judges": ("tests/judges", "tests/contracts/test_judges.py"),
    "parsing": ("tests/parsing",),
    "store": ("tests/store",),
    "evaluation/significance": ("tests/evaluation/significance", "tests/contracts/test_pair_tests.py"),
}
_COMPARE = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="}
_ARITHMETIC = {ast.Add: "-", ast.Sub: "+", ast.Mult: "+", ast.FloorDiv: "*", ast.Div: "*", ast.Mod: "+"}
#: Seconds that tests may take; a mutant that makes them hang is noticed.
_TIMEOUT = 300


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: the characters ``start`` to ``end`` of a line are replaced."""

    path: str
    line: int
    start: int
    end: int
    new: str

    def apply(self, text: str) -> str:
        lines = text.split("\n")
        row = lines[self.line - 1].encode()
        lines[self.line - 1] = (row[: self.start] + self.new.encode() + row[self.end :]).decode()
        return "\n".join(lines)


def mutants_of(path: str, text: str) -> Iterator[Mutant]:
    """Every fault that can be put into a file: comparisons, arithmetic, and/or, not, constants and returned values."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.expr) or node.lineno != node.end_lineno:
            continue
        for new in _replacements(node):
            if new != ast.unparse(node):
                yield Mutant(path, node.lineno, node.col_offset, node.end_col_offset or 0, new)


def _replacements(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARE:
        yield f"{ast.unparse(node.left)} {_COMPARE[type(node.ops[0])]} {ast.unparse(node.comparators[0])}"
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        yield f"({ast.unparse(node.left)} {_ARITHMETIC[type(node.op)]} {ast.unparse(node.right)})"
        if isinstance(node.op, ast.Add):  # a term that is left out
            yield ast.unparse(node.left)
    elif isinstance(node, ast.BoolOp):
        yield "(" + (" or " if isinstance(node.op, ast.And) else " and ").join(map(ast.unparse, node.values)) + ")"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield ast.unparse(node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield str(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield str(node.value + 1)


def notices(folder: Path, tests: tuple[str, ...], first: str = "") -> bool:
    """Return whether the tests fail; files of tests that have ``first`` in their name come first, which saves time."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist"]
    there = [test for test in tests if (folder / test).exists()]
    if first:
        near = {str(path) for test in there for path in (folder / test).rglob(f"test_*{first}*.py")}
        there = [*sorted(near), *there]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run([*command, *there], cwd=folder, env=environment, capture_output=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=7200)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "copy"
        shutil.copytree(options.root, folder, ignore=shutil.ignore_patterns(".git", ".venv*", "build", "site"))
        found: list[tuple[str, Mutant]] = []
        for package in TESTS:
            for path in sorted((folder / "rerank" / package).rglob("*.py")):
                name = str(path.relative_to(folder))
                found += [(package, mutant) for mutant in mutants_of(name, path.read_text(encoding="utf-8"))]
        for package, tests in TESTS.items():
            if notices(folder, tests):
                sys.exit(f"The tests of {package} fail without a mutant")
        survivors, tried = [], 0
        for package, mutant in random.Random(options.seed).sample(found, min(options.count, len(found))):
            if time.monotonic() - began > options.seconds:
                break
            path = folder / mutant.path
            text = path.read_text(encoding="utf-8")
            path.write_text(mutant.apply(text), encoding="utf-8")
            try:
                noticed = notices(folder, TESTS[package], first=path.stem)
            finally:
                path.write_text(text, encoding="utf-8")
            tried += 1
            if not noticed:
                survivors.append(f"{mutant.path}:{mutant.line}")
                line = text.split("\n")[mutant.line - 1].strip()
                print(f"survived: {mutant.path}:{mutant.line}: {line}\n    with: {mutant.new}", flush=True)
    seconds = round(time.monotonic() - began)
    print(json.dumps({"possible": len(found), "tried": tried, "survived": len(survivors), "seconds": seconds}))


if __name__ == "__main__":
    main()
