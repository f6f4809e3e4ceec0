"""Two stages over real tasks of mteb with local data, and mteb's own reading of the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from rerank.backends.fake import Fake
from rerank.errors import DataError, MissingResourceError, PartialFailureError, UnknownNameError, UsageError
from rerank.evaluation import evaluate_run as measure
from rerank.experiment.replay import replay_run_folder
from rerank.store import RunFolder
from rerank.types import Qrels

mteb = pytest.importorskip("mteb")

from rerank.mmteb import (  # noqa: E402
    MtebFirstStage,
    MtebReranker,
    describe_mteb_candidates,
    evaluate_mteb_task,
    parse_mteb_first_stage,
)
from tests.mmteb import tasks  # noqa: E402
from tests.raising import raises  # noqa: E402

BM25 = MtebFirstStage("bm25")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(out: Path, backend: Fake, first_stage: Any = None, depth: int = 100, **more: Any) -> MtebReranker:
    lists = describe_mteb_candidates(first_stage, depth)
    return MtebReranker.create(out=out, model=f"fake:{backend.kind}", backend=backend, first_stage=lists, **more)


def perfect() -> Fake:
    return Fake("perfect", qrels=Qrels(tasks.RELEVANT))


def test_our_first_stage_then_a_reranker(tmp_path: Path) -> None:
    task = tasks.filled(tasks.LocalRetrieval())
    model = made(tmp_path, Fake("reversed"), BM25)
    found = evaluate_mteb_task(task, model, out=tmp_path, first_stage=BM25)
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
    found = evaluate_mteb_task(tasks.filled(tasks.LocalRetrieval()), model, out=tmp_path, first_stage=BM25, depth=2)
    own = evaluate_mteb_task(tasks.filled(tasks.LocalReranking()), model, out=tmp_path)
    meta = model.mteb_model_meta
    place = tmp_path / "results" / "listrank__fullrank-fake-perfect" / meta.revision
    assert found.path == place / "LocalRetrieval.json"
    assert own.path == place.with_name(own.revision) / "LocalReranking.json"
    names = {"LocalRetrieval.json", "model_meta.json", "run_settings.jsonl"}
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
        (meta.name, meta.revision): ["LocalRetrieval"],
        (meta.name, own.revision): ["LocalReranking"],
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
    found = evaluate_mteb_task(task, model, out=tmp_path, first_stage=tmp_path / "saved", depth=4)
    assert found.rows[0]["score"] == theirs["main_score"]
    assert found.rows[0]["first_stage_score"] is None
    assert found.rows[0]["reused_calls"] == 3
    assert model.first_stage == {**saved["mteb_model_meta"], "depth": 4, "predictions": ANY}


def test_run_folders_are_replayed_and_verified(tmp_path: Path) -> None:
    found = evaluate_mteb_task(
        tasks.filled(tasks.LocalReranking()), made(tmp_path, Fake("stutter", qrels=Qrels(tasks.RELEVANT))), out=tmp_path
    )
    folder = RunFolder.existing(found.rows[0]["folder"])
    run, _, _ = replay_run_folder(folder)
    assert {q: r.doc_ids for q, r in run.items()} == {q: r.doc_ids for q, r in folder.read_run("run.trec").items()}


def test_every_subset_is_a_run_of_its_own_with_its_own_texts(tmp_path: Path) -> None:
    chinese = tasks.part({"d1": "冰川融化", "d2": "面包"}, {"q1": "冰川"}, {"q1": {"d1": 1}})
    other = tasks.part({"d1": "other"}, {"q1": "other"}, {"q1": {"d1": 1}})
    task = tasks.filled(tasks.LocalSubsets(), en=tasks.part(), zh=chinese, en_ar=other)
    model = made(tmp_path, Fake("reversed"), MtebFirstStage("bm25,segmenter=pairs"))
    stage = MtebFirstStage("bm25,segmenter=pairs")
    found = evaluate_mteb_task(task, model, out=tmp_path, first_stage=stage)
    assert [row["subset"] for row in found.rows] == ["en", "zh", "en-ar"]
    assert found.rows[1]["score"] == 1.0
    assert [Path(row["folder"]).name for row in found.rows] == ["en.test", "zh.test", "en-ar.test"]


def test_what_is_scored_is_read_and_what_is_missing_is_measured(tmp_path: Path) -> None:
    backend = perfect()
    model = made(tmp_path, backend, BM25)
    task = tasks.filled(tasks.LocalRetrieval())
    first = evaluate_mteb_task(task, model, out=tmp_path, first_stage=BM25)
    model = made(tmp_path, backend, BM25)
    again = evaluate_mteb_task(task, model, out=tmp_path, first_stage=BM25)
    assert [row["score"] for row in again.rows] == [row["score"] for row in first.rows]
    assert model.reports == []  # mteb's file was enough, and no data were loaded
    assert again.rows[0]["first_stage_score"] == first.rows[0]["first_stage_score"]
    assert evaluate_mteb_task(tasks.LocalRetrieval(), model, out=tmp_path, first_stage=BM25).rows == again.rows
    first.path.unlink()
    again = evaluate_mteb_task(task, model, out=tmp_path, first_stage=BM25)
    assert again.rows[0]["reused_calls"] == 3
    assert len(backend.served) == 3


def test_halves_that_a_kill_left_are_made_again(tmp_path: Path) -> None:
    model = made(tmp_path, perfect(), BM25)
    task = tasks.filled(tasks.LocalRetrieval())
    first = evaluate_mteb_task(task, model, out=tmp_path, first_stage=BM25)
    (predictions,) = (tmp_path / "predictions").rglob("*.json")
    for path in (first.path, predictions):
        path.write_text(path.read_text()[:100])
    assert evaluate_mteb_task(task, model, out=tmp_path, first_stage=BM25).rows[0]["score"] == first.rows[0]["score"]
    assert json.loads(predictions.read_text())["default"]["test"]["q1"]
    predictions.unlink()  # its score is there, its lists are gone
    first.path.unlink()
    assert evaluate_mteb_task(task, model, out=tmp_path, first_stage=BM25).rows[0]["score"] == first.rows[0]["score"]


def test_other_lists_are_another_revision_and_never_mixed(tmp_path: Path) -> None:
    model = made(tmp_path, perfect(), BM25, 2)
    task = tasks.filled(tasks.LocalRetrieval())
    with raises(UsageError, "'depth': 2", "'depth': 3"):
        evaluate_mteb_task(task, model, out=tmp_path, first_stage=BM25, depth=3)
    with raises(DataError, "--first-stage bm25"):
        evaluate_mteb_task(task, model, out=tmp_path)


def write_run(path: Path, *orders: str) -> None:
    lines = [f"q{q} Q0 d{doc} {at} {-at} r" for q, order in enumerate(orders, 1) for at, doc in enumerate(order)]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("form", ["run:{}", "hybrid:bm25+(run:{})"])
def test_a_run_that_is_written_again_is_another_first_stage(tmp_path: Path, form: str) -> None:
    path, task, backend = tmp_path / "x.trec", tasks.filled(tasks.LocalRetrieval()), Fake("reversed")
    stage, found = MtebFirstStage(form.format(path)), []
    for orders in (("123", "123", "123"), ("456", "456", "456"), ("123", "123", "123")):
        write_run(path, *orders)
        revision = stage.mteb_model_meta.revision
        assert MtebFirstStage(form.format(path)).mteb_model_meta.revision == revision
        model = made(tmp_path, backend, stage)
        row = evaluate_mteb_task(task, model, out=tmp_path, first_stage=stage).rows[0]
        found.append((revision, row["first_stage_score"], row["score"], len(model.reports)))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]
    assert found[2] == (*found[0][:3], 0)  # the first lists again: their scores are read


def test_another_model_in_the_same_folder_is_another_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    (folder / "1_Dense").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Dense"}]))

    def revision() -> str:
        return str(MtebFirstStage(f"dense:{folder}").mteb_model_meta.revision)

    seen = [revision()]
    for name, content in (("model.safetensors", "one"), ("model.safetensors", "other"), ("1_Dense/config.json", "[1]")):
        (folder / name).write_text(content)
        seen.append(revision())
    assert len(set(seen)) == 4
    (folder / "README.md").write_text("no weights")
    assert revision() == seen[-1]
    monkeypatch.chdir(tmp_path)
    before = [MtebFirstStage(text).mteb_model_meta.revision for text in ("bm25", "dense,index=flat")]
    (tmp_path / "flat").mkdir()  # what a choice of words is called is no place
    (tmp_path / "flat" / "x").write_text("x")
    assert [MtebFirstStage(text).mteb_model_meta.revision for text in ("bm25", "dense,index=flat")] == before
    (folder / "modules.json").write_text("[1]")
    with pytest.raises(DataError):
        revision()


def test_an_index_that_changes_is_another_first_stage(tmp_path: Path) -> None:
    stage = MtebFirstStage(f"lucene:{tmp_path / 'index'}")
    seen = [stage.mteb_model_meta.revision]
    for name, content in (("a/segments", "1"), ("a/segments", "2"), ("b", "2")):
        (tmp_path / "index" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "index" / name).write_text(content)
        seen.append(stage.mteb_model_meta.revision)
    assert len(set(seen)) == 4


def save_lists(folder: Path, task: str, order: str) -> None:
    folder.mkdir(exist_ok=True)
    lists = {q: {f"d{doc}": float(-at) for at, doc in enumerate(order)} for q in tasks.QUERIES}
    content = {"mteb_model_meta": {"model_name": "a", "revision": "1"}, "default": {"test": lists}}
    (folder / f"{task}_predictions.json").write_text(json.dumps(content))


def test_predictions_that_are_saved_again_are_other_lists(tmp_path: Path) -> None:
    saved, task, found = tmp_path / "saved", tasks.filled(tasks.LocalRetrieval()), []
    for order in ("1245", "6541"):
        save_lists(saved, "LocalRetrieval", order)
        model = made(tmp_path, Fake("reversed"), saved, 4)
        found.append(evaluate_mteb_task(task, model, out=tmp_path, first_stage=saved, depth=4))
        assert len(model.reports) == 1
    assert found[0].revision != found[1].revision
    assert found[0].rows[0]["score"] != found[1].rows[0]["score"]
    before = describe_mteb_candidates(saved, 4)
    save_lists(saved, "LocalRetrieval", "1245")
    assert describe_mteb_candidates(saved, 4) != before


def test_lists_of_another_task_change_nothing(tmp_path: Path) -> None:
    saved, task = tmp_path / "saved", tasks.filled(tasks.LocalRetrieval())
    save_lists(saved, "LocalRetrieval", "1245")
    model = made(tmp_path, Fake("reversed"), saved, 4)
    first = evaluate_mteb_task(task, model, out=tmp_path, first_stage=saved, depth=4)
    save_lists(saved, "LocalSelf", "1245")
    for again in (model, made(tmp_path, Fake("reversed"), saved, 4)):
        assert evaluate_mteb_task(task, again, out=tmp_path, first_stage=saved, depth=4).path == first.path
    assert len(model.reports) == 1


def test_a_task_with_its_own_lists_does_not_depend_on_a_first_stage(tmp_path: Path) -> None:
    task, backend, found = tasks.filled(tasks.LocalReranking()), perfect(), []
    for stage, depth in ((None, 100), (BM25, 2), (BM25, 3), (MtebFirstStage("bm25,k1=2"), 3)):
        model = made(tmp_path, backend, stage, depth)
        found.append(evaluate_mteb_task(task, model, out=tmp_path, first_stage=stage, depth=depth))
    assert len({one.path for one in found}) == 1
    assert len(backend.served) == 3  # one for each query, and never again


def test_a_first_stages_name_is_one_whatever_lies_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("bm25", "saved"):
        (tmp_path / name).mkdir()
    for text in ("bm25", "bm25,k1=1.2", "run:saved/x.trec", "unknown"):
        stage = parse_mteb_first_stage(text)
        assert isinstance(stage, MtebFirstStage)
        assert stage.selector == text
    for text in ("./bm25", "saved", "elsewhere/saved"):
        assert parse_mteb_first_stage(text) == Path(text)
    with raises(UnknownNameError, "'unknown'"):
        describe_mteb_candidates(parse_mteb_first_stage("unknown"), 3)


def test_predictions_that_do_not_fit(tmp_path: Path) -> None:
    task = tasks.filled(tasks.LocalRetrieval())
    saved = tmp_path / "saved"
    with raises(MissingResourceError, saved):
        describe_mteb_candidates(saved, 3)
    saved.mkdir()
    with raises(DataError, saved):
        describe_mteb_candidates(saved, 3)
    (saved / "Other_predictions.json").write_text(json.dumps({"mteb_model_meta": {"model_name": "a"}}))
    with raises(MissingResourceError, "LocalRetrieval"):
        evaluate_mteb_task(task, made(tmp_path, perfect(), saved, 3), out=tmp_path, first_stage=saved, depth=3)
    (saved / "LocalRetrieval_predictions.json").write_text(json.dumps({"mteb_model_meta": {"model_name": "a"}}))
    with raises(DataError, "default, test"):
        evaluate_mteb_task(task, made(tmp_path, perfect(), saved, 3), out=tmp_path, first_stage=saved, depth=3)
    (saved / "Third_predictions.json").write_text(json.dumps({"mteb_model_meta": {"model_name": "b"}}))
    with raises(DataError, saved, "2 models"):
        describe_mteb_candidates(saved, 3)


def test_a_task_with_open_calls_has_no_score_and_is_gone_on_with(tmp_path: Path) -> None:
    task = tasks.filled(tasks.LocalReranking())
    backend = perfect()
    backend.batch_size = 1  # a batch is sent whole or not at all
    capped = MtebReranker.create(out=tmp_path, model="fake:perfect", backend=backend)
    capped._execution = capped._execution.model_copy(update={"max_total_tokens": 250})
    with raises(PartialFailureError, "--max-total-tokens 250"):
        evaluate_mteb_task(task, capped, out=tmp_path)
    assert not list((tmp_path / "results").rglob("LocalReranking.json"))
    assert 0 < capped.reports[0]["calls"] < 3
    free = MtebReranker.create(out=tmp_path, model="fake:perfect", backend=backend)
    found = evaluate_mteb_task(task, free, out=tmp_path)
    assert found.rows[0]["score"] == 1.0
    assert found.rows[0]["reused_calls"] == capped.reports[0]["calls"]
