"""Parser for training conversations: a prompt with numbered passages, and a reply with their ranking.

The data of RankZephyr (Pradeep et al. 2023, arXiv 2312.02724) have the form ``{"conversations": [{"from": "human",
"value": ...}, {"from": "gpt", "value": "[2] > [1]"}]}``. Chats with ``role`` and ``content`` under ``messages`` are
supported too.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from rerank.errors import DataError, error_repr
from rerank.finetune.labels.training_list import TrainingList
from rerank.io.json_records import QUERY_IDS, JsonRecord, parse_json_text
from rerank.parsing import parse_permutation
from rerank.types import Document, Query

_USERS, _MODELS = ("human", "user"), ("gpt", "assistant", "model", "chatgpt")
#: Patterns for the start of the text that follows the last passage, the most reliable pattern first.
_AFTER = tuple(
    re.compile(rf"^\s*{sign}", re.I | re.M) for sign in (r"search query\s*:", r"rank the \d+ passages", r"query\s*:")
)
_QUERY = (
    re.compile(r"^\s*search query:[ \t]*(.+?)[ \t]*$", re.I | re.M),
    re.compile(r"relevan\w+ to (?:the )?(?:search )?query:[ \t]*(.+?)[ \t]*$", re.I | re.M),
)
_STATED = re.compile(r"\b(\d+) passages", re.I)


def read_conversations(records: Iterable[JsonRecord], *, skipped: Counter[str]) -> Iterator[TrainingList]:
    """Yield the training lists of a file of conversations.

    The id of a document is a hash of its passage. A list whose reply does not rank every passage is skipped; repeated
    identifiers and text around the ranking are accepted, as in a run.

    Args:
        records: JSON objects of the file.
        skipped: Counter to which the skipped lists are added, by reason.
    """
    for number, record in enumerate(records, 1):
        prompt, reply = _training_conversation_turns(record)
        passages = passages_in_training_conversation(prompt)
        if not passages:
            raise DataError(f"{record.where}: no line starts with [1]", expected="numbered passages")
        stated = _STATED.search(prompt[: prompt.find("[1]")])
        if stated and int(stated[1]) != len(passages):
            raise DataError(
                f"{record.where}: there are {len(passages)} numbered passages, but the prompt announces {stated[1]}",
                expected="a line that starts with [N] for every N",
            )
        if len(set(passages)) < len(passages):
            skipped["lists with a passage twice"] += 1
            continue
        parsed = parse_permutation(reply, len(passages))
        if parsed.missing:
            skipped[f"lists whose reply is {parsed.status}"] += 1
            continue
        query_id = record.get(QUERY_IDS)
        name = record.identifier(QUERY_IDS, "query") if query_id is not None else str(number)
        docs = tuple(Document(id=_training_passage_hash_name(passage), text=passage) for passage in passages)
        query = Query(id=name, text=_query_in_training_conversation(prompt, record))
        yield TrainingList(query=query, docs=docs, order=parsed.permutation, teacher="conversation")


def passages_in_training_conversation(prompt: str) -> list[str]:
    r"""Return the passages that a prompt shows as [1], [2], ... at line starts, in this order.

    A bracketed number that is not the next one in sequence is part of the passage in which it occurs.

    >>> passages_in_training_conversation("Rank them.\n[1] one\n[7] more of it\n[2] two\n\nSearch Query: q.")
    ['one\n[7] more of it', 'two']
    """
    starts: list[tuple[int, int]] = []
    while mark := re.compile(rf"^\s*\[{len(starts) + 1}\][ \t]*", re.M).search(prompt, starts[-1][1] if starts else 0):
        starts.append(mark.span())
    if not starts:
        return []
    matches = (list(pattern.finditer(prompt, starts[-1][1])) for pattern in _AFTER)
    rest = next((found[-1].start() for found in matches if found), len(prompt))
    ends = [*(start for start, _ in starts[1:]), rest]
    return [prompt[start:end].strip() for (_, start), end in zip(starts, ends, strict=True)]


def _training_conversation_turns(record: JsonRecord) -> tuple[str, str]:
    """Return the concatenated user turns, and the last reply."""
    turns = record.get(("conversations", "messages"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(
            f"{record.where}: the turns are {error_repr(turns)}",
            expected="a list of objects with from and value",
        )
    messages = [(_training_turn_role(turn), _training_turn_content(turn, record)) for turn in turns]
    if not messages or messages[-1][0] not in _MODELS:
        raise DataError(
            f"{record.where}: the role of the last turn is {error_repr(messages[-1][0] if messages else None)}",
            expected=f"one of: {', '.join(_MODELS)}",
        )
    return "\n\n".join(content for role, content in messages if role in _USERS), messages[-1][1]


def _training_turn_role(turn: dict[str, Any]) -> str:
    return str(turn.get("from", turn.get("role", ""))).lower()


def _training_turn_content(turn: dict[str, Any], record: JsonRecord) -> str:
    return parse_json_text(turn.get("value", turn.get("content")), record.where)


def _query_in_training_conversation(prompt: str, record: JsonRecord) -> str:
    for pattern in _QUERY:
        if found := pattern.findall(prompt):
            words = str(found[-1])
            return words.removesuffix(".").strip() or words  # the full stop belongs to the template
    raise DataError(
        f"{record.where}: the turn with the passages contains no query", expected="a line 'Search Query: ...'"
    )


def _training_passage_hash_name(passage: str) -> str:
    return hashlib.sha256(passage.encode("utf-8", "surrogatepass")).hexdigest()[:16]
