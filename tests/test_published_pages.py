"""The pages that the build of the site makes, without the ids of documents and topics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs_scripts import DOCS, load_docs_script

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return dict(load_docs_script("published").published_files())


def test_what_pages_link_to_is_made(published: dict[str, str]) -> None:
    assert set(load_docs_script("published").LINKED) <= set(published)
    for name in (name for name in published if name.endswith(".svg")):
        assert ElementTree.fromstring(published[name]).tag.endswith("svg")


def test_the_gallery_shows_everything_that_is_made() -> None:
    page = (DOCS / "gallery.md").read_text("utf-8")
    assert [name for name in load_docs_script("published").LINKED if f"({name})" not in page] == []


def test_pages_link_only_to_files_that_are_made(published: dict[str, str]) -> None:
    for name in (name for name in published if name.endswith(".html")):
        for target in re.findall(r'(?:href|src)="([\w./-]+)"', published[name]):
            assert (Path(name).parent / target).as_posix() in published, (name, target)


def test_no_id_of_a_topic_is_published(published: dict[str, str]) -> None:
    for name in ("dl19", "dl21"):
        topics = json.loads((DOCS.parent / f"eval/leaderboard/{name}.scores.json").read_text("utf-8"))["topics"]
        ids = re.compile(rf"(?<![\d.])(?:{'|'.join(topics)})(?!\d)")
        assert [path for path, text in published.items() if ids.search(text)] == []


def test_the_numbered_board_is_the_recorded_one(published: dict[str, str]) -> None:
    golden = json.loads((DOCS.parent / "eval/leaderboard/dl19.golden.json").read_text("utf-8"))
    table = golden["tables"][0]
    assert (
        f"{table['significant']} of {table['pairs']} pairs differ significantly"
        in published["published/boards/index.html"]
    )
