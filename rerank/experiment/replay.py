"""A run made again from its recorded replies, without a model: parsed, driven, scored, and compared with its folder.

Knows run folders; the work is done by the same driver, judge and measures as the run itself.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rerank.backends.replay import Replay
from rerank.evaluation import evaluate
from rerank.experiment.execute import score
from rerank.experiment.prepare import settings, strategy_of
from rerank.formats import write_run
from rerank.judges import judges
from rerank.judges.generate import Limits
from rerank.methods import open_method
from rerank.pipeline import Outcome, drive
from rerank.prompts import load_prompt
from rerank.spec import RunSpec
from rerank.store import RunFolder, identity_hash
from rerank.types import Run


def replay(folder: RunFolder) -> tuple[Run, Outcome]:
    """Drive the folder's strategy over its candidates with its recorded replies."""
    spec = RunSpec.make(folder.spec()["spec"])
    method = open_method(spec.method)
    with folder.calls() as log:
        backend = Replay(log.calls())
    # Replies are found by window, so what the prompt would say does not matter, and texts are not needed.
    judge = judges.get(method.judge)(
        backend=backend, template=load_prompt("listwise"), limits=Limits(temperature=spec.temperature, seed=spec.seed)
    )
    outcome = drive(folder.read_candidates().values(), strategy_of(spec, method), judge)
    return Run(outcome.rankings, name=method.name.replace(":", "-")), outcome


def rescore(folder: RunFolder, measures: tuple[str, ...] = ()) -> dict[str, Any]:
    """Replay a folder and score the result; writes nothing.

    Args:
        folder: A run folder; an unfinished one counts its open windows as errors.
        measures: Other measures than the run's own.

    Returns:
        ``folder``, ``queries``, ``windows``, ``scores`` and ``first_stage_scores``.
    """
    run, outcome = replay(folder)
    spec = RunSpec.make(folder.spec()["spec"])
    qrels = folder.read_qrels()
    means: dict[str, dict[str, float]] = {"scores": {}, "first_stage_scores": {}}
    if qrels:
        relevant = folder.read_json("scores.json")["relevant"]
        for key, value in (("scores", run), ("first_stage_scores", folder.read_candidates())):
            means[key] = evaluate(qrels, value, measures or spec.measures, relevant=relevant).summary()
    return {"folder": str(folder.path), "queries": len(run), "windows": outcome.windows(), **means}


def verify(folder: RunFolder) -> list[dict[str, Any]]:
    """Compute every number of a finished folder again.

    Returns:
        One row for everything that differs: ``file``, ``what``, ``stored``, ``computed``. Empty if all is well.
    """
    document, summary = folder.spec(), folder.read_json("summary.json")
    run, outcome = replay(folder)
    rows = [_row("spec.json", "hash", document["hash"], identity_hash(document["identity"]))]
    decided = settings(RunSpec.make(document["spec"]))
    stored = {key: document["identity"].get(key) for key in decided}
    rows.append(_row("spec.json", "identity of the specification", stored, decided))
    rows.append(_row("run.trec", "content", _bytes(folder.path / "run.trec"), _written(run)))
    rows.append(_row("summary.json", "windows", summary["windows"], outcome.windows()))
    with folder.calls() as log:
        replies = [call.reply for call in log.calls()]
    totals = {
        "calls": len(replies),
        "tokens_in": sum(reply.tokens_in for reply in replies),
        "tokens_out": sum(reply.tokens_out for reply in replies),
    }
    rows += [_row("summary.json", key, summary[key], value) for key, value in totals.items()]
    rows.append(
        _row("summary.json", "seconds", round(summary["seconds"], 3), round(sum(r.seconds for r in replies), 3))
    )
    if qrels := folder.read_qrels():
        scores = folder.read_json("scores.json")
        candidates = folder.read_candidates()
        again = score(qrels, run, candidates, tuple(scores["measures"]), scores["relevant"])
        rows += [_row("scores.json", key, scores[key], again[key]) for key in ("run", "first_stage")]
        rows.append(_row("summary.json", "scores", summary["scores"], again["run"]["mean"]))
    return [row for row in rows if row["stored"] != row["computed"]]


def _row(file: str, what: str, stored: Any, computed: Any) -> dict[str, Any]:
    return {"file": file, "what": what, "stored": stored, "computed": computed}


def _bytes(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _written(run: Run) -> str:
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "run.trec"
        write_run(run, path)
        return path.read_text(encoding="utf-8")
