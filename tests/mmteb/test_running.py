"""Two stages over real tasks of mteb with local data, and mteb's own reading of the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.fake import Fake
from rerank.errors import DataError, MissingResourceError, PartialFailureError, UsageError
from rerank.evaluation import evaluate as measure
from rerank.experiment.replay import replay
from rerank.store import RunFolder
from rerank.types import Qrels

mteb = pytest.importorskip("mteb")

from rerank.mmteb import MtebFirstStage, MtebReranker, evaluate, lists_from  # noqa: E402
from tests.mmteb import tasks  # noqa: E402

BM25 = MtebFirstStage("bm25")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(out: Path, backend: Fake, first_stage: Any = None, depth: int = 100, **more: Any) -> MtebReranker:
    lists = lists_from(first_stage, depth)
    return MtebReranker.of(out=out, model=f"fake:{backend.kind}", backend=backend, first_stage=lists, **more)


def perfect() -> Fake:
    return Fake("perfect", qrels=Qrels(tasks.RELEVANT))


def test_our_first_stage_then_a_reranker(tmp_path: Path) -> None:
    task = tasks.filled(tasks.LocalRetrieval())
    model = made(tmp_path, Fake("reversed"), BM25)
    found = evaluate(task, model, out=tmp_path, first_stage=BM25)
    (row,) = found.rows
    assert (found.task, found.main_score, row["split"], row["subset"]) == (
        "LocalRetrieval",
        "ndcg_at_10",
        "test",
        "default",
    )
    assert row["windows"]["ok"] == 3
    # our measures, over the lists that our run folder holds, say the same as mteb's
    folder = RunFolder(row["folder"])
    for name, score in (("run.trec", row["score"]), ("first_stage.trec", row["first_stage_score"])):
        ours = measure(Qrels(tasks.RELEVANT), folder.read_run(name), ["nDCG@10"]).summary()["nDCG@10"]
        assert score == pytest.approx(ours, abs=1e-5)
    assert row["score"] < row["first_stage_score"]
    assert task.dataset["default"]["test"]["top_ranked"] is None  # the caller's task is as it was


def test_mteb_reads_the_results_and_its_folders_are_its_own(tmp_path: Path) -> None:
    model = made(tmp_path, perfect(), BM25, 2)
    found = evaluate(tasks.filled(tasks.LocalRetrieval()), model, out=tmp_path, first_stage=BM25, depth=2)
    evaluate(tasks.filled(tasks.LocalReranking()), model, out=tmp_path)
    meta = model.mteb_model_meta
    place = tmp_path / "results" / "listrank__fullrank-fake-perfect" / meta.revision
    assert found.path == place / "LocalRetrieval.json"
    names = {"LocalRetrieval.json", "LocalReranking.json", "model_meta.json", "run_settings.jsonl"}
    assert {path.name for path in place.iterdir()} == names
    assert {path.parent.parent.name for path in (tmp_path / "results").rglob("*.json")} == {
        "listrank__fullrank-fake-perfect",
        "listrank__bm25",
    }
    result = mteb.results.TaskResult.from_disk(found.path)
    assert result.get_score() == found.rows[0]["score"]
    assert (result.task_name, result.dataset_revision) == ("LocalRetrieval", "1")
    (row,) = result.scores["test"]
    assert row["languages"] == ["eng-Latn"]
    first = BM25.mteb_model_meta
    assert row["previous_results_model_meta"] == {"model_name": "listrank/bm25", "revision": first.revision}
    loaded = mteb.ResultCache(tmp_path).load_results(validate_and_filter=False)
    assert {(one.model_name, one.model_revision): sorted(one.task_names) for one in loaded.model_results} == {
        (meta.name, meta.revision): ["LocalReranking", "LocalRetrieval"],
        ("listrank/bm25", first.revision): ["LocalRetrieval"],
    }
    written = json.loads((place / "model_meta.json").read_text())
    assert (written["name"], written["revision"], written["is_cross_encoder"]) == (meta.name, meta.revision, True)


def test_predictions_that_mteb_saved_of_an_encoder(tmp_path: Path) -> None:
    """mteb's random encoder, its two-stage protocol by hand, and ours over the same file."""
    task = tasks.filled(tasks.LocalRetrieval())
    encoder = mteb.get_model("mteb/baseline-random-encoder")
    mteb.evaluate(encoder, task, cache=None, prediction_folder=tmp_path / "saved", co2_tracker=False)
    saved = json.loads((tmp_path / "saved" / "LocalRetrieval_predictions.json").read_text())
    lists = {q: sorted(docs, key=lambda d: -docs[d])[:4] for q, docs in saved["default"]["test"].items()}

    by_hand = tasks.filled(tasks.LocalRetrieval()).convert_to_reranking(tmp_path / "saved", top_k=4)
    model = made(tmp_path, Fake("reversed"), tmp_path / "saved", 4)
    theirs = mteb.evaluate(model, by_hand, cache=None, co2_tracker=False).task_results[0].scores["test"][0]
    folder = RunFolder(model.folder("LocalRetrieval", "default", "test"))
    assert {q: list(r.doc_ids) for q, r in folder.read_candidates().items()} == lists
    assert {q: list(r.doc_ids) for q, r in folder.read_run("run.trec").items()} == {
        q: docs[::-1] for q, docs in lists.items()
    }
    found = evaluate(task, model, out=tmp_path, first_stage=tmp_path / "saved", depth=4)
    assert found.rows[0]["score"] == theirs["main_score"]
    assert found.rows[0]["first_stage_score"] is None
    assert found.rows[0]["reused_calls"] == 3
    assert model.first_stage == {**saved["mteb_model_meta"], "depth": 4}


