"""Generation of queries for documents with a language model: requests, and parsing of the replies.

Sources of the idea: Bonifacio et al. 2022, arXiv 2202.05144 (InPars), and Dai et al. 2022, arXiv 2209.11755
(Promptagator), which also introduces round-trip filtering. The prompt is not taken from these papers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from rerank.errors import UsageError
from rerank.parsing.clean import is_refusal, strip_thoughts
from rerank.prompts import PromptTemplate, load_prompt, parse_template
from rerank.prompts.budget import PromptBudget
from rerank.tasks import Backend, GenerationTask, Request, Sampling, tasks_supported_by_backend
from rerank.types import Document, Query, Window

#: Maximum number of completion tokens: enough for a query and a few words around it.
REPLY_TOKENS = 48
#: Maximum number of passage tokens in the prompt; a query has a single subject, so more text is not needed.
PASSAGE_TOKENS = 512
_LABEL = re.compile(r"^(?:\W*\d+[.)]\s+|[-*•]\s+)?(?:\W*(?:search |user )?(?:query|question)\s*\d*\s*:\W*)?", re.I)
#: Start of a line that refers to the passage. Such a line is a summary and not a query, since users do not know the
#: passage.
_ABOUT = re.compile(r"^(?:the|this) (?:passage|document|text)\b", re.I)
_AROUND = " \t\"'`*“”„«»‘’"


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedQuery:
    """A query generated for a document.

    Attributes:
        doc: Document id.
        number: Index of the query among the queries of the document, from 1.
        text: Query text.
    """

    doc: str
    number: int
    text: str


@dataclass(frozen=True, kw_only=True)
class QueryWriter:
    """Query writer, which generates search queries for documents with a language model.

    Attributes:
        backend: Backend of the model.
        template: Prompt template for a single passage.
        each: Number of queries generated per document.
        temperature: Sampling temperature; 0 is greedy decoding, which allows only one query per document.
        seed: Random seed for the first query of each document; the seed increases by 1 for each further query.
    """

    backend: Backend
    template: PromptTemplate
    each: int = 1
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that the prompt, the backend and the numbers are suitable for generating queries."""
        if self.template.method != "pointwise":
            raise UsageError(
                f"The prompt {self.template.name!r} for generating queries has 'method: {self.template.method}'",
                expected="a prompt with 'method: pointwise', which shows one passage",
                remedy="Omit --prompt to use the default prompt",
            )
        if GenerationTask not in tasks_supported_by_backend(self.backend):
            raise UsageError(
                f"The model {self.backend.identity.get('model', '')!r} does not generate text",
                expected="a language model that can generate queries",
            )
        if self.each < 1 or (self.each > 1 and self.temperature <= 0):
            raise UsageError(
                f"{self.each} queries per document are to be generated at temperature {self.temperature}",
                expected="at least 1 query, and a temperature above 0 for several different queries",
                remedy="Pass --each 1, or a larger --each together with --temperature 0.7",
            )

    def requests(self, docs: Sequence[Document]) -> list[Request]:
        """Return the requests to the model, one per query to generate, grouped by document."""
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

    def write(self, docs: Sequence[Document], dropped: Counter[str]) -> Iterator[GeneratedQuery]:
        """Generate queries for all documents.

        Args:
            docs: The documents.
            dropped: Counter to which calls that gave no query are added, by reason. Calls counted under ``no reply``
                failed, and may succeed if they are repeated.
        """
        requests = self.requests(docs)
        for index, reply in enumerate(self.backend.generate(requests)):
            if reply.finish == "error":
                dropped["no reply"] += 1
            elif query := parse_written_query(reply.text):
                yield GeneratedQuery(doc=requests[index].window.docs[0].id, number=index % self.each + 1, text=query)
            else:
                dropped["no query in the reply"] += 1


@cache
def shipped_training_query_prompt() -> PromptTemplate:
    """Return the default prompt for generating queries."""
    text = (files(__package__) / "query_writing.yaml").read_text(encoding="utf-8")
    return parse_template(text, "query_writing")


def open_query_prompt(name: str | None) -> PromptTemplate:
    """Load the prompt for generating queries by its name, or the default prompt if no name is given."""
    return load_prompt(name) if name else shipped_training_query_prompt()


def parse_written_query(reply: str) -> str:
    """Return the query in a reply: its first line, stripped of labels, numbers and quotes; empty if there is no query.

    A line about the passage, such as a summary, is not a query.

    >>> parse_written_query('Query: "how long do fleas live?"')
    'how long do fleas live?'
    """
    text = strip_thoughts(reply)
    if is_refusal(text):
        return ""
    lines = (_LABEL.sub("", line.strip(), count=1).strip(_AROUND) for line in text.splitlines())
    first = next((line for line in lines if any(map(str.isalnum, line)) and not line.endswith(":")), "")
    return "" if _ABOUT.match(first) else first
