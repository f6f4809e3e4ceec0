"""The teachers of this package: a reranking method, an embedding model, a first stage, a run file and judgments."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rerank import retrieval, types
from rerank.assemble import plan_ranker
from rerank.backends.replay import Replay
from rerank.collections import open_collection_qrels
from rerank.errors import DataError, UsageError, ensure
from rerank.experiment.candidates import digest_run
from rerank.experiment.prepare import ranker_settings
from rerank.experiment.replay import replay_run_folder
from rerank.experiment.spec import RunSpec
from rerank.finetune.labels.teachers.base import LabellingTask, TeacherRanking, rank_by_run, rank_by_scores
from rerank.io.run_files import read_run
from rerank.judges import FAILURES, judges
from rerank.judges.base import PointwiseJudge
from rerank.judges.pointwise import Relate
from rerank.methods import open_method
from rerank.retrieval.dense import Dense as DenseRetriever
from rerank.selector import build_from_selector, convert_selector_options
from rerank.store import RunFolder
from rerank.types import Document, Query, Ranking

#: Minimum retrieval depth of the teacher `search`; the report counts candidates that are not retrieved.
DEPTH = 1000
#: Keys of the run summary that the teacher `method` copies to the report.
_KEPT = (
    *("folder", "windows", "failure_rate", "failures", "complete"),
    *("calls", "reused_calls", "tokens_in", "tokens_out"),
)


@dataclass(frozen=True, slots=True)
class Method:
    """Teacher that ranks with the method and model of the run specification, in a run folder that can be resumed.

    A list with a blank query or a failed window, which keeps its first-stage order, has no label. Cross-encoders and
    pointwise methods also provide scores.
    """

    runs: ClassVar[bool] = True
    judged_only: ClassVar[bool] = False

    def scored(self, spec: RunSpec) -> bool:
        """Return True if a cross-encoder or pointwise judge scores the whole list without adding first-stage scores."""
        method = open_method(spec.method)
        judge = judges.get(method.judge.name)
        weight = convert_selector_options(method.judge.name, judge, method.judge.options).get("first_stage", 0.0)
        return method.strategy.name == "full" and issubclass(judge, Relate | PointwiseJudge) and not weight

    def label(self, task: LabellingTask) -> tuple[Mapping[str, TeacherRanking], Mapping[str, Any]]:
        if task.prepared is None:
            raise UsageError(
                "The teacher 'method' has no prepared run", expected="a labelling task from prepare_labelling"
            )
        summary = task.execute(task.prepared, task.execution)
        folder = RunFolder(summary["folder"])
        result, scores = folder.read_run("run.trec"), scores_of_run(folder)
        _, outcome, _ = replay_run_folder(folder)  # parses the recorded replies again: the folder keeps no verdicts
        failed, partial = (
            {window.query.id for window, verdict in outcome.judged if verdict.status in statuses}
            for statuses in (FAILURES, {"partial"})
        )
        rankings = {}
        for name, candidates in task.candidates.items():
            order = result[name].doc_ids if name in result else candidates.doc_ids
            reason = "" if candidates.query.text.strip() else "the query is blank"
            if name in failed:
                reason = "a window failed"
            rankings[name] = TeacherRanking(order=order, scores=scores.get(name, {}), failed=reason)
        return rankings, {key: summary[key] for key in _KEPT} | {"lists_with_partial_windows": len(partial)}


def scores_of_run(folder: RunFolder) -> dict[str, dict[str, float]]:
    """Return the scores of a completed run, as a mapping from query id to a mapping from document id to score.

    A query is included only if all of its documents have scores and the order of the scores agrees with the result.
    """
    spec = RunSpec.from_record(folder.spec()["spec"])
    if not Method().scored(spec):
        return {}
    with folder.calls(readonly=True) as log:
        calls = list(log.calls())
    judge = plan_ranker(ranker_settings(spec)).open_recorded_judge(Replay(calls))
    recorded: dict[str, dict[str, float]] = {}
    for call in calls:
        row = recorded.setdefault(call.query_id, {})
        if isinstance(judge, PointwiseJudge):
            if call.reply.scores:
                row[call.doc_ids[0]] = judge.score(call.reply.scores)
        else:
            row |= dict(zip(call.doc_ids, call.reply.scores, strict=False))
    complete = {}
    for query, ranking in folder.read_run("run.trec").items():
        scores = recorded.get(query, {})
        values = [scores.get(doc_id, math.nan) for doc_id in ranking.doc_ids]
        if query in recorded and all(map(math.isfinite, values)) and values == sorted(values, reverse=True):
            complete[query] = scores
    return complete


class _ScoredTeacher:
    """What most teachers share: they execute no run, need no judgments, and their rankings have scores."""

    __slots__ = ()
    runs: ClassVar[bool] = False
    judged_only: ClassVar[bool] = False

    def scored(self, spec: RunSpec) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Dense(_ScoredTeacher, DenseRetriever):
    """Teacher that ranks with an embedding model. Its options are those of the first stage `dense`.

    Only candidates are embedded, not the collection. Embeddings are stored batch by batch in the cache of
    `rerank.retrieval.dense`, so that an interrupted process can be continued.
    """

    def __post_init__(self) -> None:
        DenseRetriever.__post_init__(self)
        ensure(
            self.index == "flat",
            f"The teacher dense does not support index={self.index}",
            expected="no option index, because every candidate is scored",
        )

    def label(self, task: LabellingTask) -> tuple[Mapping[str, TeacherRanking], Mapping[str, Any]]:
        """Rank the candidates by cosine similarity, or by inner product if ``normalise`` is False."""
        from rerank.indexing import documents as document_files
        from rerank.indexing import encoding_batches
        from rerank.indexing.text_encoder import load_text_encoder
        from rerank.retrieval.base.model_folders import locate_retrieval_model

        encoder = load_text_encoder(locate_retrieval_model(self.model), self)
        by_id = {doc.id: doc for ranking in task.candidates.values() for doc in ranking.docs}
        texts = _Candidates(
            name=f"candidates of {task.collection.name}",
            language=task.collection.language,
            documents=tuple(by_id[doc_id] for doc_id in sorted(by_id)),
        )
        if not texts.documents:
            return {query: TeacherRanking(order=()) for query in task.candidates}, {}
        made_from = {
            "format": "1",
            "fingerprint": texts.fingerprint,
            "fields": self.fields,
            "encoder": json.dumps(dict(encoder.identity), sort_keys=True),
        }
        job = encoding_batches.EncodingJob(document_files.open_documents(texts), encoder, self.text_of, self.batch_size)
        matrix, _ = encoding_batches.open_embeddings(job, made_from)
        rows = {doc.id: row for row, doc in enumerate(texts.documents)}
        rankings = {}
        for query, ranking in task.candidates.items():
            if not ranking.query.text.strip():
                rankings[query] = TeacherRanking(order=ranking.doc_ids, failed="the query is blank")
                continue
            (vector,) = encoder.queries([ranking.query.text])
            scores = matrix[[rows[doc_id] for doc_id in ranking.doc_ids]] @ vector
            rankings[query] = rank_by_scores(ranking, dict(zip(ranking.doc_ids, map(float, scores), strict=True)))
        return rankings, {"embedded": len(texts.documents)}


@dataclass(frozen=True)
class _Candidates:
    """The candidates of all queries as a collection that contains each document once."""

    name: str
    language: str
    documents: tuple[Document, ...]

    @property
    def fingerprint(self) -> str:
        return digest_run(types.Run([Ranking.from_order(Query(id="candidates"), self.documents)]))

    def docs(self) -> Iterator[Document]:
        return iter(self.documents)


@dataclass(frozen=True, slots=True)
class Search(_ScoredTeacher):
    """Teacher that ranks candidates with a first stage, usually not the one that retrieved the candidates.

    The first stage retrieves at least `DEPTH` documents per query, or as many as the candidate lists are deep.
    """

    #: Selector such as ``bm25`` or, with options in a teacher's selector, ``search:(bm25,k1=1.2)``.
    selector: str

    def __post_init__(self) -> None:
        build_from_selector(retrieval.first_stages, self._plain)

    @property
    def _plain(self) -> str:
        return self.selector[1:-1] if self.selector[:1] + self.selector[-1:] == "()" else self.selector

    def label(self, task: LabellingTask) -> tuple[Mapping[str, TeacherRanking], Mapping[str, Any]]:
        queries = [ranking.query for ranking in task.candidates.values()]
        run = retrieval.open_first_stage(self._plain, task.collection).search(queries, max(DEPTH, task.spec.depth))
        return rank_by_run(task.candidates.values(), run), {}


@dataclass(frozen=True, slots=True)
class Run(_ScoredTeacher):
    """Teacher that ranks as in an existing run. Candidates that are missing in the run come last.

    The scores in the run of a listwise reranker are reciprocal ranks (1, 1/2 ...), not relevance estimates.
    """

    path: str  #: Run file, in any format that `rerank.io.run_files.read_run` supports.

    def label(self, task: LabellingTask) -> tuple[Mapping[str, TeacherRanking], Mapping[str, Any]]:
        return rank_by_run(task.candidates.values(), read_run(self.path)), {}


@dataclass(frozen=True, slots=True)
class Qrels(_ScoredTeacher):
    """Teacher that ranks by relevance judgments, the highest grade first; ties keep first-stage order.

    Unjudged documents count as grade 0; the report states their number. A list whose documents all have the same grade
    has no label, because its order would be the first-stage order.
    """

    judged_only: ClassVar[bool] = True

    #: A qrels file or the selector of a collection; if empty, the qrels of the run specification are used.
    file: str = ""

    def label(self, task: LabellingTask) -> tuple[Mapping[str, TeacherRanking], Mapping[str, Any]]:
        qrels = open_collection_qrels(self.file)[0] if self.file else task.qrels
        ensure(
            qrels,
            f"The collection {task.collection.name!r} has no judgments",
            expected="relevance judgments, which the teacher qrels needs",
            remedy="Name a file with --qrels, or use another --teacher",
            error=DataError,
        )
        rankings: dict[str, TeacherRanking] = {}
        unjudged = 0
        for query, ranking in task.candidates.items():
            judged = qrels.get(query, {})
            grades = {doc_id: float(judged.get(doc_id, 0)) for doc_id in ranking.doc_ids}
            unjudged += sum(doc_id not in judged for doc_id in ranking.doc_ids)
            if not judged:
                rankings[query] = TeacherRanking(order=ranking.doc_ids, failed="the query has no judgments")
            elif len(set(grades.values())) == 1 and len(grades) > 1:
                rankings[query] = TeacherRanking(order=ranking.doc_ids, failed="all candidates have the same grade")
            else:
                rankings[query] = rank_by_scores(ranking, grades)
        return rankings, {"unjudged": unjudged}
