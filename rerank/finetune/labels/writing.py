"""Queries that a language model writes for documents: what is asked, and what is read from its replies.

Source of the idea: Bonifacio et al. 2022, arXiv 2202.05144 (InPars), and Dai et al. 2022, arXiv 2209.11755
(Promptagator), which also drops queries that do not find their document again. The words of the prompt are our own.
Knows documents and replies, no files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from rerank.errors import UsageError
from rerank.parsing.clean import answer
from rerank.parsing.refusal import declines
from rerank.prompts import PromptTemplate, load_prompt
from rerank.prompts.budget import Budget
from rerank.prompts.loading import template_from_yaml
from rerank.tasks import Backend, GenerationTask, Request, Sampling, tasks_of
from rerank.types import Document, Query, Window

#: Room for a reply: a query, and a few words around it.
REPLY_TOKENS = 48
#: Passages are shown up to this length; a query is about one thing.
PASSAGE_TOKENS = 512
_LABEL = re.compile(r"^(?:\W*\d+[.)]\s+|[-*•]\s+)?(?:\W*(?:search |user )?(?:query|question)\s*\d*\s*:\W*)?", re.I)
#: A line about the passage is a summary; whoever looks for it has not seen it.
_ABOUT = re.compile(r"^(?:the|this) (?:passage|document|text)\b", re.I)
_AROUND = " \t\"'`*“”„«»‘’"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A query that a model wrote.

    Attributes:
        doc: Id of the document that it is for.
        number: Which of the document's queries, from 1.
        text: The query.
    """

    doc: str
    number: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Asks a model for queries.

    Attributes:
        backend: Who answers.
        template: How it is asked; a prompt about one passage.
        each: Queries a document.
        temperature: 0 is greedy; more than one query a document needs more.
        seed: Of the first query of each document; the next has the next seed.

    Raises:
        UsageError: The prompt is about several passages, the backend writes nothing, or the numbers do not fit.
    """

    backend: Backend
    template: PromptTemplate
    each: int = 1
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check what can be checked before a model is asked."""
        if self.template.method != "pointwise":
            raise UsageError(
                f"The prompt {self.template.name!r}, which is {self.template.method}, for writing queries",
                expected="a prompt with 'method: pointwise', which shows one passage",
                remedy="Leave --prompt out",
            )
        if GenerationTask not in tasks_of(self.backend):
            raise UsageError(
                f"The model {self.backend.identity.get('model', '')!r} for writing queries, and it writes nothing",
                expected="a language model",
            )
        if self.each < 1 or (self.each > 1 and self.temperature <= 0):
            raise UsageError(
                f"{self.each} queries a document at temperature {self.temperature}",
                expected="at least 1, and a temperature above 0 for more, or all would be the same",
                remedy="Pass --temperature 0.7",
            )

    def requests(self, docs: Sequence[Document]) -> list[Request]:
        """One question for each query that is wanted, a document's after one another.

        Raises:
            ContextOverflowError: The prompt leaves no room for a passage.
        """
        budget = Budget(self.backend.tokens, max_passage_tokens=PASSAGE_TOKENS)
        found = []
        for doc in docs:
            window = Window(Query(id=doc.id), (doc,))
            prompt = budget.fit(self.template, window, reply_tokens=REPLY_TOKENS).prompt
            for number in range(self.each):
                seed = self.seed + number if self.temperature > 0 else 0
                sampling = Sampling(max_tokens=REPLY_TOKENS, temperature=self.temperature, seed=seed)
                found.append(Request(prompt=prompt, sampling=sampling, window=window, task=GenerationTask()))
        return found

    def write(self, docs: Sequence[Document], dropped: Counter[str]) -> Iterator[Asked]:
        """Ask about all documents, and read what is answered.

        Args:
            docs: The documents.
            dropped: Counts replies without a query, by reason; ``no reply`` is worth asking again.

        Raises:
            BackendError: Nothing can be answered.
        """
        requests = self.requests(docs)
        for at, reply in enumerate(self.backend.generate(requests)):
            if reply.finish == "error":
                dropped["no reply"] += 1
            elif query := query_in(reply.text):
                yield Asked(doc=requests[at].window.docs[0].id, number=at % self.each + 1, text=query)
            else:
                dropped["no query in the reply"] += 1


@cache
def own_prompt() -> PromptTemplate:
    """The prompt that is shipped for this."""
    text = (files(__package__) / "query_writing.yaml").read_text(encoding="utf-8")
    return template_from_yaml(text, "query_writing")


def prompt_of(name: str | None) -> PromptTemplate:
    """The prompt that is named, or the shipped one.

    Raises:
        RerankError: What `rerank.prompts.load_prompt` raises.
    """
    return load_prompt(name) if name else own_prompt()


def query_in(reply: str) -> str:
    """The query in a reply: its first line, without labels, numbers and quotes around it; empty if there is none.

    A first line that speaks of the passage is no query.

    >>> query_in('Query: "how long do fleas live?"')
    'how long do fleas live?'
    """
    said = answer(reply)
    if declines(said):
        return ""
    lines = (_LABEL.sub("", line.strip(), count=1).strip(_AROUND) for line in said.splitlines())
    first = next((line for line in lines if any(map(str.isalnum, line)) and not line.endswith(":")), "")
    return "" if _ABOUT.match(first) else first
