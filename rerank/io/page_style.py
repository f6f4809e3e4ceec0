"""The style sheet that all HTML pages of the package share."""

from __future__ import annotations

from importlib.resources import files


def read_page_style(package: str, name: str) -> str:
    """Return the shared style sheet, followed by that of a page: the file ``name`` of ``package``."""
    sheets = files("rerank.io") / "page.css", files(package) / name
    return "".join(sheet.read_text(encoding="utf-8") for sheet in sheets)
