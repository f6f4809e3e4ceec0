"""Reader of training lists from data sets on the Hugging Face hub or in a local folder, with the package datasets.

A row is one list: in the form of one of our files, or a query with positives and negatives or with graded documents,
whose columns are renamed to the keys of FlagEmbedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, ensure, error_repr
from rerank.installation import importing
from rerank.io.json_records import TEXTS, JsonRecord
from rerank.selector import Selector, convert_selector_options

#: Names of columns in data sets for training rankers, in order of precedence.
_COLUMNS = {
    "query": ("query", "anchor", "question"),
    "positives": ("positive", "positives", "pos", "positive_passages"),
    "negatives": ("negative", "negatives", "neg", "negative_passages"),
    "documents": ("docs", "documents", "passages"),
    "grades": ("labels", "grades", "scores"),
}
_PREFIX = "hf:"
_COMMIT = re.compile("[0-9a-f]{40}")


def is_hub_dataset(path: str | Path) -> bool:
    """Return whether a text is the selector of a data set, such as ``hf:owner/name,split=train``, and not a path."""
    return str(path).startswith(_PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDatasetOptions:
    """Options of a hub data set and names of its columns; for an empty column name, common column names are tried."""

    split: str = "train"  #: Name of the split, or a slice of it such as ``train[:1000]``.
    config: str = ""  #: Configuration of the data set; empty for the default.
    #: Branch, tag or commit; empty for the default branch. A resumed training uses the commit that it started with.
    revision: str = ""
    query: str = ""
    positives: str = ""
    negatives: str = ""
    documents: str = ""
    grades: str = ""


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set of training lists; ``name`` is its id on the hub, or the path of a local folder."""

    name: str
    options: HubDatasetOptions

    @classmethod
    def parse(cls, text: str) -> HubDataset:
        selector = Selector.parse(text)
        ensure(
            selector.argument,
            f"The selector {text!r} contains no name of a data set",
            expected="hf:OWNER/NAME, or hf:FOLDER",
        )
        options = convert_selector_options(_PREFIX.rstrip(":"), HubDatasetOptions, selector.options)
        return cls(selector.argument, HubDatasetOptions(**options))

    def commit(self) -> str:
        """Return the commit of the data set on the hub that ``revision`` refers to; empty for a local folder."""
        if Path(self.name).is_dir():
            return ""
        return str(self._call("load_dataset_builder").hash)

    def records(self) -> Iterator[JsonRecord]:
        options = self.options
        if _COMMIT.fullmatch(options.revision) and (commit := self.commit()) not in ("", options.revision):
            raise DataError(
                f"The commit of the data set {self.name!r} in the cache is {commit}",
                expected=f"commit {options.revision}",
                remedy="Connect to the network once, so that this commit is downloaded",
            )
        for number, row in enumerate(self._call("load_dataset", split=options.split), 1):
            where = f"{_PREFIX}{self.name}, row {number}"
            yield JsonRecord(where, self._fields(row, where))

    def _call(self, function: str, **more: Any) -> Any:
        with importing(f"{_PREFIX}{self.name} needs the package datasets", "train"):
            datasets = import_module("datasets")  # by name, since it has no types
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

    def _fields(self, row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
        if {"initial_list", "conversations", "messages"} & row.keys():
            return row
        query, grades = self._column(row, "query"), self._column(row, "grades")
        positives, negatives, documents = (self._texts(row, kind) for kind in ("positives", "negatives", "documents"))
        fields = {key: row[key] for key in ("id", "_id", "qid", "query_id") if row.get(key) is not None}
        if query and positives:
            scores = {key: row[key] for key in ("pos_scores", "neg_scores") if row.get(key)}
            return fields | {"query": row[query], "pos": positives, "neg": negatives} | scores
        if query and documents and grades:
            return fields | {"query": row[query]} | _graded_texts(documents, row[grades], where)
        raise DataError(
            f"{_PREFIX}{self.name} has the columns {', '.join(row)}",
            expected="a query with positives and negatives, or with documents and grades",
            remedy=f"Name the columns: {_PREFIX}{self.name},query=COLUMN,positives=COLUMN,negatives=COLUMN, "
            "or documents=COLUMN,grades=COLUMN",
        )

    def _column(self, row: Mapping[str, Any], kind: str) -> str:
        named = getattr(self.options, kind)
        return next((column for column in ([named] if named else _COLUMNS[kind]) if row.get(column) is not None), "")

    def _texts(self, row: Mapping[str, Any], kind: str) -> list[Any]:
        """Return the texts of a column and its numbered further ones, such as ``negative_1``, with titles if any."""
        column = self._column(row, kind) or getattr(self.options, kind) or _COLUMNS[kind][0]
        more = [key for key in row if re.fullmatch(rf"{re.escape(column)}_\d+", key)]
        texts: list[Any] = []
        for name in (column, *sorted(more, key=lambda key: int(key.rpartition("_")[2]))):
            value = row.get(name) or []
            for entry in value if isinstance(value, list) else [value]:
                if isinstance(entry, Mapping):
                    body = next((entry[key] for key in TEXTS if entry.get(key)), "")
                    texts.append(f"{entry['title']}\n{body}" if entry.get("title") else body)
                else:
                    texts.append(entry)
        return texts


def pin_hub_datasets(selectors: Iterable[str]) -> dict[str, str]:
    """Map the selector of each data set on the hub to the same selector with the commit as revision."""
    return {
        text: f"{re.sub(',revision=[^,]*', '', text)},revision={commit}"
        for text in filter(is_hub_dataset, selectors)
        if (commit := HubDataset.parse(text).commit())
    }


def _graded_texts(documents: Sequence[Any], grades: Any, where: str) -> dict[str, Any]:
    """Return a row's documents with the highest grade as positives, its others as negatives, and grades as scores."""
    if not isinstance(grades, list) or len(grades) != len(documents):
        raise DataError(
            f"{where}: there are {len(documents)} documents, and the grades are {error_repr(grades)}",
            expected="one grade per document",
        )
    best = max(grades)
    parts: dict[str, Any] = {"pos": [], "neg": [], "pos_scores": [], "neg_scores": []}
    for document, grade in zip(documents, grades, strict=True):
        part = "pos" if grade == best else "neg"
        parts[part].append(document)
        parts[f"{part}_scores"].append(grade)
    return parts
