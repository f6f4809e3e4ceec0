"""Models that no preset knows: the class in their files decides what they are, and random weights are refused."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

pytest.importorskip("sentence_transformers")

import torch
from safetensors.torch import load_file, save_file

from rerank.errors import DataError, MissingResourceError, RerankError, UsageError
from rerank.indexing.text_encoder import load_text_encoder
from rerank.lm.loading import complete_weights
from rerank.lm.model_files import ModelFiles
from rerank.reranker import Reranker
from rerank.retrieval.dense import Dense
from tests.backends.pairs import save
from tests.cli.conftest import Cli, cli, own_folders
from tests.models.test_lazy_backend import save as save_language_model
from tests.raising import raises
from tests.retrieval.encoders import save_encoder, save_splade

__all__ = ["cli", "own_folders"]

QUERY, TEXTS = "w1 w9", ["w3 w4 w5", "w1 w2", "w9", "w7 w8 w1", "w40 w9"]
LIST = {
    "query": {"qid": "q", "text": QUERY},
    "candidates": [{"docid": str(n), "doc": text} for n, text in enumerate(TEXTS)],
}


def own_scores(folder: Path) -> list[float]:
    """The logits of sentence-transformers; for two labels, the log odds of the second."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu")
    rows: Any = model.predict([(QUERY, text) for text in TEXTS], activation_fn=torch.nn.Identity())
    return [float(row[1] - row[0] if row.ndim else row) for row in rows]


def rank(folder: Path, **settings: Any) -> dict[int, float]:
    with Reranker.from_pretrained(str(folder), dtype="float32", device="cpu", **settings) as reranker:
        return {int(hit.corpus_id): float(hit.score or 0) for hit in reranker.rank(QUERY, TEXTS)}


def drop_weights(folder: Path, part: str) -> Path:
    """Remove the weights whose names contain a text, as a damaged conversion would."""
    path = next(folder.rglob("model.safetensors"))
    weights = {name: value for name, value in load_file(path).items() if part not in name}
    assert len(weights) < len(load_file(path))
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def drop_tokenizer(folder: Path) -> Path:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    return folder


