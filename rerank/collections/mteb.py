"""Provider of the retrieval and reranking tasks of mteb (MTEB and MMTEB), opened by their names.

mteb 2.x stores a split as ``corpus`` (id, title, text), ``queries`` (id, text, optionally instruction),
``relevant_docs`` and ``top_ranked``. Queries and instructions are joined as mteb joins them for its own models.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rerank.collections.base import check_language_code, require_path
from rerank.errors import (
    DataError,
    MissingPrerequisiteError,
    MissingResourceError,
    UnknownNameError,
    UsageError,
    ensure,
)
from rerank.installation import install_command
from rerank.io.json_records import parse_json_text
from rerank.io.settings_files import read_json_object
from rerank.types import Document, Qrels, Query, Ranking, Run

_SHOWN = 12
#: Mapping from the ISO 639-3 code of a standard variety, such as Mandarin, to the code that first stages expect.
_STANDARDS = {
    **{"cmn": "zh", "arb": "ar", "nob": "no", "nno": "no", "swh": "sw", "pes": "fa", "npi": "ne", "ekk": "et"},
    **{"zsm": "ms", "lvs": "lv", "khk": "mn", "als": "sq", "azj": "az", "uzn": "uz", "ydd": "yi", "ory": "or"},
}
#: Characters that TREC run files cannot contain in an id, and the escape character.
_UNWRITABLE = re.compile('[%\\s\0\ufeff\ud800-\udfff]|^[\\[{"]')
_COMMIT = re.compile(r"[0-9a-f]{40}")


def _choose_subset_or_split(kind: str, name: str, known: Sequence[str], task: str) -> str:
    """Return the name of a subset or split after checking it; if ``name`` is empty, return the only one."""
    if name and name not in known:
        raise UnknownNameError(f"{kind} of {task}:", name, known)
    if not name and len(known) > 1:
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        raise UsageError(
            f"The task {task} has {len(known)} {kind}s",
            expected=f"one of {', '.join(known[:_SHOWN])}{more}",
            remedy=f"Set the option {kind}, as in mteb:{task},{kind}={known[0]}",
        )
    return name or known[0]


def predictions_file(path: str | Path, task: str) -> Path:
    """Return the file with a task's predictions: ``path`` or, if it is a folder, the file that mteb writes into it."""
    expanded = require_path(path, "predictions saved by mteb, a JSON file or its folder")
    if not expanded.is_dir():
        return expanded
    return require_path(expanded / f"{task}_predictions.json", f"the predictions for {task}")


def _read_predictions(path: Path, subset: str, split: str) -> Mapping[str, Mapping[str, float]]:
    """Return the scores of one subset and split, read from a file saved by ``mteb.evaluate``."""
    saved = read_json_object(path, "file of predictions")
    try:
        lists = saved[subset][split]
        return {str(query): {str(doc): float(score) for doc, score in docs.items()} for query, docs in lists.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path} has no predictions for the subset {subset!r} and the split {split!r} ({error!r:.100})",
            expected="{subset: {split: {query: {document: score}}}}, as mteb saves with prediction_folder",
        ) from error


def top_candidates(lists: Mapping[str, Mapping[str, float]], top_k: int) -> dict[str, list[str]]:
    """Return the ``top_k`` documents of each query with the highest scores; ties keep their order, as in mteb."""
    ensure(top_k >= 1, f"The collection 'mteb' has the option top_k={top_k}", expected="at least 1")
    return {query: sorted(docs, key=lambda doc: docs[doc], reverse=True)[:top_k] for query, docs in lists.items()}


def import_mteb() -> Any:
    """Import mteb, check its version, and return the module."""
    try:
        import mteb
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"The package mteb is needed, but cannot be imported ({error})", remedy=f"Run: {install_command('mteb')}"
        ) from error
    if not hasattr(mteb, "evaluate"):
        raise MissingPrerequisiteError(
            f"The installed version of mteb is {getattr(mteb, '__version__', '')}",
            expected="2.0 or newer",
            remedy=f"Run: {install_command('mteb')}",
        )
    return mteb