def test_run_folders_are_replayed_and_verified(tmp_path: Path) -> None:
    found = evaluate(
        tasks.filled(tasks.LocalReranking()), made(tmp_path, Fake("stutter", qrels=Qrels(tasks.RELEVANT))), out=tmp_path
    )
    folder = RunFolder.existing(found.rows[0]["folder"])
    run, _, _ = replay(folder)
    assert {q: r.doc_ids for q, r in run.items()} == {q: r.doc_ids for q, r in folder.read_run("run.trec").items()}


def test_every_subset_is_a_run_of_its_own_with_its_own_texts(tmp_path: Path) -> None:
    chinese = tasks.part({"d1": "冰川融化", "d2": "面包"}, {"q1": "冰川"}, {"q1": {"d1": 1}})
    other = tasks.part({"d1": "other"}, {"q1": "other"}, {"q1": {"d1": 1}})
    task = tasks.filled(tasks.LocalSubsets(), en=tasks.part(), zh=chinese, en_ar=other)
    model = made(tmp_path, Fake("reversed"), MtebFirstStage("bm25,segmenter=pairs"))
    stage = MtebFirstStage("bm25,segmenter=pairs")
    found = evaluate(task, model, out=tmp_path, first_stage=stage)
    assert [row["subset"] for row in found.rows] == ["en", "zh", "en-ar"]
    assert found.rows[1]["score"] == 1.0
    assert [Path(row["folder"]).name for row in found.rows] == ["en.test", "zh.test", "en-ar.test"]


def test_what_is_scored_is_read_and_what_is_missing_is_measured(tmp_path: Path) -> None:
    backend = perfect()
    model = made(tmp_path, backend, BM25)
    task = tasks.filled(tasks.LocalRetrieval())
    first = evaluate(task, model, out=tmp_path, first_stage=BM25)
    model = made(tmp_path, backend, BM25)
    again = evaluate(task, model, out=tmp_path, first_stage=BM25)
    assert [row["score"] for row in again.rows] == [row["score"] for row in first.rows]
    assert model.reports == []  # mteb's file was enough, and no data were loaded
    assert again.rows[0]["first_stage_score"] == first.rows[0]["first_stage_score"]
    assert evaluate(tasks.LocalRetrieval(), model, out=tmp_path, first_stage=BM25).rows == again.rows
    first.path.unlink()
    again = evaluate(task, model, out=tmp_path, first_stage=BM25)
    assert again.rows[0]["reused_calls"] == 3
    assert len(backend.served) == 3


