"""FlagEmbedding's training files: a query, its positive and its negative texts. Knows no collection.

``{"query": "...", "pos": ["..."], "neg": ["..."]}``, and perhaps ``pos_scores`` and ``neg_scores``, a teacher's numbers
for each text. Such a line says what is relevant and not how documents were found, so the order in which they are shown
is drawn by chance: positives that always come first would be all that a model learns.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from rerank.errors import DataError, shorten
from rerank.finetune.labels.files import numbers
from rerank.finetune.labels.training_list import TrainingList
from rerank.io.json_records import QUERY_IDS, Record, text
from rerank.types import Document, Query

#: What a text without a teacher's score counts as.
_RELEVANT, _OTHER = 1.0, 0.0


def read_flag_embedding(
    records: Iterable[Record], *, seed: int = 0, use_scores: bool = True, skipped: Counter[str]
) -> Iterator[TrainingList]:
    """Stream the lists of such a file.

    A document's id is a hash of its text, so that equal texts are one document. A text that is there twice counts
    once, and one that is both positive and negative counts as positive. Where there are scores the label is their
    order, which may put a negative above a positive; else positives come first, as given.

    Args:
        records: The objects.
        seed: For the order in which documents are shown.
        use_scores: Whether the teacher's scores make the label; without them positives have 1 and negatives 0.
        skipped: Counts what was left out, by reason: lists without a negative, texts that were there twice.

    Raises:
        DataError: An object has another shape; the message names the place.
    """
    for place, record in enumerate(records, 1):
        query = _query(record, place)
        found = _texts(record, use_scores=use_scores, skipped=skipped)
        if found is None:
            skipped["lists without a negative"] += 1
            continue
        shown = list(found)
        random.Random(f"{seed}/{query.id}").shuffle(shown)
        docs = tuple(Document(id=_name(body), text=body) for body in shown)
        best_first = sorted(range(len(shown)), key=lambda at: _key(found, shown[at]))
        scores = tuple(found[body][0] for body in shown)
        yield TrainingList(query=query, docs=docs, order=tuple(best_first), scores=scores, teacher="flag-embedding")


def _key(found: Mapping[str, tuple[float, int]], body: str) -> tuple[float, int]:
    score, place = found[body]
    return -score, place


def _texts(record: Record, *, use_scores: bool, skipped: Counter[str]) -> dict[str, tuple[float, int]] | None:
    """Text -> its score and its place in the line; None if there is nothing to tell apart."""
    positive, negative = _strings(record, "pos"), _strings(record, "neg")
    scores = _scores(record, len(positive), len(negative)) if use_scores else ()
    if not scores:
        scores = (_RELEVANT,) * len(positive) + (_OTHER,) * len(negative)
    found: dict[str, tuple[float, int]] = {}
    for place, (body, score) in enumerate(zip((*positive, *negative), scores, strict=True)):
        if body in found:
            skipped["texts that were there twice"] += 1
        else:
            found[body] = (score, place)
    return found if set(negative) - set(positive) else None


def _scores(record: Record, positive: int, negative: int) -> tuple[float, ...]:
    found = [numbers(record.fields.get(key), key, record.where) for key in ("pos_scores", "neg_scores")]
    if not any(found):
        return ()
    if [len(one) for one in found] != [positive, negative]:
        raise DataError(
            f"{record.where}: {len(found[0])} pos_scores and {len(found[1])} neg_scores for {positive} positives and "
            f"{negative} negatives",
            expected="one a text, or none at all",
        )
    return (*found[0], *found[1])


def _strings(record: Record, key: str) -> list[str]:
    value = record.fields.get(key)
    if key == "neg" and value is None:
        return []
    if not isinstance(value, list) or (key == "pos" and not value):
        raise DataError(f"{record.where}: {key} is {shorten(value)}", expected="a list of texts")
    return [text(one, record.where) for one in value]


def _query(record: Record, place: int) -> Query:
    words = text(record.fields.get("query"), record.where)
    if not words.strip():
        raise DataError(f"{record.where}: the query is blank", expected="a text")
    given = record.get(QUERY_IDS)
    return Query(id=record.identifier(QUERY_IDS, "query") if given is not None else str(place), text=words)


def _name(body: str) -> str:
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()[:16]
