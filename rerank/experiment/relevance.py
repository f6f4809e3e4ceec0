"""Probabilities of relevance in a run folder: ``relevance.jsonl``, one line per query.

{"query": "q1", "answerable": 0.8, "fit": "judge+first-stage", "relevance": {"d1": 0.7, "d2": 0.1}}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from rerank.calibration import first_stage_name
from rerank.errors import UsageError
from rerank.experiment.prepare import PreparedRun
from rerank.io.text_files import replace_text
from rerank.pipeline.results import RankedList
from rerank.reranker.calibrated import calibrate_list


def write_relevance(path: Path, prepared: PreparedRun, lists: Iterable[RankedList]) -> None:
    """Write the calibrated probabilities of reranked lists; the file is replaced atomically.

    Args:
        path: The file, ``relevance.jsonl`` in a run folder.
        prepared: The run, with a calibration and its first-stage scores.
        lists: The reranked lists; empty ones are left out.

    Raises:
        UsageError: The run has no calibration.
    """
    if prepared.calibration is None:
        raise UsageError("The run has no calibration", expected="a file of `rerank calibrate`")
    name = first_stage_name(prepared.spec.first_stage)
    with replace_text(path) as file:
        for ranked in lists:
            query_id, doc_ids = ranked.ranking.query.id, ranked.ranking.doc_ids
            if not doc_ids:
                continue
            candidates = prepared.first_stage[query_id]
            scores = dict(zip(candidates.doc_ids, candidates.scores, strict=False))
            calibrated = calibrate_list(prepared.calibration, ranked, [scores.get(doc) for doc in doc_ids], name)
            row = {
                "query": query_id,
                "answerable": calibrated.answerable,
                "fit": calibrated.fit,
                "relevance": dict(zip(doc_ids, calibrated.relevance, strict=True)),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
