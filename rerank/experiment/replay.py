"""Repeat a run from its recorded replies, without a model, and compare the results with its folder.

The driver, judge and measures are those of the run itself.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.assemble import RankerPlan, plan_ranker
from rerank.backends.replay import Replay
from rerank.experiment.candidates import order_candidates
from rerank.experiment.execute import run_tag
from rerank.experiment.prepare import ranker_config_of_run, run_identity_settings
from rerank.experiment.spec import RunSpec
from rerank.experiment.summary import NAMED_FAILURES, RunTally, score_reranked_run, summarise_run
from rerank.io.run_files import write_run
from rerank.judges import Judge, Verdict
from rerank.judges.base import OversizedWindow, ScoreKind
from rerank.pipeline.passages import PassageAggregation, expand_ranking, make_passage
from rerank.pipeline.results import RerankOutcome
from rerank.pipeline.stream import rank_together
from rerank.store import RunFolder, identity_hash
from rerank.tasks import Reply, Request
from rerank.tasks.usage import Usage
from rerank.types import Ranking, Run, Window


def replay_run_folder(folder: RunFolder) -> tuple[Run, RerankOutcome, Usage]:
    """Rerank the candidates of a run folder with its recorded replies.

    Returns:
        The reranked run, the outcome of the driver, and the cost of the replies used.
    """
    spec = RunSpec.from_record(folder.spec()["spec"])
    plan = plan_ranker(ranker_config_of_run(spec))
    letters = tuple(folder.spec()["identity"].get("letters", "").split())
    with folder.calls(readonly=True) as log:
        backend = Replay(log.calls(), letters=letters)
    judge = _RecordedJudge(plan.open_recorded_judge(backend), folder.read_splits())
    candidates = order_candidates(folder.read_candidates(), spec)
    passages = _recorded_splitter(plan, folder)
    outcome = rank_together(candidates.values(), plan.strategy, judge, backend, top_k=spec.top_k, passages=passages)
    usage = Usage()
    for reply in backend.used.values():
        usage.add(reply, reused=False)
    return Run(outcome.rankings, name=run_tag(spec)), outcome, usage


@dataclass(frozen=True)
class _RecordedSplitter:
    """A splitter that gives documents, whose texts are not recorded, as many passages as they had in the run.

    Attributes:
        passages: The aggregation of the run.
        counts: Number of passages per query and document.
    """

    passages: PassageAggregation
    counts: Mapping[str, Mapping[str, int]]

    def expand(self, ranking: Ranking) -> Ranking:
        counts = self.counts.get(ranking.query.id, {})
        return expand_ranking(
            ranking, lambda doc: [make_passage(doc, n, "") for n in range(1, counts.get(doc.id, 1) + 1)]
        )

    def collect(self, documents: Ranking, passages: Ranking) -> Ranking:
        return self.passages.collect(documents, passages)

    def collect_scores(self, passages: Ranking, scores: Mapping[str, float]) -> dict[str, float]:
        return self.passages.collect_scores(passages, scores)


def _recorded_splitter(plan: RankerPlan, folder: RunFolder) -> _RecordedSplitter | None:
    return None if plan.passages is None else _RecordedSplitter(plan.passages, folder.read_passages())


@dataclass(frozen=True)
class _RecordedJudge:
    """A judge that reports the same windows as oversized as the run did."""

    judge: Judge
    splits: Mapping[tuple[str, tuple[str, ...]], int]

    @property
    def score_kind(self) -> ScoreKind | None:
        return self.judge.score_kind

    def requests(self, window: Window) -> list[Request] | OversizedWindow:
        capacity = self.splits.get((window.query.id, tuple(doc.id for doc in window.docs)))
        return self.judge.requests(window) if capacity is None else OversizedWindow(capacity)

    def verdict(self, window: Window, replies: Sequence[Reply]) -> Verdict:
        return self.judge.verdict(window, replies)


def rescore_run_folder(folder: RunFolder, measures: tuple[str, ...] = ()) -> dict[str, Any]:
    """Replay a run folder and score the result; nothing is written.

    Args:
        folder: A run folder. In an unfinished run, windows without a reply count as errors.
        measures: Measures to use instead of those of the run.

    Returns:
        The content of summary.json.
    """
    run, outcome, usage = replay_run_folder(folder)
    return {"folder": str(folder.path), **_recompute_summary(folder, run, outcome, usage, measures)[0]}


def verify_run_folder(folder: RunFolder) -> list[dict[str, Any]]:
    """Recompute every number of a finished run folder.

    Returns:
        One row per difference: ``file``, ``what``, ``stored``, ``computed``. Empty if there is none.
    """
    document, stored = folder.spec(), folder.read_json("summary.json", "calls")
    run, outcome, usage = replay_run_folder(folder)
    summary, scores = _recompute_summary(folder, run, outcome, usage)
    spec = RunSpec.from_record(document["spec"])
    computed = run_identity_settings(spec, plan_ranker(ranker_config_of_run(spec)))
    stored_identity = {key: document["identity"].get(key) for key in computed}
    known = [key for key in summary if key in stored]  # folders of older versions lack later keys
    rows = [
        _difference_row("spec.json", "hash", document["hash"], identity_hash(document["identity"])),
        _difference_row("spec.json", "identity of the specification", stored_identity, computed),
        _difference_row("run.trec", "content", _read_folder_text(folder.path / "run.trec"), _format_trec_run(run)),
        *(
            _difference_row(name, "content", sha, folder.file_hash(name))
            for name, sha in document.get("files", {}).items()
        ),
        *(
            _difference_row(
                "summary.json",
                key,
                _without_unreplayable_fields(stored[key]),
                _without_unreplayable_fields(summary[key]),
            )
            for key in known
        ),
    ]
    if scores is not None:
        stored_scores = folder.read_json("scores.json")
        rows += [_difference_row("scores.json", key, stored_scores.get(key), scores[key]) for key in scores]
    return [row for row in rows if row["stored"] != row["computed"]]


def _recompute_summary(
    folder: RunFolder, run: Run, outcome: RerankOutcome, usage: Usage, measures: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the expected contents of summary.json and scores.json, without fields that depend on time or user."""
    spec = RunSpec.from_record(folder.spec()["spec"])
    first_stage = folder.read_candidates()
    qrels = folder.read_qrels()
    relevant = folder.read_json("scores.json", "relevant")["relevant"] if qrels else 1
    scores = score_reranked_run(qrels, run, first_stage, measures=measures or spec.measures, relevant=relevant)
    summary = summarise_run(spec, RunTally.of(outcome.lists), usage, queries=len(first_stage), scores=scores)
    # These depend on interruptions, on today's prices, on caches of the model, and on texts, which are not recorded.
    del summary["reused_calls"], summary["cost"], summary["tokens_cached"], summary["cut"]
    return summary, scores


def _difference_row(file: str, what: str, stored: Any, computed: Any) -> dict[str, Any]:
    return {"file": file, "what": what, "stored": stored, "computed": computed}


def _without_unreplayable_fields(value: Any) -> Any:
    """Return a value without differences that a replay cannot avoid.

    Seconds are summed in another order, and the reason of a missing reply is not recorded. The first failures of a long
    list depend on the order in which its windows were judged, so that only their number is compared.
    """
    if isinstance(value, list):
        failures = [{**failure, "detail": ""} if failure.get("status") == "error" else failure for failure in value]
        return (
            len(failures) if len(failures) == NAMED_FAILURES else sorted(failures, key=lambda row: sorted(row.items()))
        )
    return round(value, 6) if isinstance(value, float) else value


def _read_folder_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _format_trec_run(run: Run) -> str:
    text = io.StringIO()
    write_run(run, text)
    return text.getvalue()
