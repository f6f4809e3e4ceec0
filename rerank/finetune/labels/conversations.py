"""Conversations as RankZephyr was trained on: a turn that shows numbered passages, and the order as the reply.

Source: Pradeep et al. 2023, arXiv 2312.02724 (RankZephyr), whose data have ``{"conversations": [{"from": "human",
"value": ...}, {"from": "gpt", "value": "[2] > [1]"}]}``; chats of ``role`` and ``content`` under ``messages`` are read
as well. Knows the turns, not how a reply is read (`rerank.parsing`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from rerank.errors import DataError, shorten
from rerank.finetune.labels.training_list import TrainingList
from rerank.io.json_records import QUERY_IDS, Record, text
from rerank.parsing import parse
from rerank.types import Document, Query

_USERS, _MODELS = ("human", "user"), ("gpt", "assistant", "model", "chatgpt")
#: Where the words behind the last passage begin, the surest sign first.
_AFTER = tuple(
    re.compile(rf"^\s*{sign}", re.I | re.M) for sign in (r"search query\s*:", r"rank the \d+ passages", r"query\s*:")
)
_QUERY = (
    re.compile(r"^\s*search query:[ \t]*(.+?)[ \t]*$", re.I | re.M),
    re.compile(r"relevan\w+ to (?:the )?(?:search )?query:[ \t]*(.+?)[ \t]*$", re.I | re.M),
)
_STATED = re.compile(r"\b(\d+) passages", re.I)


def read_conversations(records: Iterable[Record], *, skipped: Counter[str]) -> Iterator[TrainingList]:
    """Stream the lists of such a file.

    A document's id is a hash of its passage. A reply that does not order every passage is no complete label, and its
    list is left out; repeats and prose around the order are forgiven, as in a run.

    Args:
        records: The objects.
        skipped: Counts what was left out, by reason.

    Raises:
        DataError: An object has another shape: no turns, no numbered passages, no query; the message names the place.
    """
    for place, record in enumerate(records, 1):
        asked, reply = _turns(record)
        passages = passages_in(asked)
        if not passages:
            raise DataError(f"{record.where}: no passage [1] at the start of a line", expected="numbered passages")
        stated = _STATED.search(asked[: asked.find("[1]")])
        if stated and int(stated[1]) != len(passages):
            raise DataError(
                f"{record.where}: {len(passages)} numbered passages where {stated[1]} are announced",
                expected="a line that begins with [N] for every N",
            )
        if len(set(passages)) < len(passages):
            skipped["lists with a passage twice"] += 1
            continue
        said = parse(reply, len(passages))
        if said.missing:
            skipped[f"lists whose reply is {said.status}"] += 1
            continue
        given = record.get(QUERY_IDS)
        name = record.identifier(QUERY_IDS, "query") if given is not None else str(place)
        docs = tuple(Document(id=_name(passage), text=passage) for passage in passages)
        query = Query(id=name, text=_query(asked, record))
        yield TrainingList(query=query, docs=docs, order=said.permutation, teacher="conversation")


def passages_in(asked: str) -> list[str]:
    r"""The passages that a text shows as [1], [2], ... at the starts of lines, in this order.

    A number out of turn belongs to the passage that it stands in.

    >>> passages_in("Rank them.\n[1] one\n[7] more of it\n[2] two\n\nSearch Query: q.")
    ['one\n[7] more of it', 'two']
    """
    starts: list[tuple[int, int]] = []
    while mark := re.compile(rf"^\s*\[{len(starts) + 1}\][ \t]*", re.M).search(asked, starts[-1][1] if starts else 0):
        starts.append(mark.span())
    if not starts:
        return []
    signs = (list(sign.finditer(asked, starts[-1][1])) for sign in _AFTER)
    rest = next((found[-1].start() for found in signs if found), len(asked))
    ends = [*(start for start, _ in starts[1:]), rest]
    return [asked[start:end].strip() for (_, start), end in zip(starts, ends, strict=True)]


def _turns(record: Record) -> tuple[str, str]:
    """All that was asked, and the last reply."""
    turns = record.get(("conversations", "messages"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(f"{record.where}: the turns are {shorten(turns)}", expected="a list of from and value")
    spoken = [(_who(turn), _said(turn, record)) for turn in turns]
    if not spoken or spoken[-1][0] not in _MODELS:
        raise DataError(
            f"{record.where}: the last turn is {shorten(spoken[-1][0] if spoken else None)}",
            expected=f"the model's, from one of {', '.join(_MODELS)}",
        )
    return "\n\n".join(said for who, said in spoken if who in _USERS), spoken[-1][1]


def _who(turn: dict[str, Any]) -> str:
    return str(turn.get("from", turn.get("role", ""))).lower()


def _said(turn: dict[str, Any], record: Record) -> str:
    return text(turn.get("value", turn.get("content")), record.where)


def _query(asked: str, record: Record) -> str:
    for pattern in _QUERY:
        if found := pattern.findall(asked):
            words = str(found[-1])
            return words.removesuffix(".").strip() or words  # the full stop is the template's
    raise DataError(
        f"{record.where}: no query in the turn that shows the passages", expected="a line 'Search Query: ...'"
    )


def _name(passage: str) -> str:
    return hashlib.sha256(passage.encode("utf-8", "surrogatepass")).hexdigest()[:16]
