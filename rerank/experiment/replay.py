"""Recorded runs without a model: replay from their replies, comparison with their folders, and their prompts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rerank.assemble import plan_ranker
from rerank.backends.replay import Replay
from rerank.errors import DataError
from rerank.experiment.candidates import order_list
from rerank.experiment.execute import NAMED_FAILURES, RunTally, judge_scores_of_list, run_tag, score_runs, summarise_run
from rerank.experiment.prepare import prepare_run, ranker_settings, run_identity_settings
from rerank.experiment.spec import Execution, RunSpec
from rerank.indexing.documents import damaged_corpus_indexes
from rerank.io.run_files import open_trec_run_file, read_run
from rerank.judges import Judge, Verdict
from rerank.judges.base import OversizedWindow, ScoreKind
from rerank.pipeline.passages import PassageAggregation, make_passage, split_documents
from rerank.pipeline.results import RankedList, RerankOutcome
from rerank.pipeline.stream import Flow, drive_ranking_stream
from rerank.prompts.base import Prompt
from rerank.store import Call, CallLog, RunFolder, hash_identity
from rerank.store.call_log import RowSet
from rerank.store.run_folder import CHECKED, open_judge_scores
from rerank.tasks import Backend, Reply, Request
from rerank.tasks.backends import BaseBackend, traits
from rerank.tasks.requests import Usage
from rerank.types import Ranking, Run, Window

#: Numbers of candidate lists and of requests that are replayed together; they do not affect the result.
_FLOW = Flow(block=256, in_flight=256, batch_size=256, reuse=False)


def replay_run_folder(folder: RunFolder) -> tuple[Run, RerankOutcome, Usage]:
    """Rerank the candidates of a run folder with its recorded replies; return the run, its lists and their cost."""
    with _replay_lists(folder) as (lists, usage):
        outcome = RerankOutcome(tuple(lists))
    return Run(outcome.rankings, name=run_tag(RunSpec.from_record(folder.spec()["spec"]))), outcome, usage


@contextmanager
def _replay_lists(
    folder: RunFolder, damaged_prompts: list[int] | None = None, undefined_scores: list[int] | None = None
) -> Iterator[tuple[Iterator[RankedList], Usage]]:
    """Yield the reranked lists, one at a time, and the cost of the replies used so far.

    If ``damaged_prompts`` is a list, prompts are read, and the row numbers of calls with damaged ones are added to it.
    Those of calls with a score that is not a number are added to ``undefined_scores``.
    """
    spec = RunSpec.from_record(folder.spec()["spec"])
    plan = plan_ranker(ranker_settings(spec))
    letters = tuple(folder.spec()["identity"].get("letters", "").split())
    with folder.calls(readonly=True) as log:

        def calls_of_query(query_id: str) -> list[Call]:
            calls = log.calls_of_query(query_id)
            if damaged_prompts is not None:
                damaged_prompts.extend(log.damaged_prompts(calls))
            if undefined_scores is not None:
                undefined_scores.extend(call.row for call in calls if any(map(math.isnan, call.reply.scores)))
            return calls

        backend = Replay.by_query(calls_of_query, letters=letters)
        judge = _RecordedJudge(plan.open_recorded_judge(backend), folder.read_splits())
        ranker = plan.ranker(judge)
        if plan.passages is not None:
            ranker = replace(ranker, passages=_RecordedSplitter(plan.passages, folder.read_passages()))
        candidates = (order_list(ranking, spec) for ranking in folder.candidate_lists())
        yield drive_ranking_stream(candidates, ranker, backend, _FLOW), backend.usage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replayed:
    """Result of a replay: the file with the reranked run, counts over the lists, and the cost of the replies."""

    path: Path
    judge_scores: Path
    tally: RunTally
    usage: Usage

    @property
    def run(self) -> Run:
        return read_run(self.path) if self.path.stat().st_size else Run(())


@contextmanager
def _replay_into_file(folder: RunFolder, *problems: list[int]) -> Iterator[_Replayed]:
    """Replay a run folder list by list; the file with the reranked run is removed after the block."""
    name, tally = run_tag(RunSpec.from_record(folder.spec()["spec"])), RunTally()
    with TemporaryDirectory() as temporary:
        path, scores = Path(temporary) / "run.trec", Path(temporary) / "judge_scores.jsonl"
        with (
            _replay_lists(folder, *problems) as (lists, usage),
            open_trec_run_file(path, name) as write,
            open_judge_scores(scores) as write_scores,
        ):
            for ranked in lists:
                write(ranked.ranking)
                write_scores(judge_scores_of_list(ranked))
                tally.add(ranked)
        yield _Replayed(path=path, judge_scores=scores, tally=tally, usage=usage)


@dataclass(frozen=True)
class _RecordedSplitter:
    """A splitter that reproduces the recorded number of passages per document, since texts are not recorded."""

    passages: PassageAggregation
    counts: Mapping[str, Mapping[str, int]]  # number of passages in the run, by query id and document id

    def expand(self, ranking: Ranking) -> Ranking:
        counts = self.counts.get(ranking.query.id, {})
        return split_documents(
            ranking, lambda doc: [make_passage(doc, n, "") for n in range(1, counts.get(doc.id, 1) + 1)]
        )

    def collect(self, documents: Ranking, passages: Ranking) -> Ranking:
        return self.passages.collect(documents, passages)

    def collect_scores(self, passages: Ranking, scores: Mapping[str, float]) -> dict[str, float]:
        return self.passages.collect_scores(passages, scores)


@dataclass(frozen=True)
class _RecordedJudge:
    """A judge for replays, which takes from the record, not from prompts, which windows exceeded the context."""

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


def replay_and_rescore_run(folder: RunFolder, measures: tuple[str, ...] = ()) -> dict[str, Any]:
    """Replay a run folder, score the result, and return the content of summary.json; nothing is written.

    In an unfinished run, windows without a reply count as errors. Without ``measures``, those of the run are used.
    """
    with _replay_into_file(folder) as replayed:
        return {"folder": str(folder.path), **_recompute_summary(folder, replayed, measures)[0]}


def verify_run_folder(folder: RunFolder) -> list[dict[str, Any]]:
    """Recompute every number of a finished run folder, and return one row per difference; empty if nothing differs.

    Prompts are checked, too, if they are in the call log, and indexes of the collection if they are in the cache.
    """
    document, stored = folder.spec(), folder.read_json("summary.json", "calls")
    damaged_prompts, undefined_scores = list[int](), list[int]()
    with _replay_into_file(folder, damaged_prompts, undefined_scores) as replayed:
        summary, scores = _recompute_summary(folder, replayed)
        stored_run, computed_run = _first_differing_lines(folder.path / "run.trec", replayed.path)
        scores_path, stored_judge, computed_judge = folder.path / "judge_scores.jsonl", "", ""
        if scores_path.is_file():  # older versions wrote none; in later folders, spec.json has its hash
            stored_judge, computed_judge = _first_differing_lines(scores_path, replayed.judge_scores)
    spec = RunSpec.from_record(document["spec"])
    computed = run_identity_settings(spec, plan_ranker(ranker_settings(spec)))
    stored_identity = {key: document["identity"].get(key) for key in computed}
    rows: list[tuple[str, str, Any, Any]] = [
        ("spec.json", "hash", document["hash"], hash_identity(document["identity"])),
        ("spec.json", "identity of the specification", stored_identity, computed),
        ("run.trec", "content", stored_run, computed_run),
        ("judge_scores.jsonl", "content", stored_judge, computed_judge),
    ]
    rows += [(name, "content", sha, folder.file_hash(name)) for name, sha in document.get("files", {}).items()]
    for key in summary:
        if key in stored:  # folders of older versions lack later keys
            rows.append(("summary.json", key, _reproducible(stored[key]), _reproducible(summary[key])))
    for index, damage in damaged_corpus_indexes(str(document.get("dataset", {}).get("fingerprint", ""))):
        rows.append((str(index), "index", "the hashes of its files", damage))
    if damaged_prompts:
        damage = f"{len(damaged_prompts)} are damaged, the first in row {min(damaged_prompts)}"
        rows.append(("calls.sqlite", "prompts", "prompts that can be read", damage))
    if undefined_scores:
        found = f"{len(undefined_scores)} calls have others, the first in row {min(undefined_scores)}"
        rows.append(("calls.sqlite", "scores", "scores that are numbers", found))
    if scores is not None:
        stored_scores = folder.read_json("scores.json")
        rows += [("scores.json", key, stored_scores.get(key), scores[key]) for key in scores]
    with folder.calls(readonly=True) as log:
        if not log.is_consistent():
            rows.append(("calls.sqlite", "content", "tables that fit together", "a damaged file"))
    rows = [row for row in rows if row[2] != row[3]]
    for name in CHECKED:
        if folder.is_changed(name) and all(row[0] != name for row in rows):
            rows.append((name, "checksum", "that of its content", "another one"))
    names = ("file", "what", "stored", "computed")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _recompute_summary(
    folder: RunFolder, replayed: _Replayed, measures: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    spec = RunSpec.from_record(folder.spec()["spec"])
    qrels = folder.read_qrels()
    scores = None
    if qrels:
        relevant = folder.lowest_relevant_grade()
        runs = replayed.run, folder.read_run("first_stage.trec")
        scores = score_runs(qrels, *runs, measures=measures or spec.measures, relevant=relevant)
    queries = sum(1 for _ in folder.candidate_lists())
    summary = summarise_run(spec, replayed.tally, replayed.usage, queries=queries, scores=scores)
    # These fields depend on interruptions, current prices, the model's caches, and texts, which are not recorded.
    for key in ("reused_calls", "cost", "prices", "tokens_cached", "cached_share", "cut"):
        del summary[key]
    return summary, scores


def _reproducible(value: Any) -> Any:
    """Return a value without the parts that a replay cannot reproduce.

    A replay adds up durations in another order, so numbers are rounded. Reasons for missing replies are not recorded.
    The content of a full list of failures depends on the order of judging, so only their number is returned.
    """
    if isinstance(value, list):
        failures = [
            {**row, "detail": ""} if row.get("status") == "error" else row for row in value if isinstance(row, dict)
        ]
        if len(failures) == NAMED_FAILURES:
            return len(failures)
        return sorted(failures, key=lambda row: sorted(map(str, row.items())))
    return round(value, 6) if isinstance(value, float) else value


def _first_differing_lines(stored: Path, computed: Path) -> tuple[str, str]:
    """Return the first lines that differ in two files, or two empty strings; a missing file counts as empty."""
    with ExitStack() as stack:
        a, b = (
            stack.enter_context(path.open(encoding="utf-8", errors="replace", newline="\n")) if path.is_file() else ()
            for path in (stored, computed)
        )
        return next(((one, other) for one, other in zip_longest(a, b, fillvalue="") if one != other), ("", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPrompt:
    """The prompt of one call of a run."""

    digest: str
    query_id: str
    doc_ids: tuple[str, ...]  # ids of the documents, in the order of the prompt
    prompt: Prompt

    def to_json(self) -> dict[str, Any]:
        turns = [{"role": turn.role, "content": turn.content} for turn in self.prompt]
        return {"digest": self.digest, "query": self.query_id, "docs": list(self.doc_ids), "prompt": turns}


def read_run_prompts(folder: RunFolder) -> Iterator[RunPrompt]:
    """Yield the prompt of every call that a run used, one at a time.

    If the log lacks a prompt, all prompts are rendered again from the collection, the prompt template and the model's
    tokenizer. The digests of these requests must then match those in the log.
    """
    with folder.calls(readonly=True) as log:
        if log.has_all_prompts():
            for call in log.calls():
                prompt = log.prompt(call.row) or ()
                yield RunPrompt(digest=call.digest, query_id=call.query_id, doc_ids=call.doc_ids, prompt=prompt)
            return
        document = folder.spec()
        prepared = prepare_run(RunSpec.from_record(document["spec"]), Execution())
        backend = _LoggedReplies(log, document["identity"]["model"], prepared.backend, is_complete=folder.finished)
        lists = (order_list(ranking, prepared.spec) for ranking in prepared.lists)
        for _ in drive_ranking_stream(lists, prepared.setup.ranker(prepared.judge), backend, Flow.of(backend)):
            yield from backend.rendered
            backend.rendered.clear()


class _LoggedReplies(BaseBackend):
    """A backend that returns replies only from a call log, and collects the prompt of each call once."""

    batch_size = 16
    costs_money = False
    sees_pictures = True

    def __init__(self, log: CallLog, identity: Mapping[str, str], backend: Backend, *, is_complete: bool) -> None:
        self.identity, self.tokens, self.tasks = identity, backend.tokens, traits(backend).tasks
        self.rendered: list[RunPrompt] = []
        self._log, self._is_complete, self._seen = log, is_complete, RowSet()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        digests = [request.digest(self.identity) for request in requests]
        rows = self._log.rows(digests)
        for digest, request in zip(digests, requests, strict=True):
            ids = tuple(doc.id for doc in request.window.docs)
            if digest not in rows and self._is_complete:
                raise DataError(
                    f"The prompt for {len(ids)} documents of query {request.window.query.id!r} was rendered again; "
                    f"{str(self._log.path)!r} contains no reply to the resulting request with the digest {digest}",
                    expected="the digest of a call of this run: the same collection, prompt, tokenizer and version",
                    remedy="Restore the files with which the run was made; replaying the run does not need prompts",
                )
            if digest in rows and self._seen.add(rows[digest][0]):
                query_id = request.window.query.id
                self.rendered.append(RunPrompt(digest=digest, query_id=query_id, doc_ids=ids, prompt=request.prompt))
        missing = Reply(finish="error", error="The call log has no reply to this request")
        return [rows[digest][1] if digest in rows else missing for digest in digests]
