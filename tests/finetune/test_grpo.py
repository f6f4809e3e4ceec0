"""Trainings of a tiny model by GRPO: what comes of them, and their gradient against a second implementation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("trl")

from safetensors.torch import load_file  # noqa: E402
from tokenizers import Regex, Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast  # noqa: E402

from rerank.backends.hf import Hf  # noqa: E402
from rerank.errors import DataError  # noqa: E402
from rerank.finetune.kernels import grpo  # noqa: E402
from rerank.finetune.recipe import Recipe  # noqa: E402
from rerank.finetune.trainer.base_model import load_base_model  # noqa: E402
from rerank.finetune.trainer.training import train_adapter  # noqa: E402
from rerank.reranker import Reranker  # noqa: E402
from tests.finetune.small import WORDS, RecipeOf, collection_folder, stopped_and_gone_on_with, values  # noqa: E402
from tests.finetune.tiny import tiny_model  # noqa: E402
from tests.raising import raises  # noqa: E402

#: (Prompt, reply, reward) of every reply that was rewarded.
Heard = list[tuple[tuple[int, ...], tuple[int, ...], float]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of so few words that now and then it says an identifier."""
    folder = tmp_path_factory.mktemp("model")
    names = [*"[]>", *map(str, range(1, 9)), *WORDS, "[UNK]", "</s>"]
    raw = Tokenizer(models.WordLevel(vocab={name: at for at, name in enumerate(names)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\d+|[a-zA-Z]+|."), "isolated")]
    )
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw, eos_token="</s>", unk_token="[UNK]"
    )
    made = tiny_model(vocabulary=len(tokenizer), max_position_embeddings=4096)
    made.config.eos_token_id = tokenizer.eos_token_id
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collection_folder(tmp_path_factory.mktemp("collection"))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Rewards that nearly always differ within a group; what they were given for."""
    found: Heard = []

    def reward(self: grpo.GrpoPrompt, reply: Sequence[int]) -> float:
        value = sum(token % 2 for token in reply) / len(reply)
        found.append((self.ids, tuple(reply), value))
        return value

    monkeypatch.setattr(grpo.GrpoPrompt, "reward", reward)
    return found


@pytest.fixture
def asked(recipe_of: RecipeOf) -> RecipeOf:
    def make(**changes: Any) -> Recipe:
        tables: dict[str, Any] = {
            "losses": [],
            "objective": {"name": "grpo", "group": 4},
            "training": {"steps": 2, "accumulation": 2, "save_every": 1},
            "optimizer": {"lr": 1e-2},
        }
        for key, value in changes.items():
            tables[key] = {**tables.get(key, {}), **value} if isinstance(value, dict) else value
        return recipe_of(**tables)

    return make


def weights(folder: Path) -> dict[str, Any]:
    return load_file(str(folder / "adapter_model.safetensors"))


def same(one: Path, other: Path) -> bool:
    return (one / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()


def test_from_recipe_to_ranking(asked: RecipeOf, model: Path, collection: Path, tmp_path: Path) -> None:
    validation = {"collection": f"jsonl:{collection}", "depth": 5, "max_queries": 3, "every": 1}
    given = asked(objective={"group": 8}, training={"accumulation": 4}, validation=validation, seed=3)
    result = train_adapter(given, tmp_path / "out", device="cpu")
    assert (result.steps, set(result.validation)) == (2, {"nDCG@10"})
    assert result.tokens > 2 * 4 * 8 * 100
    out = tmp_path / "out"
    rewards = values(out, "reward")
    assert max(rewards) > 0
    assert all(0 <= value <= 1 for value in rewards)
    assert max(values(out, "grad_norm")) > 0
    found = weights(out)
    assert all(torch.isfinite(value).all() for value in found.values())
    assert any(value.abs().max() > 0 for name, value in found.items() if "lora_B" in name)
    assert "- Objective: grpo (group=8)" in (out / "README.md").read_text()
    assert {path.name for path in out.iterdir()} >= {"rerank.json", "prompt.yaml", "recipe.json", "adapter_config.json"}
    assert len(list((out / "checkpoints").iterdir())) == 2
    assert [path.name for path in (out / "checkpoints").rglob("README.md")] == []
    reranker = Reranker.from_pretrained(str(model), adapter=str(out), device="cpu")
    assert sorted(hit.corpus_id for hit in reranker.rank("wing lift heat", ["jet tail", "wing lift heat"])) == [0, 1]


@pytest.mark.usefixtures("heard")
def test_a_seed_decides_everything(asked: RecipeOf, tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        train_adapter(asked(seed=seed), tmp_path / name, device="cpu")
    assert same(tmp_path / "one", tmp_path / "same")
    assert not same(tmp_path / "one", tmp_path / "other")


@pytest.mark.usefixtures("heard")
def test_stopped_and_gone_on_with_comes_to_the_same_bits(asked: RecipeOf, tmp_path: Path) -> None:
    given = asked(training={"steps": 3, "save_every": 1, "log_every": 1})
    stopped_and_gone_on_with(given, tmp_path)
    assert values(tmp_path / "parts", "grad_norm") == values(tmp_path / "whole", "grad_norm")


def by_hand(model: Path, heard: Heard, *, group: int, temperature: float) -> Any:
    """The gradient of one step by the paper's formulas: equation 1 with one update a sample, outcome advantages."""
    net: Any = AutoModelForCausalLM.from_pretrained(model).train()
    losses = []
    for start in range(0, len(heard), group):
        replies = heard[start : start + group]
        rewards = torch.tensor([value for _, _, value in replies])
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        for (prompt, reply, _), advantage in zip(replies, advantages, strict=True):
            ids = torch.tensor([[*prompt, *reply]])
            logits = net(input_ids=ids).logits[0, len(prompt) - 1 : -1].float() / temperature
            logs = logits.log_softmax(dim=-1)[range(len(reply)), list(reply)]
            losses.append(-(advantage * logs).mean())
    torch.stack(losses).mean().backward()
    return {name: one.grad for name, one in net.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"together": 2}], ids=["whole groups", "in halves"])
