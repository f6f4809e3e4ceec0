"""Writing of the file ``relevance.jsonl`` of a run folder: probabilities of relevance, one line per query.

``answerable`` is the probability that at least one document of the list is relevant.

Example: {"query": "q1", "answerable": 0.8, "fit": "judge+first-stage", "relevance": {"d1": 0.7, "d2": 0.1}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from rerank.calibration import first_stage_of_calibration
from rerank.errors import UsageError
from rerank.experiment.prepare import PreparedRun
from rerank.io.text_files import replace_text_file
from rerank.pipeline.results import RankedList
from rerank.reranker.calibrated import calibrate_list_of_reranker
from rerank.types import Ranking


@contextmanager
def open_relevance_of_prepared_run(
    path: Path, prepared: PreparedRun
) -> Generator[Callable[[Ranking, RankedList], None]]:
    """Write calibrated probabilities one list at a time; the file is replaced if the block ends without an error.

    Args:
        path: Path of the file ``relevance.jsonl`` in a run folder.
        prepared: The prepared run, which must have a calibration.

    Yields:
        A function that writes the probabilities of one list, given its candidates with their first-stage scores. An
        empty list is not written.
    """
    calibration = prepared.calibration
    if calibration is None:
        raise UsageError("The run has no calibration", expected="a file written by `rerank calibrate`")
    name = first_stage_of_calibration(prepared.spec.first_stage)
    with replace_text_file(path) as file:

        def write(candidates: Ranking, ranked: RankedList) -> None:
            doc_ids = ranked.ranking.doc_ids
            if not doc_ids:
                return
            scores = dict(zip(candidates.doc_ids, candidates.scores, strict=False))
            calibrated = calibrate_list_of_reranker(calibration, ranked, [scores.get(doc) for doc in doc_ids], name)
            row = {
                "query": ranked.ranking.query.id,
                "answerable": calibrated.answerable,
                "fit": calibrated.fit,
                "relevance": dict(zip(doc_ids, calibrated.relevance, strict=True)),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

        yield write
