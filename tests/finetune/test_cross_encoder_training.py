"""Whole trainings of a tiny cross-encoder: files, loss values, resuming to the bit, being killed, and wrong recipes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("datasets")

from safetensors.torch import load_file  # noqa: E402
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer  # noqa: E402

from rerank.errors import BackendError, DataError, RerankError, UsageError  # noqa: E402
from rerank.experiment import run_experiment  # noqa: E402
from rerank.experiment.spec import Execution, RunSpec  # noqa: E402
from rerank.finetune.component_registry import LOSSES, make_training_components  # noqa: E402
from rerank.finetune.components import ListTarget  # noqa: E402
from rerank.finetune.labels.lists import TrainingList  # noqa: E402
from rerank.finetune.recipe import Recipe  # noqa: E402
from rerank.finetune.trainer.cost_estimate import estimate_training  # noqa: E402
from rerank.finetune.trainer.schedule import ListSchedule, read_lists  # noqa: E402
from rerank.finetune.trainer.training import check_cross_encoder_recipe, train_adapter  # noqa: E402
from rerank.tasks import BackendOptions  # noqa: E402
from tests.finetune.small import (  # noqa: E402
    WORDS,
    RecipeOf,
    killed_and_gone_on_with,
    metrics,
    recipe,
    stopped_and_gone_on_with,
    validation,
)
from tests.raising import raises  # noqa: E402

#: A recipe's tables for a cross-encoder, which is trained with two losses on scores.
TABLES: dict[str, Any] = {
    "method": {"method": "cross-encoder", "prompt": "auto", "max_passage_tokens": None, "min_passage_tokens": 1},
    "losses": [{"name": "distill"}, {"name": "ranknet", "weight": 0.5}],
    "adapter": {"name": "full"},
}


def encoder_folder(folder: Path, kind: Any = BertForSequenceClassification, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer: Any = BertTokenizer(vocab=str(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        **options,
    )
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def first_list(asked: Recipe) -> TrainingList:
    lists, _ = read_lists(asked)
    return ListSchedule(lists=lists, length=1, documents=5, shuffle=False, seed=asked.seed)[0]


def margin_losses(folder: Path, lists: Sequence[TrainingList]) -> list[float]:
    """The loss margin-mse of the scores that a saved model gives each list in sentence-transformers."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
    values = []
    for shown in lists:
        scores = torch.tensor(model.predict([(shown.query.text, doc.text) for doc in shown.docs]))
        target = ListTarget(ranks=torch.tensor(shown.ranks), scores=torch.tensor(shown.scores))
        values.append(float(LOSSES.get("margin-mse")()(scores, target)))
    return values


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT without a head, so that trainings begin with a random one."""
    return encoder_folder(tmp_path_factory.mktemp("encoder"), BertModel)


@pytest.fixture
def recipe_of(encoder: Path, collection: Path) -> RecipeOf:
    return partial(recipe, encoder, collection)


def test_it_ranks_as_it_was_trained_to_here_and_in_sentence_transformers(
    recipe_of: RecipeOf, collection: Path, tmp_path: Path
) -> None:
    asked = recipe_of(**TABLES, training={"batch_size": 2}, validation=validation(collection))
    result = train_adapter(asked, tmp_path / "out", device="cpu")
    assert result.steps == 4
    assert result.tokens > 0
    for line in metrics(tmp_path / "out", "loss"):
        assert line["loss"] == pytest.approx(line["loss_distill"] + 0.5 * line["loss_ranknet"], abs=1e-5)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["validation"] == result.validation
    assert 'library_name: "sentence-transformers"' in (tmp_path / "out" / "README.md").read_text()

    folder = str(tmp_path / "out")
    spec = RunSpec(collection=f"jsonl:{collection}", depth=6, max_queries=4, model=folder, dtype="float32")
    summary = run_experiment(spec, Execution(out=tmp_path / "run", device="cpu"))
    assert summary["scores"]["nDCG@10"] == pytest.approx(result.validation["nDCG@10"], abs=1e-9)
    assert json.loads((tmp_path / "run" / "spec.json").read_text())["spec"]["method"] == "cross-encoder"

    from sentence_transformers import CrossEncoder

    from rerank.backends.cross_encoder import CrossEncoder as Backend

    pairs = [("wing lift", "wing jet"), ("wing lift", "tail cone")]
    ours = Backend.load(folder, BackendOptions(dtype="float32")).model.predict(pairs)
    assert CrossEncoder(folder, device="cpu").predict(pairs) == pytest.approx(ours, abs=1e-6)


def test_the_loss_is_that_of_the_scores(encoder: Path, collection: Path, tmp_path: Path) -> None:
    """Without dropout, the first value in the metrics is the loss of the untrained model's scores on the first list."""
    quiet = encoder_folder(tmp_path / "quiet", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=1)
    tables = TABLES | {"losses": [{"name": "margin-mse"}]}
    asked = recipe(quiet, collection, **tables, data={"max_lists": 1}, training={"steps": 1, "accumulation": 1})
    result = train_adapter(asked, tmp_path / "out", device="cpu")

    (expected,) = margin_losses(quiet, [first_list(asked)])
    assert result.loss == pytest.approx(expected, abs=1e-5)


