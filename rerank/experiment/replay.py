"""A run made again from its recorded replies, without a model: parsed, driven, scored, and compared with its folder.

Knows run folders; the work is done by the same driver, judge and measures as the run itself.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.backends.replay import Replay
from rerank.experiment.candidates import shuffled
from rerank.experiment.execute import run_name
from rerank.experiment.prepare import passages_of, settings, strategy_of
from rerank.experiment.spec import RunSpec
from rerank.experiment.summary import score, summarise
from rerank.io.run_files import write_run
from rerank.judges import Judge, Limits, Verdict, judges, open_judge
from rerank.judges.base import TooLong
from rerank.methods import open_method
from rerank.pipeline.driver import Outcome, drive
from rerank.pipeline.passages import Passages, named, spread
from rerank.prompts import load_prompt
from rerank.selector import Selector
from rerank.store import RunFolder, Usage, identity_hash
from rerank.types import Ranking, Run, Window


def replay(folder: RunFolder) -> tuple[Run, Outcome, Usage]:
    """Drive the folder's strategy over its candidates with its recorded replies.

    Returns:
        The reranked run, what the driver made of it, and what the replies that were used had cost.
    """
    spec = RunSpec.make(folder.spec()["spec"])
    method = open_method(spec.method)
    letters = tuple(folder.spec()["identity"].get("letters", "").split())
    with folder.calls(readonly=True) as log:
        backend = Replay(log.calls(), letters=letters)
    # Replies are found by window, so what the prompt would say does not matter, and texts are not needed.
    limits = Limits(temperature=spec.temperature, seed=settings(spec)["seed"])
    template = load_prompt(judges.get(method.judge).prompt or "listwise")
    judge = _Again(open_judge(_reading(method.judge_selector), backend, template, limits), folder.read_splits())
    candidates = shuffled(folder.read_candidates(), spec)
    passages = _recut(spec, folder)
    outcome = drive(candidates.values(), strategy_of(spec, method), judge, top_k=spec.top_k, passages=passages)
    usage = Usage()
    for reply in backend.used.values():
        usage.add(reply, reused=False)
    return Run(outcome.rankings, name=run_name(spec)), outcome, usage


@dataclass(frozen=True)
class _Recut:
    """Cuts documents without a text into as many passages as there were.

    Attributes:
        passages: What they were cut with.
        counts: Query -> document -> its passages.
    """

    passages: Passages
    counts: Mapping[str, Mapping[str, int]]

    def expand(self, ranking: Ranking) -> Ranking:
        counts = self.counts.get(ranking.query.id, {})
        return spread(ranking, lambda doc: [named(doc, n, "") for n in range(1, counts.get(doc.id, 1) + 1)])

    def collect(self, given: Ranking, passages: Ranking) -> Ranking:
        return self.passages.collect(given, passages)


def _recut(spec: RunSpec, folder: RunFolder) -> _Recut | None:
    passages = passages_of(spec)
    return None if passages is None else _Recut(passages, folder.read_passages())


@dataclass(frozen=True)
class _Again:
    """A judge that finds windows too long that were too long then."""

    judge: Judge
    splits: Mapping[tuple[str, tuple[str, ...]], int]

    def order(self, windows: Sequence[Window]) -> list[Verdict]:
        return self.judge.order(windows)

    def attempt(self, windows: Sequence[Window]) -> list[Verdict | TooLong]:
        rooms = [self.splits.get((window.query.id, tuple(doc.id for doc in window.docs))) for window in windows]
        fitting = [window for window, room in zip(windows, rooms, strict=True) if room is None]
        verdicts = iter(self.judge.order(fitting))
        return [next(verdicts) if room is None else TooLong(room) for room in rooms]


def _reading(selector: str) -> str:
    """A judge's selector with the options that decide how replies are read; files that others name may be gone."""
    parsed = Selector.parse(selector)
    ignored = judges.get(parsed.name).asking_only
    return parsed.name + "".join(f",{key}={value}" for key, value in parsed.options.items() if key not in ignored)


def rescore(folder: RunFolder, measures: tuple[str, ...] = ()) -> dict[str, Any]:
    """Replay a folder and score the result; writes nothing.

    Args:
        folder: A run folder; an unfinished one counts its open windows as errors.
        measures: Other measures than the run's own.

    Returns:
        The keys of summary.json.
    """
    run, outcome, usage = replay(folder)
    return {"folder": str(folder.path), **_summary(folder, run, outcome, usage, measures)[0]}


def verify(folder: RunFolder) -> list[dict[str, Any]]:
    """Compute every number of a finished folder again.

    Returns:
        One row for everything that differs: ``file``, ``what``, ``stored``, ``computed``. Empty if all is well.
    """
    document, stored = folder.spec(), folder.read_json("summary.json")
    run, outcome, usage = replay(folder)
    summary, scores = _summary(folder, run, outcome, usage)
    decided = settings(RunSpec.make(document["spec"]))
    identity = {key: document["identity"].get(key) for key in decided}
    rows = [
        _row("spec.json", "hash", document["hash"], identity_hash(document["identity"])),
        _row("spec.json", "identity of the specification", identity, decided),
        _row("run.trec", "content", _text(folder.path / "run.trec"), _written(run)),
        *(_row(name, "content", sha, folder.file_hash(name)) for name, sha in document.get("files", {}).items()),
        *(_row("summary.json", key, _comparable(stored.get(key)), _comparable(summary[key])) for key in summary),
    ]
    if scores is not None:
        kept = folder.read_json("scores.json")
        rows += [_row("scores.json", key, kept.get(key), scores[key]) for key in scores]
    return [row for row in rows if row["stored"] != row["computed"]]


def _summary(
    folder: RunFolder, run: Run, outcome: Outcome, usage: Usage, measures: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What summary.json and scores.json should say, less what depends on who asked when."""
    spec = RunSpec.make(folder.spec()["spec"])
    first_stage = folder.read_candidates()
    qrels = folder.read_qrels()
    relevant = folder.read_json("scores.json", "relevant")["relevant"] if qrels else 1
    scores = score(qrels, run, first_stage, measures=measures or spec.measures, relevant=relevant)
    summary = summarise(spec, outcome, usage, queries=len(first_stage), scores=scores)
    del summary["reused_calls"], summary["cost"]  # depend on the process that asked and on today's prices
    return summary, scores


def _row(file: str, what: str, stored: Any, computed: Any) -> dict[str, Any]:
    return {"file": file, "what": what, "stored": stored, "computed": computed}


def _comparable(value: Any) -> Any:
    """Seconds are added up in another order here, and why a reply never came is not recorded."""
    if isinstance(value, list):
        return [{**failure, "detail": ""} if failure.get("status") == "error" else failure for failure in value]
    return round(value, 6) if isinstance(value, float) else value


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _written(run: Run) -> str:
    text = io.StringIO()
    write_run(run, text)
    return text.getvalue()
