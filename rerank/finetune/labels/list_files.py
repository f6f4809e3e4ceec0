"""Reader of training lists from files and data sets. The format of a file is detected from its first object.

Parser for FlagEmbedding training files: a query with positive and negative texts per line.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Literal

from rerank.collections import Collection
from rerank.errors import DataError, UsageError, error_repr
from rerank.finetune.labels.conversations import read_conversations
from rerank.finetune.labels.hub_lists import HubDataset, is_hub_dataset
from rerank.finetune.labels.label_files import parse_label, parse_training_label_numbers
from rerank.finetune.labels.list_texts import attach_label_texts
from rerank.finetune.labels.training_list import TrainingList
from rerank.io.json_records import QUERY_IDS, JsonRecord, parse_json, parse_json_text, read_json_lines
from rerank.io.text_files import open_text_file
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

    Args:
        path: The file, which may be gzipped: JSON lines, or one JSON list; or a data set, such as
            ``hf:owner/name,split=train``.
        collection: Collection that contains the documents of a label file; the other formats contain texts.
        seed: Random seed of the order in which texts of FlagEmbedding files are shown.
        use_scores: Whether to order the texts of FlagEmbedding files by their scores; otherwise positives come first.
        skipped: Counter to which skipped lists are added, by reason; if None, a warning reports them at the end.

    Raises:
        MissingResourceError: The file does not exist.
        DataError: The format is unknown, or a line is invalid; the message names the line.
        UsageError: The file is a label file, and no collection is given.
    """
    counted: Counter[str] = Counter() if skipped is None else skipped
    form, records = open_label_records(path)
    if form != "labels":
        lists = (
            read_conversations(records, skipped=counted)
            if form == "conversations"
            else read_flag_embedding_training_lists(records, seed=seed, use_scores=use_scores, skipped=counted)
        )
        return lists if skipped is not None else _lists_with_skip_warning(lists, counted, path)
    if collection is None:
        raise UsageError(
            f"{path} contains document ids without texts",
            expected="the collection that contains the documents",
            remedy="Pass --collection, or set collection in [data] of the recipe",
        )
    return attach_label_texts(map(parse_label, records), collection)


def _lists_with_skip_warning(
    lists: Iterator[TrainingList], skipped: Counter[str], path: str | Path
) -> Iterator[TrainingList]:
    """Yield the lists, and warn at the end if the reader skipped lists, with the reasons."""
    yield from lists
    if skipped:
        counts = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        warnings.warn(f"Skipped in {path}: {counts}", stacklevel=2)


def open_label_records(path: str | Path) -> tuple[ListFormat, Iterator[JsonRecord]]:
    """Detect the format of a file or data set, and return the format and an iterator over its JSON objects."""
    records = HubDataset.parse(str(path)).records() if is_hub_dataset(path) else _label_records(Path(path))
    first = next(records, None)
    if first is None:
        raise DataError(f"{path} contains no rows", expected="at least one training list")
    form = next((form for key, form in _KEYS.items() if key in first.fields), None)
    if form is None:
        raise DataError(
            f"{first.where}: the keys are {', '.join(first.fields) or '(none)'}",
            expected="the keys qid, initial_list and final_list; query, pos and neg; or conversations",
        )
    return form, chain([first], records)


def _label_records(path: Path) -> Iterator[JsonRecord]:
    with open_text_file(path) as stream:
        listed = next((line.lstrip()[0] for line in stream if line.strip()), "") == "["
    if not listed:
        yield from read_json_lines(path)
        return
    with open_text_file(path) as stream:
        entries = parse_json(stream.read(), str(path))
    if not entries:
        raise DataError(f"{path} contains an empty list", expected="at least one object")
    yield from _checked_label_records(entries, path)


def _checked_label_records(entries: Iterable[object], path: Path) -> Iterator[JsonRecord]:
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {number} is {error_repr(entry)}", expected="a JSON object")
        yield JsonRecord(f"{path}, entry {number}", entry)


#: Scores of positive and negative texts if there are no teacher scores.
_RELEVANT, _OTHER = 1.0, 0.0


