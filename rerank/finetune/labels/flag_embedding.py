"""Parser for FlagEmbedding training files: a query with positive and negative texts per line.

A line has the form ``{"query": "...", "pos": ["..."], "neg": ["..."]}``, with optional teacher scores of the texts in
``pos_scores`` and ``neg_scores``. A line contains no first-stage order, so its texts are shown in random order: if
positives always came first, a model would only learn to keep the order.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from rerank.errors import DataError, error_repr
from rerank.finetune.labels.label_files import parse_training_label_numbers
from rerank.finetune.labels.training_list import TrainingList
from rerank.io.json_records import QUERY_IDS, JsonRecord, parse_json_text
from rerank.types import Document, Query

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
