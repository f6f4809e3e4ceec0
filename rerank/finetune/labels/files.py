"""Reading and writing of training lists in files. The format of a file is detected from its first object.

- Label files: JSON lines with one list per line, in the format of fullrank:
  ``{"qid": "1", "initial_list": ["d1", "d2"], "final_list": ["d2", "d1"]}``, with the optional keys ``query`` (the
  text), ``scores`` (one per document, in the order of initial_list) and ``teacher``. Other keys are ignored.
- FlagEmbedding files: a query with positive and negative texts per line.
- Conversations: a prompt with numbered passages, and a reply with their ranking. The data of RankZephyr (Pradeep et al.
  2023, arXiv 2312.02724) have the form ``{"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value":
  "[2] > [1]"}]}``. Chats with ``role`` and ``content`` under ``messages`` are supported too.
"""

import hashlib
import json
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Literal, TextIO

from rerank.collections import Collection
from rerank.errors import DataError, UsageError, ensure, error_repr
from rerank.finetune.labels.hub import HubDataset, is_hub_dataset
from rerank.finetune.labels.lists import LabelList, TrainingList, attach_label_texts
from rerank.io.json_records import QUERY_IDS, JsonRecord, parse_json, parse_json_id, parse_json_text, read_json_lines
from rerank.io.text_files import open_text_file, replace_text_file
from rerank.parsing import parse_permutation
from rerank.types import Document, Query

ListFormat = Literal["labels", "flag-embedding", "conversations"]
_KEYS: dict[str, ListFormat] = {
    "initial_list": "labels",
    "pos": "flag-embedding",
    "conversations": "conversations",
    "messages": "conversations",
}


def read_label_lists_of_file(
    path: str | Path,
    collection: Collection | None = None,
    *,
    seed: int = 0,
    use_scores: bool = True,
    skipped: Counter[str] | None = None,
) -> Iterator[TrainingList]:
    """Yield the training lists of a label file, a FlagEmbedding file or a file of conversations.

    ``path`` is a file, which may be gzipped (JSON lines, or one JSON list), or a data set such as
    ``hf:owner/name,split=train``. Label files need the ``collection`` of their documents. ``seed`` (the order in which
    texts are shown) and ``use_scores`` (order texts by score instead of positives first) are for FlagEmbedding files.
    Skipped lists are counted in ``skipped`` by reason, or reported by a warning at the end if it is None.
    """
    counted: Counter[str] = Counter() if skipped is None else skipped
    form, records = open_label_records(path)
    if form == "labels":
        if collection is None:
            raise UsageError(
                f"{path} contains document ids without texts",
                expected="the collection that contains the documents",
                remedy="Pass --collection, or set collection in [data] of the recipe",
            )
        return attach_label_texts(map(parse_label, records), collection)
    if form == "conversations":
        lists = read_conversations(records, skipped=counted)
    else:
        lists = read_flag_embedding(records, seed=seed, use_scores=use_scores, skipped=counted)
    return lists if skipped is not None else _with_warning(lists, counted, path)


def _with_warning(lists: Iterator[TrainingList], skipped: Counter[str], path: str | Path) -> Iterator[TrainingList]:
    yield from lists
    if skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        warnings.warn(f"Skipped in {path}: {counts}", stacklevel=2)


def open_label_records(path: str | Path) -> tuple[ListFormat, Iterator[JsonRecord]]:
    """Detect the format of a file or data set, and return the format and an iterator over its JSON objects."""
    records = HubDataset.parse(str(path)).records() if is_hub_dataset(path) else _records(Path(path))
    if (first := next(records, None)) is None:
        raise DataError(f"{path} contains no rows", expected="at least one training list")
    if (form := next((form for key, form in _KEYS.items() if key in first.fields), None)) is None:
        raise DataError(
            f"{first.where}: the keys are {', '.join(first.fields) or '(none)'}",
            expected="the keys qid, initial_list and final_list; query, pos and neg; or conversations",
        )
    return form, chain([first], records)


def _records(path: Path) -> Iterator[JsonRecord]:
    with open_text_file(path) as stream:
        listed = next((line.lstrip()[0] for line in stream if line.strip()), "") == "["
    if not listed:
        yield from read_json_lines(path)
        return
    with open_text_file(path) as stream:
        entries = parse_json(stream.read(), str(path))
    ensure(entries, f"{path} contains an empty list", expected="at least one object", error=DataError)
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {number} is {error_repr(entry)}", expected="a JSON object")
        yield JsonRecord(f"{path}, entry {number}", entry)


