"""Collections of TREC files: documents in SGML or XML, topics in any of their forms, qrels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from rerank.collections.base.files import FileCollection, Files, existing, stem
from rerank.errors import DataError, MissingResourceError, UsageError
from rerank.io.json_records import identifier, once
from rerank.io.sgml import Block, element, elements, plain, read_blocks, without
from rerank.io.smart import one_line
from rerank.io.trec_topics import check_fields, read_topics
from rerank.types import Document, Query

_IDS = ("docno", "docid", "id")
#: Names of the title in TREC's sources, in the order in which they are looked for.
_TITLES = ("title", "headline", "head", "hl", "doctitle", "ti", "ttl")
_TEXTS = ("text", "body", "contents?", "abstract", "abst")
#: Numbers and transfer headers, which are no text where a document marks up none.
_OTHER = ("docno", "docid", "id", "docoldno", "dochdr", "url")


class Trec(FileCollection):
    """Documents in TREC's SGML or XML, topics (TREC, XML or tab-separated), qrels; each may be gzipped or left out.

    A document is what stands between <DOC> and </DOC>. Its title is TITLE, HEADLINE, HEAD, HL, DOCTITLE, TI or TTL;
    its text is all of TEXT, BODY, CONTENTS and ABSTRACT, or, where it has none of them, everything else in it.
    Tags are dropped and entities turned into characters.

    Args:
        docs: A file, or a folder of which all files are read, those inside its folders too, in the order of names.
        topics: A file. Its form is told from its content.
        qrels: A file.
        fields: What makes a query: title, description, narrative, or tags of the file, joined with ``+``.
        language: ISO 639 code of the documents.
        relevant: The lowest grade that binary measures count as relevant.

    Raises:
        MissingResourceError: A file or folder is not there, or a folder is empty.
        UsageError: No file is named, or no field.
    """

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
        """Find the files; nothing is read yet."""
        if not (docs or topics):
            raise UsageError("trec: names no file", expected="trec:docs=FILE or FOLDER,topics=FILE,qrels=FILE")
        files = Files(
            docs=_documents(docs),
            queries=(existing(topics, "a file"),) if topics else (),
            qrels=(existing(qrels, "a file"),) if qrels else (),
        )
        super().__init__(stem(Path(docs or topics)), files, language=language, relevant=relevant)
        self.fields = tuple(name.strip().lower() for name in fields.split("+") if name.strip())
        if not self.fields:
            raise UsageError(f"fields={fields!r}", expected="one or more of title, description, narrative, joined by +")

    @property
    def selecting(self) -> Mapping[str, str]:
        """The chosen fields decide the queries' texts."""
        return {"fields": "+".join(self.fields)}

    def docs(self) -> Iterator[Document]:
        """Stream the documents, one file after the other."""
        found = ((block.where, _document(block)) for path in self.files.docs for block in read_blocks(path, ("doc",)))
        return once(found, "document")

    def queries(self) -> list[Query]:
        """All topics in file order, each as the chosen fields on one line.

        Raises:
            UnknownNameError: A chosen field that no topic has.
            DataError: A topic that has none of the chosen fields, or the file is wrong.
        """
        if not self.files.queries:
            return []
        topics = read_topics(self.files.queries[0])
        check_fields(topics, self.fields)
        return list(once(((t.where, Query(id=t.id, text=t.text(self.fields))) for t in topics), "query"))


def _documents(path: str) -> tuple[Path, ...]:
    if not path:
        return ()
    where = existing(path, "a file or a folder")
    if not where.is_dir():
        return (where,)
    found = tuple(
        sorted(
            file
            for file in where.rglob("*")
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(where).parts)
        )
    )
    if not found:
        raise MissingResourceError(f"The folder {path} has no files", expected="files with <DOC>")
    return found


def _document(block: Block) -> Document:
    number = element(block.body, _IDS)
    doc_id = plain(number) if number is not None else block.attribute(_IDS)
    if not doc_id:
        raise DataError(f"{block.where}: a document without a number", expected="<DOCNO>, or an attribute id=")
    title = element(block.body, _TITLES)
    texts = elements(block.body, _TEXTS) or [without(block.body, _OTHER + _TITLES)]
    return Document(
        id=identifier(doc_id, "document", block.where),
        title=one_line(plain(title or "")),
        text="\n".join(part for part in map(plain, texts) if part),
    )
