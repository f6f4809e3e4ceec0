"""Odd values of every option: a documented exit code, one message, no traceback, nothing written outside the output."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank.adjudication.orders import orders
from rerank.backends import BACKENDS
from rerank.collections import collections
from rerank.errors import MissingPrerequisiteError, RerankError
from rerank.evaluation.baseline_tests import baseline_tests
from rerank.evaluation.significance import tests
from rerank.finetune.component_registry import LOSSES
from rerank.judges import judges
from rerank.registry import Registry
from rerank.retrieval import first_stages
from rerank.selector import convert_selector_options
from rerank.strategies import strategies
from tests.attacks.option_values import BASES, TEXTS, Case, generate_cases, leaf_commands, write_template
from tests.attacks.scale import attack_share, scaled_count

ROOT = Path(__file__).parents[2]
#: Number of tests between which the cases are divided: each process that runs some has to import everything first.
_SHARDS = 4 if attack_share() >= 1 else 2
_LONGEST_MESSAGE = 1500


def subclasses(error: type[RerankError]) -> Iterator[type[RerankError]]:
    for child in error.__subclasses__():
        yield child
        yield from subclasses(child)


CODES = {0, *(error.exit_code for error in subclasses(RerankError))}


def describe_fault(case: Case, result: dict[str, Any]) -> str:
    """Say what is wrong with the result of a command; empty if nothing is."""
    errors = [line for line in result["err"].splitlines() if line.startswith("error: ")]
    last = result["err"].rstrip().rpartition("\n")[2]
    strange = [path for path in result["new"] if not case.may_write(path)]
    is_link = case.is_output and case.kind == "dangling link"  # which is replaced, unlike what it points to
    changed = [path for path in result["changed"] if not (is_link and path == case.value)]
    code = result["code"]
    if code < 0:
        return f"ended by signal {-code}"
    if "Traceback" in result["err"] + result["out"]:
        return f"traceback: {last:.200}"
    if code not in CODES:
        return f"exit code {code}: {last:.200}"
    if len(errors) != (code != 0) or (errors and last != errors[0]):
        return f"{len(errors)} error messages with exit code {code}: {last:.200}"
    if len(last) > _LONGEST_MESSAGE and errors:
        return f"message of {len(last)} characters: {last:.100}"
    if result["outside"]:
        return f"changed outside the folder: {result['outside'][:3]}"
    if changed or strange:
        return f"changed {changed[:3]}, created {strange[:3]}"
    return ""


class OptionServer:
    """The process of `option_server`, and a client of it."""

    def __init__(self, folder: Path) -> None:
        template, scratch = folder / "template", folder / "scratch"
        template.mkdir(parents=True)
        scratch.mkdir()
        write_template(template)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.option_server", str(template), str(scratch)],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, case: Case) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"words": case.words, "pipe": case.kind == "pipe"}) + "\n")
        self._process.stdin.flush()
        result: dict[str, Any] = json.loads(self._process.stdout.readline())
        return result

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def server() -> Iterator[OptionServer]:
    # below the system's folder for temporary files, since pytest's is closed to other users
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        server = OptionServer(Path(folder))
        yield server
        server.close()


def test_every_command_has_a_line_with_which_it_succeeds() -> None:
    assert set(BASES) == set(leaf_commands())


def chosen() -> list[Case]:
    """Return the cases that are tried: all of them, or as many as a share of all, of options of no earlier command.

    A case takes about 0.1 s of processor time, so a tenth takes four minutes.
    """
    every = list(generate_cases())
    if attack_share() >= 1:
        return every
    first: dict[tuple[str, str], str] = {}
    cases = [case for case in every if first.setdefault((case.option, case.help), case.command) == case.command]
    numbers = random.Random(39).sample(range(len(cases)), min(len(cases), scaled_count(len(every))))
    return [cases[number] for number in sorted(numbers)]


@pytest.mark.parametrize("shard", range(_SHARDS))
def test_odd_values_end_in_a_result_or_in_one_message(shard: int, server: OptionServer) -> None:
    faults = []
    for case in chosen()[shard::_SHARDS]:
        if fault := describe_fault(case, server.run(case)):
            faults.append(f"{case}: {fault}")
    assert not faults, "\n".join([f"{len(faults)} cases:", *faults])


def plug_in_options() -> Iterator[tuple[Registry, str, str]]:
    """Yield every option of every installed plug-in that a selector can set."""
    for registry in (strategies, judges, tests, baseline_tests, orders, first_stages, collections, BACKENDS, LOSSES):
        for name in registry.names():
            with contextlib.suppress(MissingPrerequisiteError):
                factory = registry.get(name)
                for parameter in inspect.signature(factory).parameters.values():
                    if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                        yield registry, name, parameter.name


@pytest.mark.parametrize("kind", TEXTS)
def test_odd_options_of_plug_ins(kind: str) -> None:
    """A selector's option of any value is refused, or is a number that is finite and fits 64 bits, or a text."""
    for registry, name, option in plug_in_options():
        with contextlib.suppress(RerankError):
            (value,) = convert_selector_options(
                name, registry.get(name), {option: TEXTS[kind]}, fixed=("backend",)
            ).values()
            assert not isinstance(value, float) or math.isfinite(value), (name, option)
            assert not isinstance(value, int) or abs(value) < 2**63, (name, option)
            assert "\0" not in str(value), (name, option)
            if registry in (strategies, tests, baseline_tests, orders):
                built = registry.get(name)(**{option: value})
                assert registry is not strategies or built.calls(5) < 10**6, (name, option)
