"""What the files and models hold that a first stage names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rerank.errors import UnknownNameError
from rerank.mmteb.evaluation import hash_contents
from rerank.models import model_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_files_by_their_bytes_also_those_of_a_hybrids_stages(tmp_path: Path) -> None:
    one, two = tmp_path / "one.trec", tmp_path / "two.trec"
    one.write_text("1")
    two.write_text("2")
    hashes = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (one, two)}
    assert hash_contents(f"run:{one}") == {str(one): hashes[str(one)]}
    assert hash_contents(f"hybrid:(bm25,k1=1.2)+(run:{one})+run:{two}") == hashes
    assert hash_contents(f"late-interaction:{two},candidates=(run:{one})") == hashes
    assert hash_contents("bm25,k1=1.2") == hash_contents(f"run:{tmp_path / 'none.trec'}") == {}
    with pytest.raises(UnknownNameError):
        hash_contents("bm26")


def test_a_known_model_that_is_the_default_counts_too() -> None:
    assert hash_contents("dense") == {}
    folder = model_folder("all-minilm-l6-v2")
    folder.mkdir(parents=True)
    seen: set[str] = set()
    for weights in ("one", "other"):
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(weights)
        found = hash_contents("dense")
        assert found.keys() == {"all-minilm-l6-v2"}
        assert hash_contents("dense:all-minilm-l6-v2") == found
        seen.add(*found.values())
    assert len(seen) == 2
