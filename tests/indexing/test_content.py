"""What the files and models hold that a first stage names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rerank.errors import UnknownNameError
from rerank.indexing.content_hashes import content_of
from rerank.models import folder_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_files_by_their_bytes_also_those_of_a_hybrids_stages(tmp_path: Path) -> None:
    one, two = tmp_path / "one.trec", tmp_path / "two.trec"
    one.write_text("1")
    two.write_text("2")
    hashes = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (one, two)}
    assert content_of(f"run:{one}") == {str(one): hashes[str(one)]}
    assert content_of(f"hybrid:(bm25,k1=1.2)+(run:{one})+run:{two}") == hashes
    assert content_of("bm25,k1=1.2") == content_of(f"run:{tmp_path / 'none.trec'}") == {}
    with pytest.raises(UnknownNameError):
        content_of("bm26")


def test_a_known_model_that_is_the_default_counts_too() -> None:
    assert content_of("dense") == {}
    folder = folder_of("all-minilm-l6-v2")
    folder.mkdir(parents=True)
    seen: set[str] = set()
    for weights in ("one", "other"):
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(weights)
        found = content_of("dense")
        assert found.keys() == {"all-minilm-l6-v2"}
        assert content_of("dense:all-minilm-l6-v2") == found
        seen.add(*found.values())
    assert len(seen) == 2