def read_labels(path: str | Path) -> Iterator[LabelList]:
    """Yield the lists of a label file, which may be gzipped. A query may have several lists.

    Raises:
        MissingResourceError: The file does not exist.
        DataError: The file is empty, or a line is not a valid list; the message names the line.
    """
    return (parse_label(record) for record in read_json_lines(Path(path)))


def parse_label(record: JsonRecord) -> LabelList:
    """Parse a labelled list."""
    return LabelList(
        qid=record.identifier(("qid", "query_id"), "query"),
        initial=_document_ids(record, "initial_list"),
        final=_document_ids(record, "final_list"),
        query=parse_json_text(record.fields.get("query") or "", record.where),
        scores=_numbers(record, "scores"),
        teacher=parse_json_text(record.fields.get("teacher") or "", record.where),
        where=record.where,
    )


def write_labels(lists: Iterable[LabelList], target: str | Path | TextIO) -> int:
    """Write labelled lists to a label file, one per line, and return their number.

    ``target`` is a stream, or the path of a file that is replaced atomically (gzipped if its name ends in ``.gz``).
    """
    count = 0
    with replace_text_file(target) if isinstance(target, str | Path) else nullcontext(target) as stream:
        for label in lists:
            stream.write(json.dumps(label.to_row(), ensure_ascii=False) + "\n")
            count += 1
    return count


def _document_ids(record: JsonRecord, key: str) -> tuple[str, ...]:
    value = record.fields.get(key)
    if not isinstance(value, list):
        raise DataError(
            f"{record.where}: {key} is {error_repr(value)}"
            if key in record.fields
            else f"{record.where}: the key {key} is missing; the keys are: {', '.join(record.fields) or '(none)'}",
            expected='a list of document ids, as in {"qid": ..., "initial_list": [...], "final_list": [...]}',
            remedy="Convert other formats with `rerank label convert`",
        )
    return tuple(parse_json_id(one, "document", record.where) for one in value)


def _numbers(record: JsonRecord, key: str) -> tuple[float, ...]:
    if (value := record.fields.get(key)) is None:
        return ()
    if not isinstance(value, list) or any(isinstance(x, bool) or not isinstance(x, int | float) for x in value):
        raise DataError(f"{record.where}: {key} is {error_repr(value)}", expected="a list of numbers")
    try:
        return tuple(map(float, value))
    except OverflowError as error:
        raise DataError(
            f"{record.where}: {key} contains a number that is too large", expected="finite numbers"
        ) from error


def read_flag_embedding(
    records: Iterable[JsonRecord], *, seed: int = 0, use_scores: bool = True, skipped: Counter[str]
) -> Iterator[TrainingList]:
    """Yield the training lists of a FlagEmbedding file.

    A repeated text counts once, and a text that is both positive and negative counts as positive. With teacher scores,
    the label orders the texts by score, which may rank a negative above a positive; without scores, positives (with
    score 1) come before negatives (with score 0), in file order. The order in which they are shown is random. Skipped
    lists (without a negative) and repeated texts are added to the counter ``skipped``, by reason.
    """
    for number, record in enumerate(records, 1):
        words = parse_json_text(record.fields.get("query"), record.where)
        ensure(
            words.strip(), f"{record.where}: the query is blank", expected="a text that is not blank", error=DataError
        )
        query = Query(id=_query_id(record, number), text=words)
        positive, negative = _strings(record, "pos"), _strings(record, "neg")
        scores = _scores(record, len(positive), len(negative)) if use_scores else ()
        scores = scores or (1.0,) * len(positive) + (0.0,) * len(negative)
        score_of: dict[str, float] = {}  # texts in file order
        for body, score in zip((*positive, *negative), scores, strict=True):
            if body in score_of:
                skipped["texts that were there twice"] += 1
            else:
                score_of[body] = score
        if not set(negative) - set(positive):
            skipped["lists without a negative"] += 1
            continue
        shown = list(score_of)
        random.Random(f"{seed}/{query.id}").shuffle(shown)
        position = {body: index for index, body in enumerate(shown)}
        yield TrainingList(
            query=query,
            docs=tuple(map(_document, shown)),
            order=tuple(position[body] for body in sorted(score_of, key=score_of.__getitem__, reverse=True)),
            scores=tuple(score_of[body] for body in shown),
            teacher="flag-embedding",
        )


