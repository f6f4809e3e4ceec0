"""Writing of a run's results, one list at a time: ranking, judge scores, relevance probabilities, split windows."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

from rerank.experiment.prepare import PreparedRun
from rerank.experiment.relevance import open_relevance_of_prepared_run
from rerank.io.run_files import open_trec_run_file
from rerank.pipeline.results import RankedList
from rerank.store import RunFolder
from rerank.store.judge_scores import JudgeScores, open_run_folder_judge_scores
from rerank.types import Ranking


@contextmanager
def open_experiment_result_files(
    folder: RunFolder, prepared: PreparedRun, name: str
) -> Generator[Callable[[Ranking, RankedList], None]]:
    """Write the results of a run. All files are replaced when the block ends, or none if it ends with an error.

    Args:
        folder: The run folder.
        prepared: The prepared run.
        name: Name of the run in run.trec.

    Yields:
        A function that writes one list, given its candidates in first-stage order.
    """
    with ExitStack() as stack:  # files are replaced in reverse order: run.trec, the sign of a finished run, is the last
        write_run = stack.enter_context(open_trec_run_file(folder.path / "run.trec", name))
        write_relevance = (
            stack.enter_context(open_relevance_of_prepared_run(folder.path / "relevance.jsonl", prepared))
            if prepared.calibration is not None
            else None
        )
        write_scores = stack.enter_context(open_run_folder_judge_scores(folder.path / "judge_scores.jsonl"))
        write_split = stack.enter_context(folder.open_splits())

        def write(candidates: Ranking, ranked: RankedList) -> None:
            write_run(ranked.ranking)
            write_scores(_judge_scores_of_experiment_list(ranked))
            if write_relevance is not None:
                write_relevance(candidates, ranked)
            for window, capacity in ranked.split:
                write_split(window, capacity)

        yield write


def _judge_scores_of_experiment_list(ranked: RankedList) -> JudgeScores:
    is_scored = ranked.score_kind is not None and any(score is not None for score in ranked.scores)
    kind = ranked.score_kind.name if ranked.score_kind and is_scored else ""
    scores = dict(zip(ranked.ranking.doc_ids, ranked.scores, strict=True)) if kind else {}
    return JudgeScores(query=ranked.ranking.query.id, kind=kind, scores=scores)
