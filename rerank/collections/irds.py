"""Provider of the collections of ir_datasets, opened by their ids; missing files are downloaded."""

import contextlib
import difflib
import hashlib
import json
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from rerank.collections.base import check_language_code, check_relevant_grade, fetch_documents
from rerank.collections.cranfield import grade_to_gain
from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError, UnknownNameError
from rerank.installation import install_command
from rerank.io.json_records import check_unique_ids, parse_json_id, parse_json_text
from rerank.io.run_files import excluded_documents_of_qrels
from rerank.io.topic_formats import join_text_file_lines
from rerank.types import Document, Qrels, Query, Ranking, Run

_SHOWN = 12


class Irds:
    """A data set of ir_datasets by its id, e.g. ``vaswani`` or ``beir/scifact/test``; needs the extra ``irds``.

    The text of a document is ir_datasets' default text without the title, which is a separate field. ``scoreddocs``, if
    any, are the candidates. If several judgments of one document differ (subtopics), the highest grade counts.
    Cranfield's grades, of which 1 is the best, are converted to gains. ``language`` is the ISO 639 code of the
    documents' language, by default the one that ir_datasets states, or ``en``. ``relevant`` is the lowest relevant
    grade in binary measures, by default 2 in the passage tracks of TREC Deep Learning and 1 otherwise. ``drop_self``
    drops a document with the query's own id from its ranking, by default only for BEIR's data sets.
    """

    def __init__(
        self, dataset: str, *, language: str = "", relevant: int | None = None, drop_self: bool | None = None
    ) -> None:
        try:
            import ir_datasets
        except ImportError as error:
            raise MissingPrerequisiteError(
                f"The collection irds needs ir_datasets, which cannot be imported ({error})",
                remedy=f"Run: {install_command('irds')}",
            ) from error
        self._package: Any = ir_datasets
        self._dataset = _load(self._package, dataset)
        self.name = dataset
        docs_lang = self._dataset.docs_lang() if self._has("docs") else None
        self.language = check_language_code(language or docs_lang or "en")
        deep_learning = dataset.startswith("msmarco-passage") and "/trec-dl-" in dataset
        self.relevant = check_relevant_grade(relevant if relevant is not None else 1 + deep_learning)
        self.drop_self = dataset.startswith(("beir/", "nano-beir/")) if drop_self is None else drop_self

    def _has(self, kind: str) -> bool:
        return bool(self._dataset.has(kind))

    def docs(self) -> Iterator[Document]:

        def documents() -> Iterator[tuple[str, Document]]:
            if self._has("docs"):
                with _named_errors(self.name):
                    for doc in self._dataset.docs_iter():
                        yield self.name, _convert_document(doc, self.name)

        return check_unique_ids(documents(), "document")

    def lookup(self, ids: Iterable[str]) -> dict[str, Document]:
        if not self._has("docs"):
            return {}
        with _named_errors(self.name):
            documents = self._dataset.docs_store().get_many(list(ids))
        return {doc_id: _convert_document(doc, self.name) for doc_id, doc in documents.items()}

    def queries(self) -> list[Query]:
        if not self._has("queries"):
            return []
        queries, where = [], self.name
        with _named_errors(where):
            for query in self._dataset.queries_iter():
                words = join_text_file_lines(_default_text(query, "query_id"))
                text = parse_json_text(words, where)
                queries.append((where, Query(id=parse_json_id(query.query_id, "query", where), text=text)))
        return list(check_unique_ids(queries, "query"))

    def qrels(self) -> Qrels:
        return self._judged

    def excluded(self) -> Mapping[str, frozenset[str]]:
        return excluded_documents_of_qrels(self.qrels())

    @cached_property
    def _judged(self) -> Qrels:
        table: dict[str, dict[str, int]] = {}
        if self._has("qrels"):
            with _named_errors(self.name):
                for row in self._dataset.qrels_iter():
                    grade = grade_to_gain(row.relevance, self.name) if self.name == "cranfield" else int(row.relevance)
                    judged = table.setdefault(row.query_id, {})
                    judged[row.doc_id] = max(grade, judged.get(row.doc_id, grade))
        return Qrels(table, name=self.name)

    def candidates(self) -> Run:
        rows: dict[str, list[tuple[str, float | None]]] = {}
        if self._has("scoreddocs"):
            with _named_errors(self.name):
                for row in self._dataset.scoreddocs_iter():
                    rows.setdefault(row.query_id, []).append((row.doc_id, getattr(row, "score", None)))
        queries = [query for query in self.queries() if query.id in rows]
        docs = fetch_documents(self, {doc_id for query in queries for doc_id, _ in rows[query.id]})
        rankings = []
        for query in queries:
            scored = [(docs[doc_id], score) for doc_id, score in rows[query.id] if score is not None]
            if 0 < len(scored) < len(rows[query.id]):
                raise DataError(
                    f"Some candidates of query {query.id!r} have no score", expected="a score for all or for none"
                )
            in_order = (docs[doc_id] for doc_id, _ in rows[query.id])
            rankings.append(Ranking.from_scores(query, scored) if scored else Ranking.from_order(query, in_order))
        return Run(rankings, name=self.name)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the data set's id, ir_datasets' version, the queries, the judgments and the documents.

        For a published data set, ir_datasets' document counts are hashed instead of the documents. A data set that a
        user registered has no counts, so its documents are read and hashed.
        """
        whole = hashlib.sha256(f"irds\0{self.name}\0{self._package.__version__}".encode())
        for query in self.queries():
            whole.update(json.dumps([query.id, query.text]).encode())
        for query_id, judged in self.qrels().items():
            whole.update(json.dumps([query_id, sorted(judged.items())]).encode())
        counts = self._dataset.docs_metadata() if self._has("docs") else {}
        whole.update(json.dumps(counts, sort_keys=True).encode())
        for doc in () if counts else self.docs():
            whole.update(json.dumps([doc.id, doc.title, doc.text]).encode())
        return whole.hexdigest()


def _load(package: Any, dataset: str) -> Any:
    try:
        return package.load(dataset)
    except KeyError as error:
        known = list(package.registry)
        near = difflib.get_close_matches(dataset, known, n=_SHOWN, cutoff=0.5)
        family = [name for name in known if name.split("/")[0] == dataset.split("/")[0]]
        shown = dict.fromkeys([*near, *family, *(name for name in known if "/" not in name)])
        raise UnknownNameError("ir_datasets id", dataset, list(shown)[:_SHOWN]) from error


@contextlib.contextmanager
def _named_errors(name: str) -> Generator[None]:
    """Raise a `MissingResourceError` if ir_datasets cannot download or read its files in the block."""
    try:
        yield
    except (OSError, RuntimeError, EOFError) as error:
        raise MissingResourceError(
            f"The data set {name!r} of ir_datasets cannot be read: {str(error)[:300] or type(error).__name__}",
            remedy="Check the network, or put the data set's files where ir_datasets looks for them (IR_DATASETS_HOME)",
        ) from error


def _default_text(entry: Any, id_field: str) -> str:
    """Return the default text of a document or query; without such a text, the field ``text`` or all string fields.

    The id and the title are omitted. If there is a field ``text``, the other fields are not used, since the queries of
    BRIGHT have further fields that contain the answer.
    """
    if hasattr(entry, "default_text"):
        return str(entry.default_text())
    if isinstance(text := getattr(entry, "text", None), str):
        return text
    fields = {key: value for key, value in entry._asdict().items() if isinstance(value, str)}
    return "\n".join(value for key, value in fields.items() if value and key not in (id_field, "title"))


def _convert_document(doc: Any, where: str) -> Document:
    title = getattr(doc, "title", "") or ""
    body = _default_text(doc, "doc_id")
    if hasattr(doc, "title") and body != getattr(doc, "text", None):  # the default text is title and text
        body = body.removeprefix(title).strip()
    return Document(
        id=parse_json_id(doc.doc_id, "document", where),
        title=parse_json_text(title, where),
        text=parse_json_text(body, where),
    )
