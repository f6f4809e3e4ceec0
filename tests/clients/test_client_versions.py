"""The page on clients names the versions that are tested."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_has_the_tested_versions() -> None:
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    supported, _, _ = page.partition("## Clients that are not supported")
    rows = dict(re.findall(r"^\| ([\w-]+) \| (\d\S+) \|", supported, re.M))
    pins: dict[str, str] = {}
    for file in sorted((ROOT / "tests" / "clients").glob("requirements*.txt")):
        clients, _, _ = file.read_text(encoding="utf-8").partition("# The tests themselves.")
        pins |= dict(re.findall(r"^([\w-]+)(?:\[\w+\])?==(\S+)$", clients, re.M))
    assert rows == {name: version for name, version in pins.items() if name != "langchain-classic"}