def test_the_loss_on_held_out_lists_selects_the_weights(recipe_of: RecipeOf, tmp_path: Path) -> None:
    """The measured loss is that of the scores that the saved model gives, without dropout."""
    tables = TABLES | {"losses": [{"name": "margin-mse"}], "validation": {"share": 0.3, "every": 1}}
    asked = recipe_of(**tables, data={"documents": 99})
    result = train_adapter(asked, tmp_path / "out", device="cpu")

    values = margin_losses(tmp_path / "out", read_lists(asked)[1])
    assert result.validation == {"held-out loss": pytest.approx(sum(values) / len(values), abs=1e-5)}


def test_a_model_with_two_labels_is_trained_by_its_log_odds(collection: Path, tmp_path: Path) -> None:
    two = encoder_folder(tmp_path / "two", num_labels=2)
    train_adapter(recipe(two, collection, **TABLES, validation=validation(collection)), tmp_path / "out", device="cpu")
    assert load_file(tmp_path / "out" / "model.safetensors")["classifier.weight"].shape == (2, 32)


@pytest.mark.parametrize(
    "changes", [{"training": {"checkpointing": True}}, {"optimizer": {"name": "galore", "rank": 4, "lr": 1e-3}}]
)
def test_stopped_and_gone_on_with_comes_to_the_same_bits(
    recipe_of: RecipeOf, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Dropout is on, so that the state of the random generators counts too."""
    stopped_and_gone_on_with(recipe_of(**TABLES, **changes), tmp_path)


def test_killed_and_gone_on_with(recipe_of: RecipeOf, tmp_path: Path) -> None:
    killed_and_gone_on_with(recipe_of(**TABLES, training={"steps": 16}), tmp_path, "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"adapter": {"name": "lora"}}, "adapter = 'lora'"),
        ({"losses": [{"name": "importance"}]}, "'importance'"),
        ({"losses": [{"name": "distill", "on": "attention"}]}, "on = 'attention'"),
        ({"method": {"method": "cross-encoder", "prompt": "listwise"}}, "prompt = 'listwise'"),
        ({"layers": {"name": "lisa", "n": 1}}, "layers = 'lisa'"),
        ({"readout": {"layers": "1-1"}}, "[readout]"),
        ({"training": {"neftune": 5.0}}, "neftune = 5"),
        ({"method": {"method": "last-but-not-late"}}, "method = 'last-but-not-late'"),
    ],
)
def test_settings_that_do_not_apply_are_refused_before_the_model_is_loaded(
    recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], named: str
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("rerank.finetune.trainer.cross_encoder_training.load_cross_encoder_model", load)
    with raises(UsageError, named):
        train_adapter(recipe_of(**(TABLES | changes)), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_sharding_is_refused_in_the_words_of_the_recipe(recipe_of: RecipeOf) -> None:
    asked = recipe_of(**TABLES)
    sharded = asked.model_copy(update={"training": asked.training.model_copy(update={"fsdp": True})})
    with raises(UsageError, "fsdp = true"):
        check_cross_encoder_recipe(sharded, make_training_components(asked), backend="cross_encoder")


def test_an_estimate_is_refused(recipe_of: RecipeOf) -> None:
    with raises(UsageError, "method = 'cross-encoder'"):
        estimate_training(recipe_of(**TABLES), processes=1, device="cpu")


def test_several_processes_are_refused(recipe_of: RecipeOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked = recipe_of(**TABLES)
    with raises(UsageError, "2 processes"):
        check_cross_encoder_recipe(asked, make_training_components(asked), backend="cross_encoder")


def test_models_that_are_no_encoders(model: Path, collection: Path, tmp_path: Path) -> None:
    with raises(UsageError, "LlamaForCausalLM"):
        train_adapter(recipe(model, collection, **TABLES), tmp_path / "out", device="cpu")
    three = encoder_folder(tmp_path / "three", num_labels=3)
    with raises(UsageError, "3 labels"):
        train_adapter(recipe(three, collection, **TABLES), tmp_path / "out", device="cpu")


def test_a_query_that_leaves_no_space(recipe_of: RecipeOf, tmp_path: Path) -> None:
    tables = TABLES | {"method": TABLES["method"] | {"context_size": 5}}
    with raises(DataError, "context"):
        train_adapter(recipe_of(**tables), tmp_path / "out", device="cpu")


def test_a_loss_that_is_no_number(recipe_of: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank.finetune.losses import Distill

    monkeypatch.setattr(Distill, "__call__", lambda self, scores, target: scores.sum() * float("nan"))
    with pytest.raises(BackendError, match=r"queries q\d"):
        train_adapter(recipe_of(**TABLES), tmp_path / "out", device="cpu")


def test_labels_without_scores(recipe_of: RecipeOf, collection: Path, tmp_path: Path) -> None:
    """Losses on ranks need no teacher scores."""
    rows = [json.loads(line) for line in (collection / "labels.jsonl").read_text().splitlines()]
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "scores"}) + "\n" for row in rows))
    tables = TABLES | {"losses": [{"name": "listnet"}], "data": {"lists": [str(file)]}}
    asked: Recipe = recipe_of(**tables)
    assert train_adapter(asked, tmp_path / "out", device="cpu").steps == 4
    with raises(DataError, "'distill'"):
        train_adapter(recipe_of(**(tables | {"losses": [{"name": "distill"}]})), tmp_path / "d")


@pytest.mark.parametrize("loss", ["ListNetLoss", "LambdaLoss", "BinaryCrossEntropyLoss"])
def test_losses_of_sentence_transformers(recipe_of: RecipeOf, tmp_path: Path, loss: str) -> None:
    tables = TABLES | {"losses": [{"name": "sentence-transformers", "loss": loss}]}
    result = train_adapter(recipe_of(**tables), tmp_path / "out", device="cpu")
    assert result.steps == 4
    assert result.tokens > 0


def test_list_net_of_sentence_transformers_is_its_formula(collection: Path, tmp_path: Path) -> None:
    """Cross-entropy between the softmax of the labels and of the scores; the weight multiplies it."""
    quiet = encoder_folder(tmp_path / "quiet", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=1)
    found = []
    for table in (
        {"name": "sentence-transformers", "loss": "ListNetLoss", "weight": 2.0},
        {"name": "distill", "normalise": False},
    ):
        changes = {"losses": [table], "data": {"max_lists": 1}, "training": {"steps": 1, "accumulation": 1}}
        asked = recipe(quiet, collection, **(TABLES | changes))
        found.append(train_adapter(asked, tmp_path / str(table["name"]), device="cpu").loss)
    label = torch.tensor(first_list(asked).scores).softmax(dim=0)
    entropy = -float((label * label.log()).sum())
    assert found[0] / 2 == pytest.approx(found[1] + entropy, abs=1e-5)  # cross-entropy = divergence + entropy


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"losses": [{"name": "sentence-transformers", "loss": "LambdaLos"}]}, "LambdaLoss"),
        ({"losses": [{"name": "sentence-transformers"}, {"name": "distill"}]}, "2 losses"),
        ({"losses": [{"name": "sentence-transformers", "on": "logits"}]}, "on = 'logits'"),
        ({"losses": [{"name": "sentence-transformers"}], "method": {"method": "pointwise"}}, "method = 'pointwise'"),
    ],
)
def test_wrong_losses_of_sentence_transformers(recipe_of: RecipeOf, tables: dict[str, Any], named: str) -> None:
    with raises(RerankError, named):
        make_training_components(recipe_of(**(TABLES | tables)))


def test_options_of_a_loss_of_sentence_transformers(recipe_of: RecipeOf, tmp_path: Path) -> None:
    def asked(**options: Any) -> Recipe:
        tables = {"losses": [{"name": "sentence-transformers", "loss": "LambdaLoss", "options": options}]}
        return recipe_of(**(TABLES | tables))

    assert train_adapter(asked(k=3), tmp_path / "out", device="cpu").steps == 4
    with raises(UsageError, "LambdaLoss", "'kk'"):
        train_adapter(asked(kk=3), tmp_path / "wrong", device="cpu")
