"""Reader of training lists from data sets on the Hugging Face hub or in a local folder, with the package datasets.

A row is one list. Rows with the keys of label files, FlagEmbedding files or conversations are read as in those files.
Other rows must contain a query with positives and negatives, or with graded documents; their columns are renamed to the
keys of FlagEmbedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError, UsageError, error_repr
from rerank.io.json_records import TEXTS, JsonRecord
from rerank.selector import Selector, convert_selector_options

#: Names of columns in data sets for training rankers, in order of precedence.
_QUERIES = ("query", "anchor", "question")
_POSITIVES = ("positive", "positives", "pos", "positive_passages")
_NEGATIVES = ("negative", "negatives", "neg", "negative_passages")
_DOCUMENTS = ("docs", "documents", "passages")
_GRADES = ("labels", "grades", "scores")
_PREFIX = "hf:"
_COMMIT = re.compile("[0-9a-f]{40}")


def is_hub_dataset(path: str | Path) -> bool:
    """Return whether a text is the selector of a data set, such as ``hf:owner/name,split=train``, and not a path."""
    return str(path).startswith(_PREFIX)


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set of training lists, as specified by a selector ``hf:NAME,KEY=VALUE``.

    Attributes:
        name: Name of the data set on the hub, or path of a local folder.
        options: Split, configuration, revision and names of the columns.
    """

    name: str
    options: HubDatasetOptions

    @classmethod
    def parse(cls, text: str) -> HubDataset:
        """Parse a selector, such as ``hf:owner/name,split=train``."""
        selector = Selector.parse(text)
        if not selector.argument:
            raise UsageError(
                f"The selector {text!r} contains no name of a data set", expected="hf:OWNER/NAME, or hf:FOLDER"
            )
        options = convert_selector_options(_PREFIX.rstrip(":"), HubDatasetOptions, selector.options)
        return cls(selector.argument, HubDatasetOptions(**options))

    def commit(self) -> str:
        """Return the commit of the data set on the hub that ``revision`` refers to; empty for a local folder."""
        if Path(self.name).is_dir():
            return ""
        return str(self._call("load_dataset_builder").hash)

    def records(self) -> Iterator[JsonRecord]:
        """Yield the rows of the data set in the format of label files, FlagEmbedding files or conversations."""
        options = self.options
        if _COMMIT.fullmatch(options.revision) and (commit := self.commit()) not in ("", options.revision):
            raise DataError(
                f"The commit of the data set {self.name!r} in the cache is {commit}",
                expected=f"commit {options.revision}",
                remedy="Connect to the network once, so that this commit is downloaded",
            )
        for number, row in enumerate(self._call("load_dataset", split=options.split), 1):
            yield JsonRecord(f"{_PREFIX}{self.name}, row {number}", self._fields(row, number))

    def _call(self, function: str, **more: Any) -> Any:
        """Call a function of the package datasets with this data set and the arguments ``more``; return its result."""
        try:
            datasets = import_module("datasets")  # by name, since it has no types
        except ImportError as error:
            raise MissingPrerequisiteError(
                f"{_PREFIX}{self.name} needs the package datasets, which is not installed",
                remedy="Run: pip install 'listrank[train]'",
            ) from error
        options = self.options
        try:
            return getattr(datasets, function)(
                self.name, options.config or None, revision=options.revision or None, **more
            )
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise MissingResourceError(
                f"The data set {self.name!r} cannot be loaded: {error}",
                remedy="Check its name, config, split and revision. Without a network, first load it once with a "
                "network, or pass the folder of a copy: hf:FOLDER",
            ) from error

    def _fields(self, row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
        """Return the fields of a row under the keys of label files, FlagEmbedding files or conversations."""
        if {"initial_list", "conversations", "messages"} & row.keys():
            return row
        options = self.options
        query = _first_column(row, options.query, _QUERIES)
        positives = _column_texts(row, options.positives, _POSITIVES)
        negatives = _column_texts(row, options.negatives, _NEGATIVES)
        documents = _column_texts(row, options.documents, _DOCUMENTS)
        grades = _first_column(row, options.grades, _GRADES)
        fields = {key: row[key] for key in ("id", "_id", "qid", "query_id") if row.get(key) is not None}
        if query and positives:
            scores = {key: row[key] for key in ("pos_scores", "neg_scores") if row.get(key)}
            return fields | {"query": row[query], "pos": positives, "neg": negatives} | scores
        if query and documents and grades:
            return fields | {"query": row[query]} | _graded_texts(documents, row[grades], f"{self.name}, row {number}")
        raise DataError(
            f"{_PREFIX}{self.name} has the columns {', '.join(row)}",
            expected="a query with positives and negatives, or with documents and grades",
            remedy=f"Name the columns: {_PREFIX}{self.name},query=COLUMN,positives=COLUMN,negatives=COLUMN, "
            "or documents=COLUMN,grades=COLUMN",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDatasetOptions:
    """Options of a hub data set and names of its columns; for an empty column name, common column names are tried.

    Attributes:
        split: Name of the split, or a slice of it such as ``train[:1000]``.
        config: Configuration of the data set; empty for the default.
        revision: Branch, tag or commit; empty for the default branch. A training stores the commit, and uses the same
            commit when it is resumed.
        query: Name of the column with the query.
        positives: Name of the column with the relevant text or texts.
        negatives: Name of the column with the other text or texts.
        documents: Name of the column with the texts of a graded list.
        grades: Name of the column with the grades of these texts.
    """

    split: str = "train"
    config: str = ""
    revision: str = ""
    query: str = ""
    positives: str = ""
    negatives: str = ""
    documents: str = ""
    grades: str = ""


def pin_hub_datasets(selectors: Iterable[str]) -> dict[str, str]:
    """Return a mapping from the selector of each hub data set to the same selector with the commit as revision.

    Paths of files and folders, and data sets in local folders, are omitted.
    """
    pinned = {}
    for text in filter(is_hub_dataset, selectors):
        if commit := HubDataset.parse(text).commit():
            without = re.sub(",revision=[^,]*", "", text)
            pinned[text] = f"{without},revision={commit}"
    return pinned


def _first_column(row: Mapping[str, Any], name: str, usual: Sequence[str]) -> str:
    return next((column for column in ([name] if name else usual) if row.get(column) is not None), "")


def _column_texts(row: Mapping[str, Any], name: str, usual: Sequence[str]) -> list[Any]:
    """Return the texts of a column and of its numbered further columns, such as ``negative_1`` and ``negative_2``."""
    column = _first_column(row, name, usual) or name or usual[0]
    names = [column, *sorted((key for key in row if re.fullmatch(rf"{re.escape(column)}_\d+", key)), key=_number)]
    texts: list[Any] = []
    for value in filter(None, map(row.get, names)):
        texts += map(_entry_text, value if isinstance(value, list) else [value])
    return texts


def _number(column: str) -> int:
    return int(column.rpartition("_")[2])


def _entry_text(entry: Any) -> Any:
    """Return the text of an entry: the entry itself, or the title and the text of an object."""
    if not isinstance(entry, Mapping):
        return entry
    body = next((entry[key] for key in TEXTS if entry.get(key)), "")
    return f"{entry['title']}\n{body}" if entry.get("title") else body


def _graded_texts(documents: Sequence[Any], grades: Any, where: str) -> dict[str, Any]:
    """Return a row's documents with the highest grade as positives, its others as negatives, and grades as scores."""
    if not isinstance(grades, list) or len(grades) != len(documents):
        raise DataError(
            f"{_PREFIX}{where}: there are {len(documents)} documents, and the grades are {error_repr(grades)}",
            expected="one grade per document",
        )
    best = max(grades)
    parts: dict[str, Any] = {"pos": [], "neg": [], "pos_scores": [], "neg_scores": []}
    for document, grade in zip(documents, grades, strict=True):
        part = "pos" if grade == best else "neg"
        parts[part].append(document)
        parts[f"{part}_scores"].append(grade)
    return parts
