"""Our rerankers and first stages as models of mteb, asked by mteb itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.errors import PartialFailureError, UsageError
from rerank.store import RunFolder
from rerank.tasks import Reply, Request
from rerank.types import Qrels

mteb = pytest.importorskip("mteb")

from mteb.models import CrossEncoderProtocol, EncoderProtocol, SearchProtocol  # noqa: E402

from rerank.mmteb import MtebFirstStage, MtebReranker  # noqa: E402
from tests.mmteb import tasks  # noqa: E402
from tests.raising import raises  # noqa: E402

METADATA = tasks.LocalReranking.metadata


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def perfect() -> Fake:
    return Fake("perfect", qrels=Qrels(tasks.RELEVANT))


def made(out: Path, backend: Fake, **more: Any) -> MtebReranker:
    return MtebReranker.create(out=out, model=f"fake:{backend.kind}", backend=backend, **more)


def asked(model: Any, data: dict[str, Any], metadata: Any = METADATA, **more: Any) -> dict[str, dict[str, float]]:
    part = {"task_metadata": metadata, "hf_split": "test", "hf_subset": "default", "num_proc": None}
    model.index(data["corpus"], encode_kwargs={}, **part)
    given = {"top_ranked": data["top_ranked"], "top_k": 1000, "encode_kwargs": {}}
    found: dict[str, dict[str, float]] = model.search(data["queries"], **{**given, **part, **more})
    return found


def test_mteb_takes_them_for_models_that_search_and_nothing_else(tmp_path: Path) -> None:
    for model in (made(tmp_path, perfect()), MtebFirstStage()):
        assert isinstance(model, SearchProtocol)
        assert not isinstance(model, EncoderProtocol | CrossEncoderProtocol)
        assert isinstance(model.mteb_model_meta, mteb.models.ModelMeta)


def test_the_judge_sees_the_whole_list_and_all_of_it_comes_back(tmp_path: Path) -> None:
    seen: list[Request] = []

    class Watched(Fake):
        def generate(self, requests: Sequence[Request]) -> list[Reply]:
            seen.extend(requests)
            return super().generate(requests)

    model = made(tmp_path, Watched("perfect", qrels=Qrels(tasks.RELEVANT)))
    found = asked(model, tasks.part(lists=tasks.LISTS), top_k=2)
    assert {query: set(docs) for query, docs in found.items()} == {q: set(docs) for q, docs in tasks.LISTS.items()}
    assert [len(request.window) for request in seen] == [4, 4, 4]
    for docs in found.values():
        scores = list(docs.values())
        assert all(above > below for above, below in zip(scores, scores[1:], strict=False))
    assert list(found["q2"])[:2] == ["d5", "d2"]
    assert found["q2"]["d5"] == 1.0


def test_lists_of_reranking_tasks_are_shuffled_and_those_of_a_first_stage_are_not(tmp_path: Path) -> None:
    """A reply that says nothing leaves the list as given, and many tasks give the relevant documents first."""
    many = {f"x{n}": f"text {n}" for n in range(12)}
    data = tasks.part(many, {"q1": "which"}, {"q1": {"x0": 1}}, {"q1": list(many)})
    silent = made(tmp_path / "a", Fake("reversed"))
    found = list(asked(silent, data)["q1"])
    assert found not in (list(many), list(many)[::-1])
    assert list(asked(made(tmp_path / "b", Fake("reversed")), data)["q1"]) == found
    assert list(asked(made(tmp_path / "c", Fake("reversed"), seed=1), data)["q1"]) != found
    assert list(asked(made(tmp_path / "d", Fake("reversed"), shuffle="inverse"), data)["q1"]) == list(many)
    listed = asked(made(tmp_path / "e", Fake("reversed")), data, tasks.LocalRetrieval.metadata)
    assert list(listed["q1"]) == list(many)[::-1]


def test_documents_twice_in_a_list_queries_without_one_and_odd_ids(tmp_path: Path) -> None:
    data = tasks.part(
        {"a b": "glacier ice", "50%": "bread"},
        {"my query": "ice", "none": "what", "empty": "what"},
        {"my query": {"a b": 1}, "none": {"50%": 1}, "empty": {"50%": 1}},
        {"my query": ["50%", "a b", "50%"], "empty": []},
    )
    found = asked(made(tmp_path, Fake("reversed")), data)
    assert {query: set(docs) for query, docs in found.items()} == {
        "my query": {"a b", "50%"},
        "none": set(),
        "empty": set(),
    }


def test_mteb_scores_queries_that_have_no_candidate(tmp_path: Path) -> None:
    task = tasks.filled(tasks.LocalReranking(), default=tasks.part(lists={"q1": ["d3"], "q2": []}))
    found = mteb.evaluate(made(tmp_path, perfect()), task, cache=None, co2_tracker=False)
    assert found.task_results[0].scores["test"][0]["map_at_1000"] == pytest.approx(1 / 3, abs=1e-5)


def test_lists_are_needed(tmp_path: Path) -> None:
    with raises(UsageError, "LocalReranking", "convert_to_reranking"):
        asked(made(tmp_path, perfect()), tasks.part())


def test_calls_without_a_reply_give_no_score_and_are_asked_again(tmp_path: Path) -> None:
    failing = Fake("fail", rate=0.5, seed=3, qrels=Qrels(tasks.RELEVANT))
    model = made(tmp_path, failing)
    cache = mteb.ResultCache(tmp_path)
    task = tasks.filled(tasks.LocalReranking())
    with raises(PartialFailureError, "runs"):
        mteb.evaluate(model, task, cache=cache, co2_tracker=False)
    assert cache.load_task_result("LocalReranking", model.mteb_model_meta) is None
    (report,) = model.reports
    assert 0 < report["windows"]["error"] < 3
    assert report["windows"]["ok"] + report["windows"]["error"] == 3
    assert (report["task"], report["split"], report["failures"][0]["status"]) == ("LocalReranking", "test", "error")
    with RunFolder(report["folder"]).calls(readonly=True) as log:
        kept = len(log)
    assert kept == report["windows"]["ok"]
    assert model.folder("LocalReranking", "default", "test") == Path(report["folder"])


def test_malformed_replies_are_counted_and_scored(tmp_path: Path) -> None:
    class Vague(Fake):
        def generate(self, requests: Sequence[Request]) -> list[Reply]:
            return [Reply(text="They are all good.", finish="stop") for _ in requests]

    model = made(tmp_path, Vague("reversed"))
    found = asked(model, tasks.part(lists=tasks.LISTS))
    assert {query: set(docs) for query, docs in found.items()} == {q: set(docs) for q, docs in tasks.LISTS.items()}
    (report,) = model.reports
    assert (report["failure_rate"], report["complete"]) == (1.0, True)
    assert sum(report["windows"].values()) == 3
    assert report["windows"]["ok"] == report["windows"]["error"] == 0
    assert [failure["query"] for failure in report["failures"]] == ["q1", "q2", "q3"]


def test_what_was_asked_is_not_asked_again(tmp_path: Path) -> None:
    backend = perfect()
    first = asked(made(tmp_path, backend), tasks.part(lists=tasks.LISTS))
    again = made(tmp_path, backend)
    assert asked(again, tasks.part(lists=tasks.LISTS)) == first
    assert len(backend.served) == 3
    assert again.reports[0]["reused_calls"] == 3


def test_names_and_revisions_tell_systems_apart(tmp_path: Path) -> None:
    def revision(**more: Any) -> str:
        meta = made(tmp_path, Fake("reversed"), **more).mteb_model_meta
        assert meta.model_name_as_path().startswith("listrank__")
        return str(meta.revision)

    plain = revision()
    assert plain == revision()
    others = [
        revision(method="sliding"),
        revision(first_stage={"model": "bm25", "depth": 100}),
        revision(first_stage={"model": "bm25", "depth": 50}),
        revision(max_passage_tokens=64),
        revision(shuffle="inverse"),
        revision(seed=1),
    ]
    assert len({plain, *others}) == 7
    assert made(tmp_path, Fake("reversed"), method="sliding,size=10").mteb_model_meta.name == (
        "listrank/sliding-size-10-fake-reversed"
    )


def test_a_first_stage(tmp_path: Path) -> None:
    data = {**tasks.part(queries={"q1": "glaciers melt", "q9": "zebra"}), "top_ranked": None}
    found = asked(MtebFirstStage("bm25"), data, tasks.LocalRetrieval.metadata, top_k=1)
    assert list(found["q1"]) == ["d3"]
    assert found["q9"] == {}
    with raises(UsageError, "'bm25'", "MtebReranker"):
        asked(MtebFirstStage("bm25"), tasks.part(lists=tasks.LISTS))
    with raises(UsageError, "index()"):
        MtebFirstStage().search(data["queries"], task_metadata=METADATA, hf_split="t", hf_subset="d", top_k=1)
    revisions = {MtebFirstStage(text).mteb_model_meta.revision for text in ("bm25", "bm25,k1=1.2", "bm25,b=0.7")}
    assert len(revisions) == 3


@pytest.fixture
def itself() -> Any:
    """A task in which documents and queries share ids."""
    texts = {"q1": "glaciers melt", "d1": "glaciers melt in summer", "d2": "bread"}
    data = tasks.part(texts, {"q1": "glaciers melt"}, {"q1": {"d1": 1}})
    return tasks.filled(tasks.LocalSelf(), default=data)


def test_a_query_that_is_a_document_is_no_candidate_for_itself(itself: Any, tmp_path: Path) -> None:
    stage = MtebFirstStage("bm25")
    data = itself.dataset["default"]["test"]
    assert "q1" in asked(stage, data, itself.metadata)["q1"]
    stage.drop_self = True
    assert list(asked(stage, data, itself.metadata)["q1"]) == ["d1"]


def test_lists_of_a_retrieval_task_restrict_the_first_stage() -> None:
    """Such as BRIGHT's: all documents except those that are excluded for the query."""
    lists = {query: [doc for doc in tasks.DOCS if (query, doc) != ("q1", "d3")] for query in tasks.QUERIES}
    metadata = tasks.LocalRetrieval.metadata
    free = asked(MtebFirstStage("bm25"), tasks.part(), metadata, top_k=3)
    restricted = asked(MtebFirstStage("bm25"), tasks.part(lists=lists), metadata, top_k=3)
    assert "d3" in free["q1"]
    assert list(restricted["q1"]) == [doc for doc in free["q1"] if doc != "d3"]
    assert restricted["q2"] == free["q2"]
