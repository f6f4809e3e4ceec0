"""The run folder: what a run was, what it asked, what came of it. Every file is whole or absent.

    spec.json          what was asked for, what decides the result (hashed), where it ran (not hashed)
    calls.sqlite       every call, committed batch by batch
    first_stage.trec   the first stage's lists, before any shuffle
    queries.jsonl      the queries they answer
    run.trec           the result
    qrels.trec         the judgments it was scored with, if any
    scores.json        means and per-query values
    splits.jsonl       windows that were too long for the context, and how many of their documents fitted; if any
    summary.json       windows, calls, tokens, seconds; written last

Knows these files, not how a run is made.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, StorageError, UsageError
from rerank.io.run_files import read_qrels, read_run, write_qrels, write_run
from rerank.io.text_files import open_text, replace_text
from rerank.store.calls import CallLog
from rerank.types import Qrels, Query, Ranking, Run, Window

#: In the order in which they may go: the calls first and the spec last, so that what is left is ours to go on with.
_RESULTS = ("summary.json", "splits.jsonl", "scores.json", "run.trec")
_FILES = (*_RESULTS, "first_stage.trec", "queries.jsonl", "qrels.trec", "spec.json")


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Hex SHA-256 of everything that decides a result."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class RunFolder:
    """One run's folder.

    Args:
        path: The folder; need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        """Remember the place; nothing is touched."""
        self.path = Path(path)

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """Open a folder that must be there.

        Raises:
            MissingResourceError: It is not, or holds no run.
        """
        folder = cls(path)
        if not (folder.path / "spec.json").is_file():
            raise MissingResourceError(
                f"{str(path)!r} is no run folder", expected="a folder with a spec.json, as `rerank run` leaves it"
            )
        return folder

    @property
    def finished(self) -> bool:
        """Whether the run in it came to its end with a reply to every call."""
        return (self.path / "summary.json").is_file() and bool(self.read_json("summary.json").get("complete"))

    @contextmanager
    def begin(self, document: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False) -> Iterator[None]:
        """Make the folder ready for a run, or for going on with it, and hold it while the block runs.

        Args:
            document: What goes into spec.json; ``document["hash"]`` is the identity.
            resume: Go on with an unfinished run.
            overwrite: Throw away what is there.

        Raises:
            UsageError: The folder holds another run, an unfinished one, something else, or another process.
            StorageError: It cannot be made.
        """
        self._refuse_foreign()
        with self._locked():
            for scrap in filter(_is_scrap, list(self.path.iterdir())):
                scrap.unlink()
            if overwrite:
                self._clear()
            if (self.path / "spec.json").exists():
                self._check(document, resume=resume)
                # What is no part of the identity (measures, judgments) is what was asked for last.
                document = self.spec() | {"spec": document["spec"]}
            self.write_json("spec.json", document)
            yield

    def _refuse_foreign(self) -> None:
        """Never touch a folder that is not ours, whatever was asked."""
        if self.path.is_dir() and not (self.path / "spec.json").is_file():
            strange = [e.name for e in self.path.iterdir() if e.name != ".lock" and not _is_scrap(e)]
            if strange:
                raise UsageError(
                    f"{str(self.path)!r} is there and is no run folder (it holds {strange[0]!r})",
                    remedy="Name another --out",
                )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise StorageError(f"Cannot make the run folder {str(self.path)!r}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UsageError(
                    f"Another process is at work in {str(self.path)!r}", remedy="Wait for it, or name another --out"
                ) from error
            yield

    def _check(self, document: Mapping[str, Any], *, resume: bool) -> None:
        there = self.spec()
        if there["hash"] != document["hash"]:
            raise UsageError(
                f"{str(self.path)!r} holds another run: {', '.join(_differences(there, document))}",
                remedy="Name another --out, or pass --overwrite to throw it away",
            )
        if not self.finished and not resume:
            with self.calls() as calls:
                committed = len(calls)
            raise UsageError(
                f"{str(self.path)!r} holds this run, unfinished: with {committed} calls committed, others open",
                remedy="Pass --resume to go on, or --overwrite to start again",
            )

    def _clear(self) -> None:
        for calls in self.path.glob("calls.sqlite*"):
            calls.unlink()
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)

    def calls(self, *, readonly: bool = False) -> CallLog:
        """Open the call log."""
        return CallLog(self.path / "calls.sqlite", readonly=readonly)

    def spec(self) -> dict[str, Any]:
        """The content of spec.json."""
        return self.read_json("spec.json", "hash", "spec", "identity")

    def file_hash(self, name: str) -> str:
        """Hex SHA-256 of one of the folder's files; empty if it is not there."""
        path = self.path / name
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    def read_json(self, name: str, *keys: str) -> dict[str, Any]:
        """One of the folder's JSON files.

        Args:
            name: Its name.
            keys: Keys that it must have.

        Raises:
            MissingResourceError: It is not there.
            DataError: It is not a JSON object, or a key is missing.
        """
        path = self.path / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise MissingResourceError(f"{str(path)!r} is missing", remedy="Finish the run with --resume") from error
        except ValueError as error:
            raise DataError(f"{str(path)!r} is not JSON: {error}") from error
        if not isinstance(content, dict):
            raise DataError(f"{str(path)!r} holds a {type(content).__name__}", expected="a JSON object")
        if missing := [key for key in keys if key not in content]:
            raise DataError(f"{str(path)!r} has no {missing[0]!r}", expected="the keys that `rerank run` writes")
        return content

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one of the folder's JSON files, whole or not at all."""
        with replace_text(self.path / name) as file:
            file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_run(self, name: str) -> Run:
        """One of the folder's TREC runs; empty where no query had a candidate, which leaves no line to write."""
        files = (self.path / name, self.path / "first_stage.trec")
        if all(path.is_file() and path.stat().st_size == 0 for path in files):
            return Run(())
        return read_run(self.path / name)

    def write_run(self, name: str, run: Run) -> None:
        """Write one of the folder's TREC runs."""
        write_run(run, self.path / name)

    def write_candidates(self, run: Run) -> None:
        """Keep the candidates and the queries they answer (documents by id only)."""
        self.write_run("first_stage.trec", run)
        with replace_text(self.path / "queries.jsonl") as file:
            for ranking in run.values():
                row = {"id": ranking.query.id, "text": ranking.query.text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def read_candidates(self) -> Run:
        """The candidates, with their queries' text; every query is there, those without candidates too."""
        found = self.read_run("first_stage.trec")
        with open_text(self.path / "queries.jsonl") as file:
            try:
                queries = [Query(**json.loads(line)) for line in file]
            except (ValueError, TypeError) as error:
                raise DataError(
                    f"{str(self.path / 'queries.jsonl')!r}: {error}",
                    expected="an object with id and text in every line",
                ) from error
        lists = [(query, found[query.id] if query.id in found else Ranking(query, (), ())) for query in queries]
        return Run((replace(ranking, query=query) for query, ranking in lists), name=found.name)

    def write_splits(self, splits: Iterable[tuple[Window, int]]) -> None:
        """Keep which windows were ranked in parts (documents by id only), so that the run can be replayed."""
        with replace_text(self.path / "splits.jsonl") as file:
            for window, room in splits:
                row = {"query": window.query.id, "docs": [doc.id for doc in window.docs], "room": room}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def read_splits(self) -> dict[tuple[str, tuple[str, ...]], int]:
        """(Query, documents) -> how many of the documents fitted; empty if every window fitted."""
        path = self.path / "splits.jsonl"
        if not path.is_file():
            return {}
        with open_text(path) as file:
            try:
                rows = [json.loads(line) for line in file]
                return {(row["query"], tuple(row["docs"])): int(row["room"]) for row in rows}
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{str(path)!r}: {error!r}", expected="query, docs and room in every line") from error

    def write_passages(self, lists: Iterable[Ranking]) -> None:
        """Keep into how many passages each document was cut, so that the run can be replayed without texts."""
        with replace_text(self.path / "passages.jsonl") as file:
            for ranking in lists:
                counts = dict(Counter(doc.part_of for doc in ranking.docs))
                file.write(json.dumps({"query": ranking.query.id, "docs": counts}, ensure_ascii=False) + "\n")

    def read_passages(self) -> dict[str, dict[str, int]]:
        """Query -> document -> its passages; empty if documents were shown whole."""
        path = self.path / "passages.jsonl"
        if not path.is_file():
            return {}
        with open_text(path) as file:
            try:
                rows = [json.loads(line) for line in file]
                return {row["query"]: {doc: int(count) for doc, count in row["docs"].items()} for row in rows}
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DataError(f"{str(path)!r}: {error!r}", expected="query and docs in every line") from error

    def read_qrels(self) -> Qrels:
        """The judgments the run was scored with; empty if there were none."""
        path = self.path / "qrels.trec"
        return read_qrels(path) if path.is_file() else Qrels({})

    def write_qrels(self, qrels: Qrels) -> None:
        """Keep the judgments."""
        write_qrels(qrels, self.path / "qrels.trec")


#: Fields of a specification that are no part of a run's identity.
_FREE = {"measures", "relevant", "qrels", "max_failure_rate"}


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two runs, for a message: options where they explain it, else parts of the identity."""
    for part, free in (("spec", _FREE), ("identity", set())):
        old, new = there.get(part, {}), wanted[part]
        keys = [key for key in {**old, **new} if key not in free and old.get(key) != new.get(key)]
        if keys:
            return [f"{key} is {_short(old.get(key))} there and {_short(new.get(key))} here" for key in keys]
    return ["its hash is another"]


def _is_scrap(path: Path) -> bool:
    """Whether a file is what a kill left of another file's writing."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
