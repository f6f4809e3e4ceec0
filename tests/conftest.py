"""Fixtures that every test may use."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import typer.testing
from hypothesis import settings

# Machines are busy at times; how long a case takes says nothing about whether it is right. .ci/run asks for `ci`.
settings.register_profile("default", deadline=None, max_examples=25)
settings.register_profile("ci", deadline=None, max_examples=100)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# It keeps the class of sockets that it finds when it is imported, which in most tests is one that refuses.
if importlib.util.find_spec("uvloop"):
    import uvloop  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("listrank", "options of .ci/run")
    group.addoption("--write-passed", metavar="FILE", type=Path, help="add the ids of the tests that pass to a file")
    group.addoption("--only", metavar="FILE", type=Path, help="run only the tests with these ids")
    group.addoption("--without", metavar="FILE", type=Path, help="leave out the tests with these ids")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--write-passed")
    if path and not hasattr(config, "workerinput"):  # the workers of pytest-xdist report to this process
        config.pluginmanager.register(_Passed(path))


class _Passed:
    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{report.nodeid!r}\n")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for option, keeps in (("--only", True), ("--without", False)):
        if path := config.getoption(option):
            ids = set(path.read_text(encoding="utf-8").splitlines())
            left_out = [item for item in items if (repr(item.nodeid) in ids) is not keeps]
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if (repr(item.nodeid) in ids) is keeps]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; its absence is a failure where it is asked for."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.fail(f"{folder} is not there, and this test needs it")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _commands_are_built_once() -> Iterator[None]:
    """Keep the command line that Typer builds from our functions: building it takes longer than most commands."""
    with pytest.MonkeyPatch.context() as patch:
        built = functools.cache(typer.main.get_command)
        patch.setattr("typer.main.get_command", built)
        patch.setattr("typer.testing._get_command", built)
        yield
