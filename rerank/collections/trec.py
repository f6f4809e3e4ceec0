"""Provider of collections in TREC formats: documents in SGML or XML, topics in any of TREC's formats, and qrels."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from rerank.collections.base import CollectionFiles, FileCollection, name_of_path, optional_path, require_path
from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.io.json_records import check_unique_ids, parse_json_id
from rerank.io.text_files import open_text_file
from rerank.io.topic_formats import (
    SgmlBlock,
    check_trec_format_fields,
    convert_sgml_to_plain_text,
    find_element_in_sgml_text,
    find_elements_in_sgml_text,
    join_text_file_lines,
    read_sgml_file_blocks,
    read_trec_format_topics,
    remove_elements_from_sgml_text,
)
from rerank.types import Document, Query

_IDS = ("docno", "docid", "id")
#: Names of the title in TREC's sources, in the order in which they are looked for.
_TITLES = ("title", "headline", "head", "hl", "doctitle", "ti", "ttl")
_TEXTS = ("text", "body", "contents?", "abstract", "abst")
#: Elements with ids and transfer headers, which are not part of the text of documents without a text element.
_OTHER = ("docno", "docid", "id", "docoldno", "dochdr", "url")
#: Names by which the first column of a header line is recognized.
_ID_COLUMNS = frozenset({"docno", "docid", "doc_id", "id", "_id", "pid", "corpus-id", "corpus_id"})


class Trec(FileCollection):
    """Documents in SGML, XML or tab-separated lines, topics (TREC's, XML, tab-separated) and qrels.

    A document is the content of <DOC>. Its title is TITLE, HEADLINE, HEAD, HL, DOCTITLE, TI or TTL; its text is the
    concatenation of TEXT, BODY, CONTENTS and ABSTRACT or, without these elements, all other content. Tags are removed
    and entities are decoded. Tab-separated files contain one document per line, like those of MS MARCO: id and text;
    id, title and text; or id, URL, title and text. The first line may be a header with the names of the columns.

    Each file may be gzipped. Documents or topics must be given. ``docs`` is a file, or a folder whose files are read
    recursively in the order of their names. The format of ``topics`` is detected from its content. ``fields`` form the
    query text, joined with ``+``: title, description, narrative, or tags of the file.
    """

    format_name: ClassVar[str] = "Trec"

    def __init__(
        self,
        *,
        docs: str = "",
        topics: str = "",
        qrels: str = "",
        fields: str = "title",
        language: str = "en",
        relevant: int = 1,
    ) -> None:
        if not (docs or topics):
            raise UsageError(
                "The collection 'trec' has neither documents nor topics",
                expected="trec:docs=FILE or FOLDER,topics=FILE,qrels=FILE",
            )
        files = CollectionFiles(
            docs=_document_files(docs) if docs else (), queries=optional_path(topics), qrels=optional_path(qrels)
        )
        super().__init__(name_of_path(Path(docs or topics)), files, language=language, relevant=relevant)
        self.fields = tuple(name.strip().lower() for name in fields.split("+") if name.strip())
        if not self.fields:
            raise UsageError(
                f"The collection 'trec' has the option fields={fields!r}",
                expected="one or more of title, description, narrative, joined by +",
            )

    @property
    def selecting(self) -> Mapping[str, str]:
        return {"fields": "+".join(self.fields)}

    def docs(self) -> Iterator[Document]:
        return check_unique_ids((pair for path in self.files.docs for pair in _read_documents(path)), "document")

    def queries(self) -> list[Query]:
        if not self.files.queries:
            return []
        topics = read_trec_format_topics(self.files.queries[0])
        check_trec_format_fields(topics, self.fields)
        return list(check_unique_ids(((t.where, Query(id=t.id, text=t.text(self.fields))) for t in topics), "query"))


def _document_files(path: str) -> tuple[Path, ...]:
    where = require_path(path, "a file or a folder")
    if not where.is_dir():
        return (where,)
    files = sorted(file for file in where.rglob("*") if file.is_file())
    shown = tuple(f for f in files if not any(part.startswith(".") for part in f.relative_to(where).parts))
    if not shown:
        raise MissingResourceError(f"The folder {path} contains no files", expected="files with <DOC>")
    return shown


def _read_documents(path: Path) -> Iterator[tuple[str, Document]]:
    """Yield pairs of a position in a file, for messages, and the document at this position."""
    with open_text_file(path) as stream:
        first = next((line for line in stream if line.strip()), "")
    if "\t" not in first or first.lstrip().startswith("<"):
        yield from ((block.where, _parse_block(block)) for block in read_sgml_file_blocks(path, ("doc",)))
        return
    with open_text_file(path) as stream:
        for number, line in enumerate(stream, 1):
            columns, where = line.rstrip("\r\n").split("\t"), f"{path}:{number}"
            if not line.strip() or (line == first and columns[0].strip().lower() in _ID_COLUMNS):
                continue
            if not 2 <= len(columns) <= 4:
                raise DataError(
                    f"{where}: the line has {len(columns)} columns",
                    expected="2 to 4: id, text; id, title, text; or id, URL, title, text",
                )
            title = columns[-2].strip() if len(columns) > 2 else ""
            doc_id = parse_json_id(columns[0].strip(), "document", where)
            yield where, Document(id=doc_id, title=title, text=columns[-1].strip())


def _parse_block(block: SgmlBlock) -> Document:
    number = find_element_in_sgml_text(block.body, _IDS)
    doc_id = convert_sgml_to_plain_text(number) if number is not None else block.attribute(_IDS)
    if not doc_id:
        raise DataError(f"{block.where}: the document has no id", expected="<DOCNO>, or an attribute id=")
    title = find_element_in_sgml_text(block.body, _TITLES)
    texts = find_elements_in_sgml_text(block.body, _TEXTS)
    texts = texts or [remove_elements_from_sgml_text(block.body, _OTHER + _TITLES)]
    return Document(
        id=parse_json_id(doc_id, "document", block.where),
        title=join_text_file_lines(convert_sgml_to_plain_text(title or "")),
        text="\n".join(part for part in map(convert_sgml_to_plain_text, texts) if part),
    )