def test_the_gradient_is_that_of_the_paper(
    asked: RecipeOf, model: Path, tmp_path: Path, heard: Heard, changes: dict[str, Any]
) -> None:
    given = asked(
        objective={"temperature": 0.7, **changes}, adapter={"name": "full"}, training={"steps": 1, "accumulation": 3}
    )
    train_adapter(given, tmp_path / "out", device="cpu")
    assert len(heard) == 3 * 4
    assert len({prompt for prompt, _, _ in heard}) == 3
    gradients = by_hand(model, heard, group=4, temperature=0.7)
    norm = torch.stack([one.norm() for one in gradients.values()]).norm()
    assert values(tmp_path / "out", "grad_norm")[0] == pytest.approx(float(norm), rel=1e-4)
    # AdamW's first step goes against the gradient's sign, by the learning rate.
    before, after = load_file(str(model / "model.safetensors")), load_file(str(tmp_path / "out" / "model.safetensors"))
    large = {name: one.abs() > 1e-4 * norm for name, one in gradients.items()}
    moved = {name: (after[name] - before[name])[large[name]].sign() for name in gradients}
    assert all(torch.equal(moved[name], -gradients[name][large[name]].sign()) for name in gradients)
    assert sum(int(one.sum()) for one in large.values()) > 1000


