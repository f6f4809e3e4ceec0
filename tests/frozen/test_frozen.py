"""The code behaves as it did when the golden files in `tests/frozen/golden` were written.

A failure shows the difference between the golden file and the current code. If the change is intended, write the golden
files again with ``python -m tests.frozen.snapshot`` and review their diff.
"""

from __future__ import annotations

import difflib
import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.frozen import snapshot

_REWRITE = "If this is intended, run `python -m tests.frozen.snapshot` and review the diff of tests/frozen/golden."
#: Fraction of the error messages that may disappear before the golden file has to be written again.
_LOST_MESSAGES = 0.05
#: Packages that format messages, help texts or numbers.
_FORMATTING = ("typer", "pydantic", "numpy", "scipy", "bm25s", "pytrec-eval-terrier", "ir_measures")


def _other_versions() -> list[str]:
    """Return the installed packages whose versions are not those of constraints.txt."""
    lines = (snapshot.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name.lower().replace("_", "-"): number for name, _, number in (line.partition("==") for line in lines)}
    installed = {name: version(name) for name in _FORMATTING}
    return [name for name, number in installed.items() if pinned.get(name.lower().replace("_", "-")) != number]


_needs_pinned_versions = pytest.mark.skipif(
    bool(_other_versions()), reason=f"output may differ with other versions of {', '.join(_other_versions())}"
)


def check_same(golden: Any, found: Any, what: str) -> None:
    """Fail with a readable diff if a value differs from the golden one by more than the rounding of numbers."""
    before, now = snapshot.format_json(golden), snapshot.format_json(snapshot.align_numbers(golden, found))
    if before != now:
        diff = difflib.unified_diff(before.splitlines(), now.splitlines(), "golden", "now", n=4, lineterm="")
        pytest.fail("\n".join([f"{what} changed.", *diff, _REWRITE]), pytrace=False)


def keywords_in_any_order(value: Any) -> Any:
    """Sort the keyword-only parameters, those after ``*``, in all lists of parameters: callers pass them by name."""
    if isinstance(value, dict):
        return {key: keywords_in_any_order(item) for key, item in value.items()}
    if isinstance(value, list) and "*" in value:
        start = value.index("*") + 1
        return value[:start] + sorted(value[start:])
    return value


def names_of(section: str, *, current: Any = ()) -> list[str]:
    """Return the keys of a golden file, and the current ones that it lacks."""
    return [*(golden := snapshot.read_golden(section)), *(name for name in current if name not in golden)]


# Names, settings and options


@pytest.fixture(scope="module")
def signatures() -> dict[str, Any]:
    return snapshot.take_signatures()


@pytest.mark.parametrize("name", names_of("signatures"))
def test_a_public_name_has_its_signature(name: str, signatures: dict[str, Any]) -> None:
    check_same(snapshot.read_golden("signatures")[name], signatures.get(name), f"The public name {name}")


def test_no_public_name_was_added_without_a_golden_signature(signatures: dict[str, Any]) -> None:
    check_same(sorted(snapshot.read_golden("signatures")), sorted(signatures), "The list of public names")


@pytest.fixture(scope="module")
def registries() -> dict[str, Any]:
    return snapshot.take_registries()


@pytest.mark.parametrize("part", sorted(snapshot.read_golden("registries")["plug-ins"]))
def test_plug_ins_have_their_names_options_and_entry_points(part: str, registries: dict[str, Any]) -> None:
    golden = snapshot.read_golden("registries")["plug-ins"][part]
    found = registries["plug-ins"].get(part)
    check_same(keywords_in_any_order(golden), keywords_in_any_order(found), f"The registry of {part}")


@pytest.mark.parametrize("part", sorted(set(snapshot.read_golden("registries")) - {"plug-ins"}))
def test_other_names_are_still_there(part: str, registries: dict[str, Any]) -> None:
    check_same(snapshot.read_golden("registries")[part], registries[part], f"The part {part!r}")


def test_no_kind_of_plug_in_was_added_without_a_golden_record(registries: dict[str, Any]) -> None:
    golden = snapshot.read_golden("registries")["plug-ins"]
    check_same(sorted(golden), sorted(registries["plug-ins"]), "The list of registries")