def save_modular_cross_encoder(folder: Path) -> Path:
    """A cross-encoder made of modules, as sentence-transformers saves it: an encoder, its pooling and a head."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Dense as DenseModule
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    base = Transformer(str(save(folder / "base", base=True)))
    torch.manual_seed(1)
    head = DenseModule(
        16,
        1,
        activation_function=torch.nn.Identity(),
        module_input_name="sentence_embedding",
        module_output_name="scores",
    )
    CrossEncoder(modules=[base, Pooling(16, "mean"), head], device="cpu").save_pretrained(
        str(folder / "modular"), create_model_card=False
    )
    return folder / "modular"


@pytest.mark.parametrize("labels", [1, 2])
def test_a_classifier_is_a_cross_encoder_whatever_its_name(tmp_path: Path, labels: int) -> None:
    folder = save(tmp_path / "our-support", labels=labels)
    first, second = rank(folder), rank(folder)
    assert first == second
    assert [first[n] for n in range(len(TEXTS))] == pytest.approx(own_scores(folder), abs=1e-4)
    assert list(first) == sorted(first, key=lambda n: -own_scores(folder)[n])


REFUSED: dict[str, tuple[Any, ...]] = {
    "three labels": (lambda folder: save(folder / "m", labels=3), UsageError, "has 3 labels"),
    "encoder": (
        lambda folder: save(folder / "m", base=True),
        UsageError,
        "has the class BertModel, which generates no text",
        "--first-stage dense:NAME",
    ),
    "adapter": (
        lambda folder: (folder / "adapter_config.json").write_text("{}") and folder,
        MissingResourceError,
        "only an adapter",
    ),
    "no tokenizer": (lambda folder: drop_tokenizer(save(folder / "m")), MissingResourceError, "has no tokenizer"),
    "masked": (
        lambda folder: save(folder / "m", head="BertForMaskedLM"),
        UsageError,
        "BertForMaskedLM, which generates no text",
    ),
    "dense": (save_encoder, UsageError, "is an embedding model of sentence-transformers", "--first-stage dense:"),
    "sparse": (save_splade, UsageError, "--first-stage sparse:"),
    "no head": (lambda folder: drop_weights(save(folder / "m"), "classifier"), DataError, "classifier.weight"),
    "no pooler": (lambda folder: drop_weights(save(folder / "m"), "pooler"), DataError, "bert.pooler"),
    "hole": (lambda folder: drop_weights(save_language_model(folder / "m"), "layers.1.mlp"), DataError, "layers.1.mlp"),
}


def rank_by_command(cli: Cli, folder: Path, tmp_path: Path) -> CompletedProcess[str]:
    """Rank the list with the model by the command, into the folder `run`."""
    (tmp_path / "list.jsonl").write_text(json.dumps(LIST))
    source, out = f"requests:{tmp_path}/list.jsonl", tmp_path / "run"
    return cli("rerank", "--collection", source, "--model", folder, "--out", out, "--dtype", "float32")


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_random_is_refused_in_one_line(case: str, tmp_path: Path, cli: Cli) -> None:
    make, kind, *named = REFUSED[case]
    folder = make(tmp_path)
    with raises(kind, *named) as caught:
        rank(folder)
    assert "\n" not in str(caught.value)
    done = rank_by_command(cli, folder, tmp_path)
    assert done.returncode not in (0, 1)
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_the_command_ranks_as_python_does(tmp_path: Path, cli: Cli) -> None:
    folder = save(tmp_path / "our-support")
    done = rank_by_command(cli, folder, tmp_path)
    assert done.returncode == 0, done.stderr
    order = [line.split()[2] for line in (tmp_path / "run" / "run.trec").read_text().splitlines()]
    assert order == [str(n) for n in rank(folder)]
    assert json.loads((tmp_path / "run" / "spec.json").read_text())["spec"]["method"] == "cross-encoder"


def test_a_server_ranks_as_python_does_and_refuses_an_encoder_at_its_start(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from rerank.serving.app import create_server_app
    from rerank.serving.ranking_service import open_ranking_service
    from rerank.serving.settings import ServerSettings

    folder = save(tmp_path / "our-support")
    ranker = {"model": str(folder), "dtype": "float32"}
    with TestClient(
        create_server_app(open_ranking_service(ranker, ServerSettings())), base_url="http://127.0.0.1"
    ) as client:
        answer = client.post("/v2/rerank", json={"model": "m", "query": QUERY, "documents": TEXTS}).json()
    assert [result["index"] for result in answer["results"]] == list(rank(folder))
    with raises(UsageError, "which generates no text"):
        open_ranking_service({"model": str(save(tmp_path / "encoder", base=True))}, ServerSettings())


def test_a_named_method_is_used_and_refused_where_its_weights_are_missing(tmp_path: Path) -> None:
    with raises(UsageError, "which generates no text", "Use --method cross-encoder"):
        rank(save(tmp_path / "m"), method="fullrank")


def test_an_encoder_of_a_first_stage_needs_all_weights_except_those_of_a_pooler_that_it_bypasses(
    tmp_path: Path,
) -> None:
    folder, options = save_encoder(tmp_path), Dense(dtype="float32")
    before = load_text_encoder(folder, options).passages(["w1 w2"])
    assert (load_text_encoder(drop_weights(folder, "pooler"), options).passages(["w1 w2"]) == before).all()
    with raises(DataError, "encoder.layer.0.attention"):
        load_text_encoder(drop_weights(folder, "layer.0.attention.self.query"), options)


def test_an_encoder_of_a_first_stage_needs_a_tokenizer(tmp_path: Path) -> None:
    with raises(MissingResourceError, "has no tokenizer"):
        load_text_encoder(drop_tokenizer(save_encoder(tmp_path)), Dense(dtype="float32"))


def test_an_encoder_that_uses_its_pooler_needs_it(tmp_path: Path) -> None:
    folder, options = save_encoder(tmp_path), Dense(dtype="float32")
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    settings["modality_config"] = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
    settings["module_output_name"] = "sentence_embedding"
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    (folder / "modules.json").write_text(json.dumps(json.loads((folder / "modules.json").read_text())[:1]))
    load_text_encoder(folder, options)
    with raises(DataError, "pooler.dense"):
        load_text_encoder(drop_weights(folder, "pooler"), options)


def test_a_head_behind_mean_pooling_needs_no_pooler(tmp_path: Path) -> None:
    folder = save_modular_cross_encoder(tmp_path)
    before = rank(folder)
    assert rank(drop_weights(folder, "pooler")) == before


def test_two_threads_that_load_leave_transformers_as_it_was(tmp_path: Path) -> None:
    import transformers

    folders = [save(tmp_path / name) for name in ("a", "b")]
    before = transformers.PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            assert len(list(pool.map(rank, folders))) == 2
    assert transformers.PreTrainedModel.from_pretrained.__func__ is before  # type: ignore[attr-defined]
    # What other code loads, with a head of its own, is none of our business.
    encoder = str(save(tmp_path / "encoder", base=True))
    with complete_weights(ModelFiles(folder=tmp_path)), ThreadPoolExecutor(1) as pool:
        pool.submit(transformers.AutoModelForSequenceClassification.from_pretrained, encoder).result()


def test_code_of_the_model_is_never_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --trust-remote-code, transformers would ask on stdin whether to run it."""
    folder = save_language_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "code.Config"}, "model_type": "unknown-to-transformers"}
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('the code ran')")

    def ask(question: str = "") -> str:
        raise AssertionError(question)

    monkeypatch.setattr("builtins.input", ask)
    with raises(UsageError, "needs code from its own files", "--trust-remote-code"):
        Reranker.from_pretrained(str(folder), method="fullrank")


def test_a_missing_config_or_one_that_is_damaged_is_reported_by_the_loader(tmp_path: Path) -> None:
    folder = save(tmp_path / "m")
    (folder / "config.json").write_text("{")
    with raises(RerankError, "m'"):
        rank(folder)
    shutil.rmtree(folder)
    with raises(MissingResourceError, "does not exist"):
        rank(folder)
