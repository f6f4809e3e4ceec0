"""The command that adds an extra names the place that this installation is from, which its installer recorded."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rerank import installation
from rerank.installation import install_command

ROOT = Path(__file__).resolve().parents[1]
_TEXTS = {".md", ".py", ".ipynb", ".sh", ".toml", ".yml", ".html", ".j2", ".txt", ".service", ""}
_COMMIT = "580977dec6ab0d47f4d2a20d1e6a1f8a6a8dbfc5"
_GIT = {"vcs": "git", "requested_revision": "main", "commit_id": _COMMIT}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages in which this one seems to be installed."""
    folder = tmp_path / "site-packages"
    (folder / "rerank").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(folder)])
    monkeypatch.setattr(installation, "_PACKAGE", folder / "rerank")
    return folder


def record(site: Path, origin: Any = None) -> None:
    """Write what an installer records about the distribution, with its origin unless it came from an index."""
    info = site / "listrank-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: listrank\nVersion: 0.1.0\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))


def make_checkout(folder: Path) -> Path:
    (folder / "rerank").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nname = "listrank"\n')
    return folder


@pytest.mark.parametrize("folder", ["clone", "a clone's"])
@pytest.mark.parametrize("is_editable", [True, False])
def test_a_checkout_is_named_with_its_folder_or_as_a_dot(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, is_editable: bool
) -> None:
    checkout = make_checkout(tmp_path / folder)
    monkeypatch.setattr(installation, "_PACKAGE", checkout / "rerank")
    record(site, {"url": checkout.as_uri(), "dir_info": {"editable": is_editable}})
    options = ["-e"] if is_editable else []
    assert shlex.split(install_command("hf")) == ["pip", "install", *options, f"{checkout}[hf]"]
    monkeypatch.chdir(checkout)
    assert install_command("hf", "serve") == f"pip install {'-e ' * is_editable}'.[hf,serve]'"


def test_a_clone_that_another_checkout_is_installed_beside_is_not_mistaken_for_it(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(site, {"url": make_checkout(tmp_path / "other").as_uri(), "dir_info": {"editable": True}})
    clone = make_checkout(tmp_path / "clone")
    monkeypatch.setattr(installation, "_PACKAGE", clone / "rerank")
    assert install_command("hf") == f"pip install '{clone}[hf]'"


@pytest.mark.parametrize("name", ["clone", "dist/listrank-0.1.0-py3-none-any.whl"])
def test_a_copy_from_a_folder_or_a_wheel_names_it_while_it_exists(site: Path, tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    record(site, {"url": source.as_uri(), "dir_info" if name == "clone" else "archive_info": {}})
    assert install_command("hf") == f"{shlex.quote(sys.executable)} -m pip install 'listrank[hf]==0.1.0'"
    source.mkdir(parents=True)
    assert install_command("hf") == f"pip install '{source}[hf]'"


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (
            {"url": "https://git.example/listrank.git", "vcs_info": _GIT},
            f"listrank[hf] @ git+https://git.example/listrank.git@{_COMMIT}",
        ),
        (
            {"url": "file:///srv/listrank", "vcs_info": _GIT, "subdirectory": "python"},
            f"listrank[hf] @ git+file:///srv/listrank@{_COMMIT}#subdirectory=python",
        ),
        (
            {"url": "https://user:secret@git.example/listrank.git", "vcs_info": _GIT},
            f"listrank[hf] @ git+https://git.example/listrank.git@{_COMMIT}",
        ),
        (
            {"url": "https://files.example/listrank-0.1.0.tar.gz", "archive_info": {}},
            "listrank[hf] @ https://files.example/listrank-0.1.0.tar.gz",
        ),
    ],
)
def test_a_copy_from_elsewhere_names_its_address(site: Path, origin: dict[str, Any], requirement: str) -> None:
    record(site, origin)
    assert install_command("hf") == f"pip install '{requirement}'"


def test_a_copy_from_an_index_keeps_its_version_and_its_environment(site: Path) -> None:
    record(site)
    assert install_command("hf") == f"{shlex.quote(sys.executable)} -m pip install 'listrank[hf]==0.1.0'"


def test_a_copy_without_metadata_names_no_distribution_to_install(site: Path) -> None:
    assert install_command("hf") == "pip install '.[hf]' in a checkout of listrank"


def test_on_windows_words_have_double_quotes(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(site, {"url": "https://git.example/listrank.git", "vcs_info": _GIT})
    monkeypatch.setattr(sys, "platform", "win32")
    assert install_command("hf") == f'pip install "listrank[hf] @ git+https://git.example/listrank.git@{_COMMIT}"'


def texts() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every page, script and module of this checkout."""
    folders = ("docs", "rerank", "examples", "training", "benchmarks", "eval", "deploy")
    paths = [*ROOT.glob("*.md"), ROOT / "Makefile", *(path for name in folders for path in (ROOT / name).rglob("*"))]
    for path in paths:
        if path.suffix in _TEXTS and path.is_file() and "work" not in path.relative_to(ROOT).parts:
            yield path.relative_to(ROOT).as_posix(), path.read_text("utf-8")


def test_nothing_that_users_read_installs_the_name_from_an_index() -> None:
    """No index has the name, so at best such a command fails; at worst it installs the package of a stranger."""
    asks = re.compile(r"listrank\[|pip install[^\n]*[ '\"]listrank(?![\w.-])")
    assert [name for name, text in texts() if asks.search(text)] == []


def test_every_extra_that_a_command_installs_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"].keys()
    commands = re.compile(r"pip install [^\n]*?['\"][^'\"\n]*?\[([a-z,-]+)\]")
    named = {(name, extra) for name, text in texts() for found in commands.findall(text) for extra in found.split(",")}
    assert {("README.md", "rerankers"), ("docs/integrations.md", "langchain"), ("docs/serving.md", "serve")} <= named
    assert [(name, extra) for name, extra in named if extra not in extras] == []