def test_settings_have_their_types_ranges_and_defaults() -> None:
    check_same(snapshot.read_golden("settings"), snapshot.take_settings(), "The settings")


@pytest.fixture(scope="module")
def options() -> dict[str, Any]:
    return snapshot.take_options()


@_needs_pinned_versions
@pytest.mark.parametrize(
    "command", sorted(snapshot.read_golden("options")["commands"]), ids=lambda name: name or "rerank"
)
def test_a_command_has_its_help_and_its_options(command: str, options: dict[str, Any]) -> None:
    golden, name = snapshot.read_golden("options"), command or "rerank"

    def lines(content: dict[str, Any]) -> list[str]:
        return sorted(line for line, commands in content["options"].items() if name in commands)

    check_same(golden["commands"][command], options["commands"].get(command), f"The help of `{name}`")
    check_same(lines(golden), lines(options), f"The options of `{name}`")


def test_no_command_was_added_without_golden_options(options: dict[str, Any]) -> None:
    golden = snapshot.read_golden("options")["commands"]
    check_same(sorted(golden), sorted(options["commands"]), "The list of commands")


# Identities of runs


@pytest.mark.parametrize("name", names_of("identities", current=snapshot.SPECS))
def test_a_run_has_its_specification_identity_and_folder(name: str, tmp_path: Path) -> None:
    golden = snapshot.read_golden("identities")
    with snapshot.isolated_folder(snapshot.name_specified_files(name), tmp_path):
        found = snapshot.take_identity(name)
    if name != "default":
        found = snapshot.difference_from(golden["default"], found)
    check_same(golden.get(name), found, f"The run {name!r}")


def test_every_method_has_a_golden_identity() -> None:
    check_same(sorted(snapshot.read_golden("identities")), sorted(snapshot.list_specs()), "The list of runs")


# Commands

_GOLDEN_COMMANDS = {
    line: found
    for path in sorted(snapshot.GOLDEN.glob("commands_*.json"))
    for line, found in snapshot.read_golden(path.stem).items()
}


_PARAMETERS = [  # a server looks for a free port before it opens the model
    pytest.param(line, id=line, marks=[pytest.mark.enable_socket] * line.startswith("serve"))
    for line in snapshot.COMMANDS
]


@_needs_pinned_versions
@pytest.mark.parametrize("line", _PARAMETERS)
def test_a_command_does_what_it_did(line: str, tmp_path: Path) -> None:
    for package in snapshot.NEEDS.get(snapshot.command_group(line), ()):
        pytest.importorskip(package)
    with snapshot.isolated_folder(snapshot.expand_command(line), tmp_path) as folder:
        found = snapshot.take_command(line, folder)
    check_same(_GOLDEN_COMMANDS.get(line), found, f"`rerank {line}`")


def test_no_golden_command_is_left_out() -> None:
    check_same(sorted(_GOLDEN_COMMANDS), sorted(snapshot.COMMANDS), "The list of recorded commands")


def test_every_command_is_recorded_with_a_result_or_an_error() -> None:
    recorded = {snapshot.expand_command(line) for line in snapshot.COMMANDS}
    paths = [
        path for path, command in snapshot.walk_commands(snapshot.command_line()) if not hasattr(command, "commands")
    ]
    missing = [path for path in paths if not any(re.search(rf"(^|&& ){path}( |$)", line) for line in recorded)]
    assert missing == []


# Error messages


def test_error_messages_are_still_there() -> None:
    golden, found = set(snapshot.read_golden("errors")), set(snapshot.take_errors())
    lost = sorted(golden - found)
    sys.stdout.write("".join(f"no longer in the source: {message}\n" for message in lost))
    allowed = int(len(golden) * (1 - _LOST_MESSAGES))
    if len(found) < allowed:
        lines = [f"{len(found)} of {len(golden)} error messages are left; at least {allowed} are expected.", *lost]
        pytest.fail("\n".join([*lines, _REWRITE]), pytrace=False)