def read_flag_embedding_training_lists(
    records: Iterable[JsonRecord], *, seed: int = 0, use_scores: bool = True, skipped: Counter[str]
) -> Iterator[TrainingList]:
    """Yield the training lists of a FlagEmbedding file.

    The id of a document is a hash of its text, so that equal texts are the same document. A repeated text counts once,
    and a text that is both positive and negative counts as positive. With teacher scores, the label orders the texts by
    score, which may rank a negative above a positive; without scores, positives come first, in file order.

    Args:
        records: JSON objects of the file.
        seed: Random seed of the shown order.
        use_scores: Whether to use the teacher scores. If False, or if there are none, positives have score 1 and
            negatives score 0.
        skipped: Counter to which skipped lists (without a negative) and repeated texts are added, by reason.
    """
    for number, record in enumerate(records, 1):
        query = _flag_embedding_query(record, number)
        texts = _flag_embedding_training_texts(record, use_scores=use_scores, skipped=skipped)
        if texts is None:
            skipped["lists without a negative"] += 1
            continue
        shown = list(texts)
        random.Random(f"{seed}/{query.id}").shuffle(shown)
        docs = tuple(Document(id=_flag_embedding_document_id(body), text=body) for body in shown)
        best_first = sorted(range(len(shown)), key=lambda position: _flag_embedding_sort_key(texts, shown[position]))
        scores = tuple(texts[body][0] for body in shown)
        yield TrainingList(query=query, docs=docs, order=tuple(best_first), scores=scores, teacher="flag-embedding")


def _flag_embedding_sort_key(texts: Mapping[str, tuple[float, int]], body: str) -> tuple[float, int]:
    score, index = texts[body]
    return -score, index


def _flag_embedding_training_texts(
    record: JsonRecord, *, use_scores: bool, skipped: Counter[str]
) -> dict[str, tuple[float, int]] | None:
    """Return a mapping from each text of a line to its score and its index in the line; None without negatives."""
    positive, negative = _flag_embedding_strings(record, "pos"), _flag_embedding_strings(record, "neg")
    scores = _flag_embedding_teacher_scores(record, len(positive), len(negative)) if use_scores else ()
    if not scores:
        scores = (_RELEVANT,) * len(positive) + (_OTHER,) * len(negative)
    texts: dict[str, tuple[float, int]] = {}
    for index, (body, score) in enumerate(zip((*positive, *negative), scores, strict=True)):
        if body in texts:
            skipped["texts that were there twice"] += 1
        else:
            texts[body] = (score, index)
    return texts if set(negative) - set(positive) else None


def _flag_embedding_teacher_scores(record: JsonRecord, positive: int, negative: int) -> tuple[float, ...]:
    scores = [
        parse_training_label_numbers(record.fields.get(key), key, record.where) for key in ("pos_scores", "neg_scores")
    ]
    if not any(scores):
        return ()
    if [len(side) for side in scores] != [positive, negative]:
        raise DataError(
            f"{record.where}: there are {len(scores[0])} pos_scores and {len(scores[1])} neg_scores for {positive} "
            f"positives and {negative} negatives",
            expected="one score per text, or no scores",
        )
    return (*scores[0], *scores[1])


def _flag_embedding_strings(record: JsonRecord, key: str) -> list[str]:
    value = record.fields.get(key)
    if key == "neg" and value is None:
        return []
    if not isinstance(value, list) or (key == "pos" and not value):
        raise DataError(f"{record.where}: {key} is {error_repr(value)}", expected="a list of texts")
    return [parse_json_text(body, record.where) for body in value]


def _flag_embedding_query(record: JsonRecord, number: int) -> Query:
    words = parse_json_text(record.fields.get("query"), record.where)
    if not words.strip():
        raise DataError(f"{record.where}: the query is blank", expected="a text that is not blank")
    query_id = record.get(QUERY_IDS)
    return Query(id=record.identifier(QUERY_IDS, "query") if query_id is not None else str(number), text=words)


def _flag_embedding_document_id(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()[:16]