def find_task(name: str) -> Any:
    """Return a task of mteb by name, without loading its data."""
    mteb = import_mteb()
    try:
        task = mteb.get_task(name)
    except KeyError as error:
        kinds = ["Retrieval", "Reranking", "InstructionReranking"]
        known = [task.metadata.name for task in mteb.get_tasks(task_types=kinds)]
        raise UnknownNameError("task of mteb", name, known) from error
    return check_task(task)


def check_task(task: Any) -> Any:
    """Return the task after checking that it ranks texts."""
    ensure(
        hasattr(task, "convert_to_reranking"),
        f"{task.metadata.name} is a task of the type {task.metadata.type}",
        expected="Retrieval or Reranking",
    )
    ensure(
        list(task.metadata.modalities) == ["text"],
        f"{task.metadata.name} is a task with the modalities {', '.join(task.metadata.modalities)}",
        expected="only text",
    )
    return task


def language_of_subset(metadata: Any, subset: str) -> str:
    """Return the ISO 639-1 code of a subset's language; ``mul`` for several languages, ``und`` if there is none."""
    scripts = metadata.hf_subsets_to_langscripts.get(subset) or metadata.bcp47_codes
    codes = {code.split("-")[0] for code in scripts}
    if len(codes) != 1:
        return "mul"
    from importlib.resources import files

    (code,) = codes
    table = files("mteb.languages").joinpath("iso_639_1_to_3.json").read_text(encoding="utf-8")
    two_letters = {three: two for two, three in json.loads(table).items()}
    return _STANDARDS.get(code) or two_letters.get(code, "und")


def load_task(task: Any) -> Any:
    """Load a task's data unless they are already loaded, and return the task."""
    if not task.data_loaded:
        with _named_errors(task.metadata.name):
            task.load_data()
    task.convert_v1_dataset_format_to_v2(num_proc=None)
    parts = [data for splits in task.dataset.values() for data in splits.values()]
    if "Reranking" in task.metadata.type and not any(data.get("top_ranked") for data in parts):
        # Without the hub, the package datasets lists one cached configuration only, and mteb then skips the lists.
        raise MissingResourceError(
            f"The data of mteb's reranking task {task.metadata.name!r} have no candidate lists",
            expected="the configuration top_ranked of the data set, which is not found without the hub",
            remedy="Connect to the network and unset HF_HUB_OFFLINE",
        )
    return task


