"""Construction of Lucene indexes with Anserini's indexer, which runs in a separate process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rerank.errors import BackendError, DataError
from rerank.io.sealed_folders import storage_errors
from rerank.retrieval.lucene.index import FIELD, WORDS_ONLY, LuceneIndex, LuceneScoring, replace_surrogates_for_java

_INDEXER = "pyserini.index.lucene"
#: Size of the indexer's buffer in megabytes; the default of the indexer may exceed the memory available to Java.
_BUFFER = 256


def write_lucene_index(folder: Path, documents: Iterable[str], language: str) -> None:
    """Write a Lucene index of texts, in which the id of a document is its position.

    Documents without a visible character are omitted. Term vectors are stored, so the same index can be used with and
    without RM3; texts are not stored.

    Args:
        folder: The empty target folder; temporary files are written beside it.
        documents: The text of each document, in the order of the collection.
        language: Language code from `rerank.retrieval.lucene.index.lucene_analyzer_code`.
    """
    with storage_errors(folder), tempfile.TemporaryDirectory(prefix=f"{folder.name}-", dir=folder.parent) as scratch:
        written = total = 0
        with (Path(scratch) / "documents.jsonl").open("w", encoding="ascii") as file:
            for text in documents:
                if any(character > " " and not character.isspace() for character in text):
                    file.write(json.dumps({"id": str(total), FIELD: replace_surrogates_for_java(text)}) + "\n")
                    written += 1
                total += 1
        if not written:
            raise DataError(
                f"None of the {total} documents has a text to index",
                expected="at least one document with text",
                remedy="Check the collection's files and the option 'fields'",
            )
        _run_lucene_indexer(Path(scratch), folder, language)
    index = LuceneIndex(folder, language, LuceneScoring(k1=0.9, b=0.4))
    indexed = len(index)
    index.close()
    if indexed != written:
        raise BackendError(
            f"Anserini indexed only {indexed} of {written} documents", remedy="Check the free disk space"
        )


def _run_lucene_indexer(source: Path, folder: Path, language: str) -> None:
    """Run the indexer in a separate process, because it logs to stdout and frees its memory only when it ends."""
    analysis = ["--stemmer", "none", "--keepStopwords"] if language == WORDS_ONLY else ["--language", language]
    command = [sys.executable, "-m", _INDEXER, "--collection", "JsonCollection", "--threads", "1", "--optimize"]
    command += ["--generator", "DefaultLuceneDocumentGenerator", "--storeDocvectors", "--memoryBuffer", str(_BUFFER)]
    done = subprocess.run(
        [*command, *analysis, "--input", str(source), "--index", str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last_lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
        raise BackendError(f"Anserini's indexer ended with code {done.returncode}: {' / '.join(last_lines)}")
