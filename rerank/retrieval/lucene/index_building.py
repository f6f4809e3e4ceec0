"""Texts -> a Lucene index, written by Anserini's indexer in a process of its own. Knows no query."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rerank.errors import BackendError, DataError
from rerank.io.sealed_folders import storing
from rerank.retrieval.lucene.index import FIELD, WORDS_ONLY, LuceneIndex, Scoring, whole

_INDEXER = "pyserini.index.lucene"
#: Megabytes that the indexer collects before it writes; its own default may be more than Java is given.
_BUFFER = 256


def write_index(folder: Path, documents: Iterable[str], language: str) -> None:
    """Index texts; a document's id in the index is its position. Those without a visible character are left out.

    Vectors of terms are kept, so that one index serves with and without RM3; texts are not.

    Args:
        folder: Where to write: empty, and files can be put beside it for a while.
        documents: The text of each, in the order of the collection.
        language: As `rerank.retrieval.lucene.index.analysis` gives it.

    Raises:
        DataError: No document has any text.
        BackendError: Anserini's indexer failed.
        StorageError: The disk did not take it.
    """
    with storing(folder), tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as aside:
        written = total = 0
        with (Path(aside) / "documents.jsonl").open("w", encoding="ascii") as file:
            for text in documents:
                if any(character > " " and not character.isspace() for character in text):
                    file.write(json.dumps({"id": str(total), FIELD: whole(text)}) + "\n")
                    written += 1
                total += 1
        if not written:
            raise DataError(
                f"None of the {total} documents has a text to index",
                expected="text",
                remedy="Check the collection's files and the option 'fields'",
            )
        _run_indexer(Path(aside), folder, language)
    index = LuceneIndex(folder, language, Scoring(k1=0.9, b=0.4))
    found = len(index)
    index.close()
    if found != written:
        raise BackendError(f"Anserini indexed {found} of {written} documents", remedy="Check the space on the disk")


def _run_indexer(source: Path, folder: Path, language: str) -> None:
    """Run it apart: it logs to the standard output, and gives its memory back when it ends."""
    how = ["--stemmer", "none", "--keepStopwords"] if language == WORDS_ONLY else ["--language", language]
    command = [sys.executable, "-m", _INDEXER, "--collection", "JsonCollection", "--threads", "1", "--optimize"]
    command += ["--generator", "DefaultLuceneDocumentGenerator", "--storeDocvectors", "--memoryBuffer", str(_BUFFER)]
    done = subprocess.run(
        [*command, *how, "--input", str(source), "--index", str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
        raise BackendError(f"Anserini's indexer ended with code {done.returncode}: {' / '.join(last)}")
