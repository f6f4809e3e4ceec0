"""Prompts of published rerankers are those of their authors.

Each file in ``published/`` has the chat that the authors' code makes of a query and passages. It was written by running
that code, at the commit in the file, on these texts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank.prompts import load_prompt, prompt_text

PUBLISHED = sorted((Path(__file__).parent / "published").glob("*.json"))
#: What the authors' code appends to a chat, which is the beginning of the reply.
APPENDED = {"rank_zephyr_alpha": "["}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_the_chat_is_that_of_the_authors_code(path: Path) -> None:
    published: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    prompt = load_prompt(path.stem)
    labels = ["A", "B", "C"] if path.stem == "rank_zephyr_alpha" else None
    scores = [12.5, 7.25, 3.0] if prompt.shows_scores else None
    chat = prompt.render(published["query"], published["passages"], scores=scores, labels=labels)
    turns = [{"role": turn.role, "content": turn.content} for turn in chat]
    begun = APPENDED.get(path.stem)
    expected = published["messages"] + ([{"role": "assistant", "content": begun}] if begun else [])
    assert turns == expected


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_the_file_names_its_source(path: Path) -> None:
    published: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    comment = " ".join(line[2:] for line in prompt_text(path.stem).splitlines() if line.startswith("#"))
    for key in ("repository", "commit", "path", "licence"):
        assert published[key] in comment