def test_prompts_are_those_of_inference(
    asked: RecipeOf, model: Path, collection: Path, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_adapter(asked(data={"documents": 8}, training={"steps": 1}), tmp_path / "out", device="cpu")
    prompts = {prompt for prompt, _, _ in heard}
    reranker = Reranker.from_pretrained(str(model), adapter=str(tmp_path / "out"), device="cpu")
    rows = [json.loads(line) for line in (collection / "labels.jsonl").read_text().splitlines()]
    texts = {row["id"]: row["text"] for row in map(json.loads, (collection / "docs.jsonl").read_text().splitlines())}
    queries = {
        row["id"]: row["text"] for row in map(json.loads, (collection / "queries.jsonl").read_text().splitlines())
    }
    seen: list[tuple[int, ...]] = []
    generate = Hf.generate

    def watched(self: Any, requests: Any) -> Any:
        seen.extend(tuple(self.tokens.encode([request.prompt])[0]) for request in requests)
        return generate(self, requests)

    monkeypatch.setattr(Hf, "generate", watched)
    for row in rows:
        reranker.rank(queries[row["qid"]], [texts[name] for name in row["initial_list"]])
    assert len(prompts) == 2
    assert prompts <= set(seen)


@pytest.mark.usefixtures("heard")
def test_the_base_model_is_the_reference(asked: RecipeOf, tmp_path: Path) -> None:
    for beta in (0.0, 0.5):
        given = asked(objective={"beta": beta}, training={"log_every": 1})
        train_adapter(given, tmp_path / str(beta), device="cpu")
    first, second = values(tmp_path / "0.5", "kl")
    assert first == 0
    assert second > 1e-4
    assert values(tmp_path / "0.0", "kl") == []
    # trl's copy of the adapter would be among them.
    assert set(weights(tmp_path / "0.5")) == set(weights(tmp_path / "0.0"))
    assert not same(tmp_path / "0.5", tmp_path / "0.0")


@pytest.mark.usefixtures("heard")
def test_what_trains_stays_in_float32_over_four_bits(
    asked: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def packed(*arguments: Any, **options: Any) -> Any:
        backend, tokenizer = load_base_model(*arguments, **options)
        backend.model.is_loaded_in_4bit = True  # as the adapter qlora leaves it
        return backend, tokenizer

    train_adapter(asked(), tmp_path / "plain", device="cpu")
    monkeypatch.setattr("rerank.finetune.trainer.base_model.load_base_model", packed)
    train_adapter(asked(), tmp_path / "packed", device="cpu")
    assert same(tmp_path / "plain", tmp_path / "packed")


@pytest.mark.usefixtures("heard")
def test_nobody_is_told(asked: RecipeOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *args, **_: told.append(args))
    monkeypatch.delenv("CI", raising=False)
    train_adapter(asked(), tmp_path / "out", device="cpu")
    assert told == []


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": {"name": "lora_ga", "r": 4}},
        {"adapter": {"name": "lora_sb", "r": 4}, "objective": {"beta": 0.1}},
        {"adapter": {"name": "dora", "r": 4}, "training": {"checkpointing": True}},
        {"adapter": {"name": "full"}, "layers": {"name": "lisa", "n": 1, "every": 1}},
        {"method": {"method": "fullrank,identifiers=letters", "prompt": "listwise_letters"}},
        {"training": {"batch_size": 2, "accumulation": 1}},
    ],
    ids=["looks at gradients", "own start", "checkpointing", "layers", "letters", "two lists"],
)
@pytest.mark.usefixtures("heard")
def test_it_goes_with(asked: RecipeOf, tmp_path: Path, changes: dict[str, Any]) -> None:
    train_adapter(asked(**changes), tmp_path / "out", device="cpu")
    assert all(value > 0 for value in values(tmp_path / "out", "grad_norm"))
    assert (tmp_path / "out" / "rerank.json").is_file()


def test_a_list_longer_than_the_context(asked: RecipeOf, tmp_path: Path) -> None:
    given = asked(objective={"max_tokens": 4000})
    with raises(DataError, "4000", "max_passage_tokens"):
        train_adapter(given, tmp_path / "out", device="cpu")


@pytest.mark.usefixtures("heard")
def test_a_recipe_of_before_there_were_objectives_is_still_the_same(recipe_of: RecipeOf, tmp_path: Path) -> None:
    given = recipe_of(training={"steps": 1})
    first = train_adapter(given, tmp_path / "out", device="cpu")
    path = tmp_path / "out" / "recipe.json"
    kept = json.loads(path.read_text())
    del kept["objective"]
    path.write_text(json.dumps(kept))
    (tmp_path / "out" / "checksums.json").unlink()  # nor were there checksums
    assert train_adapter(given, tmp_path / "out", device="cpu", resume=True).loss == first.loss