@contextlib.contextmanager
def _named_errors(name: str) -> Generator[None]:
    """Raise a `MissingResourceError` if a task's data cannot be downloaded or read in the block."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip()[:300] or type(error).__name__
        raise MissingResourceError(
            f"The data of mteb's task {name!r} cannot be read: {reason}",
            remedy="Check the network and your access to the data set, or put the data into Hugging Face's cache",
        ) from error


def escape_id(identifier: str) -> str:
    """Percent-encode the characters of an id that run files cannot contain, and ``%`` itself.

    >>> escape_id("a b%"), escape_id("doc-1")
    ('a%20b%25', 'doc-1')
    """
    return _UNWRITABLE.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass")), identifier
    )


def _query_text(row: Mapping[str, Any]) -> str:
    """Return a query as one text: the query or the turns of its conversation, together with its instruction.

    As in mteb, the instruction follows a text but precedes a conversation.
    """
    query, instruction = row["text"], row.get("instruction")
    if isinstance(query, str):
        return f"{query} {instruction}" if instruction is not None else query
    turns = "; ".join(turn if isinstance(turn, str) else f"{turn['role']}: {turn['content']}" for turn in query)
    return f"{instruction} {turns}" if instruction is not None else turns


class TaskDocuments:
    """The documents of one split of a task by id, from mteb's ``corpus``; the last row of an id counts, as in mteb."""

    def __init__(self, rows: Any, where: str) -> None:
        self._rows, self._where = rows, where
        self._row_of = {str(own_id): row for row, own_id in enumerate(rows["id"])}
        self.own_ids = {escape_id(own_id): own_id for own_id in self._row_of}

    def __len__(self) -> int:
        return len(self._row_of)

    def __iter__(self) -> Iterator[Document]:
        for own_id, row in self._row_of.items():
            yield self._document(own_id, self._rows[row])

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these escaped ids; unknown ids are omitted."""
        own_ids = [self.own_ids[doc_id] for doc_id in ids if doc_id in self.own_ids]
        return {escape_id(own_id): self._document(own_id, self._rows[self._row_of[own_id]]) for own_id in own_ids}

    def _document(self, own_id: str, row: Mapping[str, Any]) -> Document:
        where = f"{self._where}, document {own_id!r}"
        title = parse_json_text(row.get("title") or "", where)
        return Document(
            id=escape_id(own_id), title=title.strip(), text=parse_json_text(row["text"] or "", where).strip()
        )


class TaskSplit:
    """A collection of one subset and split of an mteb task.

    Ids are escaped with `escape_id`, so that run files can contain them. ``allowed`` maps the id of a query in mteb to
    the ids in mteb of the documents that may be ranked for it; all documents may be ranked for other queries.
    """

    def __init__(
        self,
        metadata: Any,
        subset: str,
        split: str,
        data: Mapping[str, Any],
        *,
        drop_self: bool = False,
        allowed: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        parts = [metadata.name, *([] if subset == "default" else [subset]), split]
        self.name = escape_id("/".join(parts))
        self.language = language_of_subset(metadata, subset)
        self.relevant, self.drop_self = 1, drop_self
        self._metadata, self._subset, self._split = metadata, subset, split
        self._data, self.allowed = data, allowed or {}

    @property
    def _content(self) -> tuple[Mapping[str, Any], Mapping[str, Iterable[str]]]:
        return self._data, self.allowed

    @cached_property
    def texts(self) -> TaskDocuments:
        return TaskDocuments(self._content[0]["corpus"], self.name)

    def docs(self) -> Iterator[Document]:
        return iter(self.texts)

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        return self.texts.lookup(ids)

    def queries(self) -> list[Query]:
        """Return the judged queries, as mteb does, or all queries if there are no judgments."""
        judged = self.qrels()
        return [query for query in self._queries if not judged or query.id in judged]

    @cached_property
    def _queries(self) -> list[Query]:
        rows = self._content[0]["queries"]
        queries = [
            Query(id=escape_id(str(row["id"])), text=parse_json_text(_query_text(row), self.name)) for row in rows
        ]
        if len({query.id for query in queries}) < len(queries):
            raise DataError(f"{self.name}: there is a duplicate query id", expected="each id once")
        return queries

    @cached_property
    def own_queries(self) -> dict[str, str]:
        return {escape_id(str(own)): own for own in self._content[0]["queries"]["id"]}

    def qrels(self) -> Qrels:
        return self._judged

    @cached_property
    def _judged(self) -> Qrels:
        relevant_docs = self._content[0].get("relevant_docs") or {}
        table = {
            escape_id(str(query)): {escape_id(str(doc)): int(grade) for doc, grade in judged.items()}
            for query, judged in relevant_docs.items()
            if judged
        }
        return Qrels(table, name=self.name)

    def excluded(self) -> dict[str, frozenset[str]]:
        every = frozenset(self.texts.own_ids.values())
        rows = {str(query): every.difference(map(str, docs)) for query, docs in self._content[1].items()}
        return {escape_id(query): frozenset(map(escape_id, docs)) for query, docs in rows.items() if docs}

    def candidates(self) -> Run:
        """Return the task's lists with texts, one per query, if any; the first occurrence of a document counts."""
        lists = self._content[0].get("top_ranked")
        if not lists:
            return Run((), name=self.name)
        ids = {escape_id(str(query)): [escape_id(str(doc)) for doc in docs] for query, docs in lists.items()}
        queries = self.queries()
        docs = self.lookup({doc for query in queries for doc in ids.get(query.id, ())})
        rankings = []
        for query in queries:
            listed = ids.get(query.id, [])
            if missing := [doc for doc in listed if doc not in docs]:
                raise DataError(
                    f"{self.name}: the list of query {query.id!r} contains {len(missing)} unknown documents, "
                    f"including {missing[0]!r}",
                    remedy="Use lists that were made from this version of the task",
                )
            rankings.append(Ranking.from_order(query, (docs[doc] for doc in dict.fromkeys(listed))))
        return Run(rankings, name=self.name)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the commit of the data set of a published task, or of the data of any other task."""
        dataset = self._metadata.dataset
        published = _COMMIT.fullmatch(str(dataset.get("revision", ""))) is not None
        identity = {"task": self._metadata.name, "subset": self._subset, "split": self._split, **dataset}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
        if not published:
            for query in self._queries:
                digest.update(json.dumps([query.id, query.text]).encode())
            for doc in self.docs():
                digest.update(json.dumps([doc.id, doc.title, doc.text]).encode())
            for query_id, judged in self.qrels().items():
                digest.update(json.dumps([query_id, sorted(judged.items())]).encode())
        digest.update(json.dumps(self._content[0].get("top_ranked") or {}, default=str).encode())
        return digest.hexdigest()


class Mteb(TaskSplit):
    """A subset and split of one of mteb's tasks, e.g. ``T2Reranking``; needs the extra ``mteb``.

    The lists of a reranking task are the candidates. In many tasks, a list starts with the relevant documents, so use
    ``--shuffle random``; otherwise, a reranker that keeps the input order would have a perfect score.

    ``subset`` (usually a language) and ``split`` are required if the task has several. ``predictions`` is a file, or
    its folder, with first-stage rankings saved by ``mteb.evaluate(..., prediction_folder=...)``; the first ``top_k``
    documents of each become the candidates, in place of the task's own lists. ``language`` is the ISO 639 code of the
    documents' language, ``mul`` for several languages, ``und`` for none; by default the language that mteb states.
    """

    def __init__(
        self,
        task: str,
        *,
        subset: str = "",
        split: str = "",
        predictions: str = "",
        top_k: int = 100,
        language: str = "",
    ) -> None:
        self._open(find_task(task), subset, split, language)
        self._saved = predictions_file(predictions, task) if predictions else None
        self._top_k = top_k

    @classmethod
    def from_task(cls, task: Any, *, subset: str = "", split: str = "") -> Mteb:
        """Return the collection for a task object, such as a task that is not registered in mteb."""
        collection = cls.__new__(cls)
        collection._open(check_task(task), subset, split)
        collection._saved, collection._top_k = None, 100
        return collection

    def _open(self, task: Any, subset: str, split: str, language: str = "") -> None:
        self._task = task
        subset = _choose_subset_or_split("subset", subset, task.hf_subsets, task.metadata.name)
        split = _choose_subset_or_split("split", split, task.eval_splits, task.metadata.name)
        super().__init__(task.metadata, subset, split, {}, drop_self=bool(task.ignore_identical_ids))
        if language:
            self.language = check_language_code(language)

    @cached_property
    def _content(self) -> tuple[Mapping[str, Any], Mapping[str, Iterable[str]]]:
        """The data of the task, which is loaded on first use, with the predictions in place of its own lists."""
        task = load_task(self._task)
        for kind, name, known in (
            ("subset", self._subset, task.dataset),
            ("split", self._split, task.dataset.get(self._subset, {})),
        ):
            if name not in known:
                raise UnknownNameError(f"{kind} of {task.metadata.name}:", name, map(str, known))
        data = task.dataset[self._subset][self._split]
        allowed: Mapping[str, Iterable[str]] = {}
        lists, size = data.get("top_ranked") or {}, len(data["corpus"])
        # The lists of a retrieval task are not candidates: each contains the whole corpus except the query's excluded
        # ids. A retrieval task that was converted to reranking has short lists, which are candidates.
        if task.metadata.type == "Retrieval" and all(2 * len(docs) > size for docs in lists.values()):
            data, allowed = {**data, "top_ranked": None}, lists
        if self._saved is not None:
            saved = _read_predictions(self._saved, self._subset, self._split)
            data = {**data, "top_ranked": top_candidates(saved, self._top_k)}
        return data, allowed
