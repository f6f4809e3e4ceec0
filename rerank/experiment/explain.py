"""Explanation of one ranking from the record of its run: the calls, and what they did to the documents."""

import math
from itertools import islice
from typing import Any

from rerank.errors import UnknownNameError
from rerank.parsing import parse_permutation
from rerank.store import Call, RunFolder
from rerank.store.run_folder import JudgeScores, read_judge_scores

#: The files of a run folder that are read.
FILES = (
    *("spec.json", "queries.jsonl", "first_stage.trec", "calls.sqlite", "calls.sqlite-wal"),
    *("run.trec", "judge_scores.jsonl"),
)
_MAX_REPLY = 2000  #: Maximum number of characters of a reply.
#: The part of the specification that says how the documents were ranked.
_SETTINGS = ("collection", "first_stage", "depth", "method", "model", "adapter", "prompt", "shuffle")


def explain_ranking(folder: RunFolder, query_id: str, *, documents: int = 20, calls: int = 20) -> dict[str, Any]:
    """Return, for one query of a run folder, its best ``documents`` and its first ``calls``, as a JSON object.

    Each document has its rank, its rank in the first stage, and the judge's score, if any. Each call has the documents
    of its window in the order of the prompt, the reply or its scores, and the order of the documents if the reply is a
    complete ranking of identifiers. Only the record is read: no model, prompt, plug-in or collection is loaded.

    Raises:
        UnknownNameError: The run has no such query.
        MissingResourceError: A file of the folder is missing.
        DataError: A file of the folder is damaged.
    """
    document, candidates = folder.spec(), folder.read_candidates()
    if query_id not in candidates:
        raise UnknownNameError("query", query_id, list(candidates))
    given = candidates[query_id]
    finished = (folder.path / "run.trec").is_file()
    ranking = folder.read_run("run.trec").get(query_id, given) if finished else given
    judged = read_judge_scores(folder.path / "judge_scores.jsonl").get(query_id, JudgeScores(query=query_id))
    letters = str(document["identity"].get("letters", "")).split() or None
    with folder.calls(readonly=True) as log:
        found = log.calls_of_query(query_id)
    first_ranks = {doc: rank for rank, doc in enumerate(given.doc_ids, 1)}
    rows = [
        {"rank": rank, "id": doc, "first_stage_rank": first_ranks.get(doc), "judge_score": judged.scores.get(doc)}
        for rank, doc in enumerate(islice(ranking.doc_ids, documents), 1)
    ]
    return {
        "query": {"id": query_id, "text": given.query.text},
        "finished": finished,
        "settings": {key: document["spec"].get(key) for key in _SETTINGS},
        "score_kind": judged.kind,
        "documents": rows,
        "total_documents": len(ranking),
        "calls": [_describe(call, letters) for call in found[:calls]],
        "total_calls": len(found),
    }


def _describe(call: Call, letters: list[str] | None) -> dict[str, Any]:
    reply, ids = call.reply, call.doc_ids
    parsed = parse_permutation(reply.text, len(ids), letters)
    row = {key: getattr(reply, key) for key in ("finish", "error", "tokens_in", "tokens_out", "seconds")}
    return row | {
        "window": list(ids),
        "order": [ids[position] for position in parsed.order] if parsed.status in ("ok", "repaired") else None,
        "reply": reply.text[:_MAX_REPLY],
        "scores": [score if math.isfinite(score) else None for score in reply.scores],
    }