def _query_id(record: JsonRecord, number: int) -> str:
    return record.identifier(QUERY_IDS, "query") if record.get(QUERY_IDS) is not None else str(number)


def _document(body: str) -> Document:
    """Return a document whose id is a hash of its text, so that equal texts are the same document."""
    return Document(id=hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()[:16], text=body)


def _scores(record: JsonRecord, positive: int, negative: int) -> tuple[float, ...]:
    scores = [_numbers(record, key) for key in ("pos_scores", "neg_scores")]
    if not any(scores):
        return ()
    ensure(
        [len(side) for side in scores] == [positive, negative],
        f"{record.where}: there are {len(scores[0])} pos_scores and {len(scores[1])} neg_scores for {positive} "
        f"positives and {negative} negatives",
        expected="one score per text, or no scores",
        error=DataError,
    )
    return (*scores[0], *scores[1])


def _strings(record: JsonRecord, key: str) -> list[str]:
    value = record.fields.get(key)
    if key == "neg" and value is None:
        return []
    if not isinstance(value, list) or (key == "pos" and not value):
        raise DataError(f"{record.where}: {key} is {error_repr(value)}", expected="a list of texts")
    return [parse_json_text(body, record.where) for body in value]


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

    A list whose reply does not rank every passage is skipped; repeated identifiers and text around the ranking are
    accepted, as in a run. Skipped lists are added to the counter ``skipped``, by reason.
    """
    for number, record in enumerate(records, 1):
        prompt, reply = _turns(record)
        if not (passages := passages_of_prompt(prompt)):
            raise DataError(f"{record.where}: no line starts with [1]", expected="numbered passages")
        if (stated := _STATED.search(prompt[: prompt.find("[1]")])) and int(stated[1]) != len(passages):
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
        if (words := next((str(found[-1]) for pattern in _QUERY if (found := pattern.findall(prompt))), None)) is None:
            raise DataError(
                f"{record.where}: the turn with the passages contains no query", expected="a line 'Search Query: ...'"
            )
        # A full stop at the end belongs to the template.
        query = Query(id=_query_id(record, number), text=words.removesuffix(".").strip() or words)
        docs = tuple(map(_document, passages))
        yield TrainingList(query=query, docs=docs, order=parsed.order, teacher="conversation")


def passages_of_prompt(prompt: str) -> list[str]:
    r"""Return the passages that a prompt shows as [1], [2], ... at line starts, in this order.

    A bracketed number that is not the next one in sequence is part of the passage in which it occurs.

    >>> passages_of_prompt("Rank them.\n[1] one\n[7] more of it\n[2] two\n\nSearch Query: q.")
    ['one\n[7] more of it', 'two']
    """
    starts: list[tuple[int, int]] = []
    while mark := re.compile(rf"^\s*\[{len(starts) + 1}\][ \t]*", re.M).search(prompt, starts[-1][1] if starts else 0):
        starts.append(mark.span())
    if not starts:
        return []
    matches = (list(pattern.finditer(prompt, starts[-1][1])) for pattern in _AFTER)
    ends = [*(start for start, _ in starts[1:]), next((found[-1].start() for found in matches if found), len(prompt))]
    return [prompt[start:end].strip() for (_, start), end in zip(starts, ends, strict=True)]


def _turns(record: JsonRecord) -> tuple[str, str]:
    turns = record.get(("conversations", "messages"))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(
            f"{record.where}: the turns are {error_repr(turns)}", expected="a list of objects with from and value"
        )
    messages = [
        (
            str(turn.get("from", turn.get("role", ""))).lower(),
            parse_json_text(turn.get("value", turn.get("content")), record.where),
        )
        for turn in turns
    ]
    if not messages or messages[-1][0] not in _MODELS:
        raise DataError(
            f"{record.where}: the role of the last turn is {error_repr(messages[-1][0] if messages else None)}",
            expected=f"one of: {', '.join(_MODELS)}",
        )
    return "\n\n".join(content for role, content in messages if role in _USERS), messages[-1][1]
