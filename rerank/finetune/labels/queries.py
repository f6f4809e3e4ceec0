"""Creation of synthetic queries for a collection without queries, from its documents or with a model.

A query is the title or the first sentence of a document, which is then removed from the document, or a language model
writes it (Bonifacio et al. 2022, arXiv 2202.05144, InPars; Dai et al. 2022, arXiv 2209.11755, Promptagator, which also
has the round-trip filter: a query is kept if a first stage retrieves its document among the top N). The result is a
folder that ``jsonl:FOLDER`` opens, with qrels in which the source document of a query is the only relevant one.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from rerank.collections import Collection
from rerank.collections.jsonl import Jsonl
from rerank.errors import DataError, PartialFailureError, UnknownNameError, UsageError, ensure
from rerank.finetune.labels.lists import DOCS, QUERIES, document_row, make_folder, mark_folder
from rerank.finetune.labels.splits import normalise_query
from rerank.io.run_files import write_qrels
from rerank.io.text_files import replace_text_file
from rerank.parsing.clean import is_refusal, strip_thoughts
from rerank.prompts import PromptTemplate, load_prompt, parse_template
from rerank.prompts.budget import PromptBudget
from rerank.prompts.passages import collapse_whitespace
from rerank.retrieval import open_first_stage
from rerank.store import CallLog, log_calls
from rerank.tasks import Backend, GenerationTask, Reply, Request, Sampling, tasks_supported_by_backend
from rerank.types import Document, Qrels, Query, Window

QRELS, CALLS = "qrels.txt", "calls.sqlite"
#: The id of the document that a query is made from, and the query, whose id is that of the document with a number.
Generated = tuple[str, Query]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryOptions:
    """Options for creating synthetic queries: their source, number, length and round-trip filter."""

    source: str  #: One of `EXTRACTORS`.
    count: int | None = None  #: Number of source documents, sampled at random; None for all documents.
    min_words: int = 3
    max_words: int = 32
    first_stage: str = "bm25"
    #: N of the round-trip filter: a query is kept only if its source document is among the top N of the first stage; 0
    #: disables the filter.
    within: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.source not in EXTRACTORS:
            raise UnknownNameError("source of queries", self.source, EXTRACTORS)
        ensure(
            self.source != "llm" or self.count is not None,
            "--from llm is used without --count",
            expected="a number of documents, because each document costs a call",
            remedy="Pass --count",
        )
        ensure(
            1 <= self.min_words <= self.max_words and self.within >= 0 and (self.count or 1) >= 1,
            f"--min-words is {self.min_words}, --max-words is {self.max_words}, --within is {self.within}, "
            f"and --count is {self.count}",
            expected="--min-words at least 1 and at most --max-words, --within at least 0, --count at least 1",
        )


def make_synthetic_queries(
    collection: Collection,
    options: QueryOptions,
    folder: Path,
    *,
    writer: QueryWriter | None = None,
    on_reply: Callable[[Reply], None] = lambda reply: None,
) -> dict[str, Any]:
    """Create queries and write them into a folder; replies of a model are logged there and reused by later calls.

    ``writer`` is for the source ``llm`` only. Returns ``folder``, ``documents`` and ``queries`` (numbers written), and
    ``dropped`` (numbers by reason).
    """
    if (writer is None) == (options.source == "llm"):
        raise UsageError(
            f"The source of queries is {options.source!r}, {'but no' if writer is None else 'but a'} model is given",
            expected="a model for the source 'llm', and no model for other sources",
        )
    dropped: Counter[str] = Counter()
    make_folder(folder)
    documents, sources = _write_documents(collection, options, folder, dropped)
    if writer is None:
        generated = [(doc.id, Query(id=f"{doc.id}#1", text=text)) for doc, text in sources]
    else:
        with CallLog(folder / CALLS) as log:
            logged = replace(writer, backend=log_calls(writer.backend, log, on_reply=on_reply))
            generated = list(logged.write([doc for doc, _ in sources], dropped))
    fitting = [pair for pair in generated if options.min_words <= len(pair[1].text.split()) <= options.max_words]
    dropped["queries too short or too long"] += len(generated) - len(fitting)
    kept = _unique(fitting, dropped)
    if options.within and kept:
        corpus = Jsonl(docs=str(folder / DOCS))
        run = open_first_stage(options.first_stage, corpus).search([query for _, query in kept], options.within)
        retrieved = [(doc, query) for doc, query in kept if query.id in run and doc in run[query.id].doc_ids]
        dropped["queries that do not find their document again"] += len(kept) - len(retrieved)
        kept = retrieved
    if not kept:
        counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        message = f"No query is left for {collection.name!r} ({counts or 'its documents contain none'})"
        if dropped["no reply"]:
            raise PartialFailureError(message, remedy="Repeat the command: it reuses the logged replies")
        raise DataError(
            message, remedy="Allow other lengths, search deeper with --within, or choose another source with --from"
        )
    with replace_text_file(folder / QUERIES) as file:
        for _, query in kept:
            file.write(json.dumps({"id": query.id, "text": query.text}, ensure_ascii=False) + "\n")
    write_qrels(Qrels({query.id: {doc: 1} for doc, query in kept}), folder / QRELS)
    counts_written = {"documents": documents, "queries": len(kept), "dropped": dict(+dropped)}
    mark_folder(folder, {"collection": collection.name, "from": options.source, **counts_written})
    return {"folder": str(folder), **counts_written}


def _write_documents(
    collection: Collection, options: QueryOptions, folder: Path, dropped: Counter[str]
) -> tuple[int, list[tuple[Document, str]]]:
    """Write all documents without the extracted texts; return their number and the sampled (document, query) pairs."""
    extract = EXTRACTORS[options.source]
    count = 0

    def extract_all() -> Iterator[tuple[bytes, Document, str]]:
        nonlocal count
        for doc in collection.docs():
            query, rest = extract(doc)
            if not rest.text.strip():
                dropped["documents of which nothing is left"] += 1
                continue
            file.write(json.dumps(document_row(rest), ensure_ascii=False) + "\n")
            count += 1
            if query or options.source == "llm":
                yield hashlib.sha256(f"{options.seed}/{doc.id}".encode("utf-8", "surrogatepass")).digest(), rest, query

    # The sample consists of the documents with the smallest hashes, so it does not depend on the document order.
    with replace_text_file(folder / DOCS) as file:
        sample = (
            sorted(extract_all(), key=lambda entry: entry[0])
            if options.count is None
            else heapq.nsmallest(options.count, extract_all(), key=lambda entry: entry[0])
        )
    return count, [(doc, query) for _, doc, query in sample]


def _unique(generated: Sequence[Generated], dropped: Counter[str]) -> list[Generated]:
    """Drop repeated queries, and all queries that come from several documents, which would all be relevant."""
    sources: dict[str, set[str]] = {}
    for doc, query in generated:
        sources.setdefault(normalise_query(query.text), set()).add(doc)
    unique: dict[str, Generated] = {}
    for doc, query in generated:
        words = normalise_query(query.text)
        if len(sources[words]) > 1:
            dropped["queries that several documents give"] += 1
        elif words in unique:
            dropped["queries that a document gives twice"] += 1
        else:
            unique[words] = (doc, query)
    return list(unique.values())


_WORD = re.compile(r"\w+")
#: End of a sentence, with closing quotes and brackets.
_END = re.compile(r"[.!?]+[\"')\]”’]*(?=\s|$)|[。！？]+[」』”’）]*")


def extract_title(doc: Document) -> tuple[str, Document]:
    """Return the title as a query, and the document with the title removed, also from the start of its text.

    >>> query, rest = extract_title(Document(id="1", title="On Fleas", text="On fleas. They live for months."))
    >>> query, rest.title, rest.text
    ('On Fleas', '', 'They live for months.')
    """
    title = [word.casefold() for word in _WORD.findall(doc.title)]
    text = doc.text.strip()
    start = list(_WORD.finditer(text))[: len(title)]
    if title and [word[0].casefold() for word in start] == title:  # the same words, in any case and punctuation
        text = text[start[-1].end() :].lstrip(" \t\r\n.,:;!?-–—)\"'")
    return collapse_whitespace(doc.title), replace(doc, title="", text=text)


def extract_first_sentence(doc: Document) -> tuple[str, Document]:
    """Return the first sentence of the text as a query, and the document without this sentence; the title is kept.

    >>> query, rest = extract_first_sentence(Document(id="1", text="What are fleas? They live for months."))
    >>> query, rest.text
    ('What are fleas?', 'They live for months.')
    """
    found = _END.search(doc.text)
    end = found.end() if found else len(doc.text)
    return collapse_whitespace(doc.text[:end]), replace(doc, text=doc.text[end:].strip())


#: Functions that return the query of a document (empty if there is none) and the remaining document.
EXTRACTORS: Mapping[str, Callable[[Document], tuple[str, Document]]] = {
    "title": extract_title,
    "first-sentence": extract_first_sentence,
    "llm": lambda doc: ("", doc),  # a model writes the query
}


#: Maximum number of completion tokens: enough for a query and a few words around it.
REPLY_TOKENS = 48
#: Maximum number of passage tokens in the prompt; a query has a single subject, so more text is not needed.
PASSAGE_TOKENS = 512
_LABEL = re.compile(r"^(?:\W*\d+[.)]\s+|[-*•]\s+)?(?:\W*(?:search |user )?(?:query|question)\s*\d*\s*:\W*)?", re.I)
#: Start of a line that refers to the passage: a summary and not a query, since users do not know the passage.
_ABOUT = re.compile(r"^(?:the|this) (?:passage|document|text)\b", re.I)
_AROUND = " \t\"'`*“”„«»‘’"


@dataclass(frozen=True, kw_only=True)
class QueryWriter:
    """Generator of search queries for documents, with a language model."""

    backend: Backend
    template: PromptTemplate
    each: int = 1  #: Number of queries generated per document.
    temperature: float = 0.0  #: Sampling temperature; 0 is greedy decoding, which allows only one query per document.
    seed: int = 0  #: Random seed for the first query of each document; the seed increases by 1 for each further query.

    def __post_init__(self) -> None:
        ensure(
            self.template.method == "pointwise",
            f"The prompt {self.template.name!r} for generating queries has 'method: {self.template.method}'",
            expected="a prompt with 'method: pointwise', which shows one passage",
            remedy="Omit --prompt to use the default prompt",
        )
        ensure(
            GenerationTask in tasks_supported_by_backend(self.backend),
            f"The model {self.backend.identity.get('model', '')!r} does not generate text",
            expected="a language model that can generate queries",
        )
        ensure(
            self.each == 1 or (self.each > 1 and self.temperature > 0),
            f"{self.each} queries per document are to be generated at temperature {self.temperature}",
            expected="at least 1 query, and a temperature above 0 for several different queries",
            remedy="Pass --each 1, or a larger --each together with --temperature 0.7",
        )

    def requests(self, docs: Sequence[Document]) -> list[Request]:
        budget = PromptBudget(self.backend.tokens, max_passage_tokens=PASSAGE_TOKENS)
        requests = []
        for doc in docs:
            window = Window(Query(id=doc.id), (doc,))
            prompt = budget.fit(self.template, window, reply_tokens=REPLY_TOKENS).prompt
            for number in range(self.each):
                seed = self.seed + number if self.temperature > 0 else 0
                sampling = Sampling(max_tokens=REPLY_TOKENS, temperature=self.temperature, seed=seed)
                requests.append(Request(prompt=prompt, sampling=sampling, window=window, task=GenerationTask()))
        return requests

    def write(self, docs: Sequence[Document], dropped: Counter[str]) -> Iterator[Generated]:
        """Generate queries; count calls that gave none in ``dropped``, where ``no reply`` may succeed later."""
        requests = self.requests(docs)
        for index, reply in enumerate(self.backend.generate(requests)):
            if reply.finish == "error":
                dropped["no reply"] += 1
            elif text := parse_written_query(reply.text):
                doc = requests[index].window.docs[0].id
                yield doc, Query(id=f"{doc}#{index % self.each + 1}", text=text)
            else:
                dropped["no query in the reply"] += 1


def open_query_prompt(name: str | None) -> PromptTemplate:
    """Load the prompt for generating queries by its name, or the default prompt if no name is given."""
    if name:
        return load_prompt(name)
    return parse_template((files(__package__) / "query_writing.yaml").read_text(encoding="utf-8"), "query_writing")


def parse_written_query(reply: str) -> str:
    """Return the query in a reply: its first line without labels, numbers and quotes; empty for a summary or none.

    >>> parse_written_query('Query: "how long do fleas live?"')
    'how long do fleas live?'
    """
    text = strip_thoughts(reply)
    if is_refusal(text):
        return ""
    lines = (_LABEL.sub("", line.strip(), count=1).strip(_AROUND) for line in text.splitlines())
    first = next((line for line in lines if any(map(str.isalnum, line)) and not line.endswith(":")), "")
    return "" if _ABOUT.match(first) else first