def test_halves_that_a_kill_left_are_made_again(tmp_path: Path) -> None:
    model = made(tmp_path, perfect(), BM25)
    task = tasks.filled(tasks.LocalRetrieval())
    first = evaluate(task, model, out=tmp_path, first_stage=BM25)
    (predictions,) = (tmp_path / "predictions").rglob("*.json")
    for path in (first.path, predictions):
        path.write_text(path.read_text()[:100])
    assert evaluate(task, model, out=tmp_path, first_stage=BM25).rows[0]["score"] == first.rows[0]["score"]
    assert json.loads(predictions.read_text())["default"]["test"]["q1"]
    predictions.unlink()  # its score is there, its lists are gone
    first.path.unlink()
    assert evaluate(task, model, out=tmp_path, first_stage=BM25).rows[0]["score"] == first.rows[0]["score"]


def test_other_lists_are_another_revision_and_never_mixed(tmp_path: Path) -> None:
    model = made(tmp_path, perfect(), BM25, 2)
    task = tasks.filled(tasks.LocalRetrieval())
    with pytest.raises(UsageError, match="made for lists of.*'depth': 2.*these are of.*'depth': 3"):
        evaluate(task, model, out=tmp_path, first_stage=BM25, depth=3)
    with pytest.raises(DataError, match="retrieval task: it brings no lists.*--first-stage bm25"):
        evaluate(task, model, out=tmp_path)


def test_predictions_that_do_not_fit(tmp_path: Path) -> None:
    task = tasks.filled(tasks.LocalRetrieval())
    saved = tmp_path / "saved"
    with pytest.raises(DataError, match="cannot be read as predictions"):
        lists_from(saved, 3)
    saved.mkdir()
    with pytest.raises(DataError, match="holds no predictions"):
        lists_from(saved, 3)
    (saved / "Other_predictions.json").write_text(json.dumps({"mteb_model_meta": {"model_name": "a"}}))
    with pytest.raises(MissingResourceError, match="predictions for LocalRetrieval"):
        evaluate(task, made(tmp_path, perfect(), saved, 3), out=tmp_path, first_stage=saved, depth=3)
    (saved / "LocalRetrieval_predictions.json").write_text(json.dumps({"mteb_model_meta": {"model_name": "a"}}))
    with pytest.raises(DataError, match="no predictions for default, test"):
        evaluate(task, made(tmp_path, perfect(), saved, 3), out=tmp_path, first_stage=saved, depth=3)
    (saved / "Third_predictions.json").write_text(json.dumps({"mteb_model_meta": {"model_name": "b"}}))
    with pytest.raises(DataError, match="those of 2 models"):
        lists_from(saved, 3)


def test_a_task_with_open_calls_has_no_score_and_is_gone_on_with(tmp_path: Path) -> None:
    task = tasks.filled(tasks.LocalReranking())
    backend = perfect()
    capped = MtebReranker.of(out=tmp_path, model="fake:perfect", backend=backend)
    capped._execution = capped._execution.model_copy(update={"max_total_tokens": 250})
    with pytest.raises(PartialFailureError, match="--max-total-tokens 250 would be passed"):
        evaluate(task, capped, out=tmp_path)
    assert not list((tmp_path / "results").rglob("LocalReranking.json"))
    assert 0 < capped.reports[0]["calls"] < 3
    free = MtebReranker.of(out=tmp_path, model="fake:perfect", backend=backend)
    found = evaluate(task, free, out=tmp_path)
    assert found.rows[0]["score"] == 1.0
    assert found.rows[0]["reused_calls"] == capped.reports[0]["calls"]
