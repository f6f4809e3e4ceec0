"""Presets of listwise, setwise, groupwise and reasoning rerankers: source, replies, scores and runs on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank.assemble import complete_settings
from rerank.judges import Limits, open_judge
from rerank.methods import open_method
from rerank.models.presets import RerankerPreset, recognise_reranker, reranker_presets
from rerank.prompts import load_prompt
from rerank.tasks import ContinuationTask, GenerationTask, Reply, Request
from rerank.types import Document
from tests.judges.scripted import Scripted, always, window
from tests.judging import judge_windows

FAMILIES = (
    "first",
    "grouprank",
    "jina-reranker-v3",
    "lit5",
    "rank-k",
    "rank-mistral",
    "rank-r1",
    "rank-vicuna",
    "rank-zephyr",
    "rank1",
    "rankgpt",
    "rearank",
    "reasonrank",
    "setwise-sft",
)
PRESETS = [preset for preset in reranker_presets().values() if preset.family in FAMILIES]
PUBLISHED = Path(__file__).parents[1] / "prompts" / "published"
NAMES = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)


@NAMES
def test_prompt_and_preset_come_from_the_same_source(preset: RerankerPreset) -> None:
    """The prompt itself is compared with this source in tests/prompts/test_published_prompts.py."""
    prompt = preset.recipe.get("prompt", open_method(preset.recipe["method"]).prompt)
    name = prompt or "jina_v3"  # which its backend inserts
    published = json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8"))
    assert preset.verified
    assert preset.source is not None
    assert (preset.source.repository, preset.source.commit) == (published["repository"], published["commit"])
    assert (preset.source.path, preset.source.licence) == (published["path"], published["licence"])


@NAMES
def test_the_recipe_is_a_ranker(preset: RerankerPreset) -> None:
    config = complete_settings({"model": "fake:perfect", **preset.recipe})
    method = open_method(config.method)
    for row in preset.published:
        assert {*row} == {"value", "measure", "collection", "first_stage", "depth", "measured_by"}
        assert 0 < row["value"] < 1
    assert method.judge.name in ("fuse", "generate", "logits", "pick", "rate", "relate", "score")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("castorini/rank_zephyr_7b_v1_full", "rank-zephyr-7b"),
        ("castorini/rank_vicuna_7b_v1_fp16", "rank-vicuna-7b"),
        ("castorini/first_mistral", "first-mistral-7b"),
        ("liuwenhan/RankMistral100", "rank-mistral-100"),
        ("jhu-clsp/rank1-14b-awq", "rank1-14b"),
        ("songtingyu/limrank", "limrank-7b"),
        ("ielabgroup/Rank-R1-7B-v0.1", "rank-r1-7b"),
        ("ielabgroup/Rank-R1-32B-v0.2", "rank-r1-32b-v0.2"),
        ("liuwenhan/reasonrank-7B", "reasonrank-7b"),
        ("lwhlwh/reasonrank-8B", "reasonrank-8b"),
        ("castorini/LiT5-Distill-large", "lit5-distill-large"),
        ("castorini/LiT5-Distill-large-v2", "lit5-distill-large-v2"),
        ("jinaai/jina-reranker-v3", "jina-reranker-v3"),
        ("rankgpt-qwen2.5-7b", "rankgpt-qwen2.5-7b"),
        ("Qwen/Qwen2.5-7B-Instruct", ""),
        ("castorini/rank_vicuna_7b_v1_q4_0", ""),
    ],
)
def test_models_are_recognised_by_their_id(model: str, name: str) -> None:
    preset = recognise_reranker(model)
    assert (preset.name if preset else "") == name


def test_a_folder_of_any_name_is_recognised_by_its_class(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["JinaForRanking"], "model_type": "qwen3"}')
    preset = recognise_reranker(tmp_path)
    assert preset is not None
    assert preset.name == "jina-reranker-v3"


def test_the_adapter_decides_and_not_its_base_model(tmp_path: Path) -> None:
    folder = tmp_path / "Rank-R1-7B-v0.1"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text("{}")
    config = complete_settings({"model": "liuwenhan/reasonrank-7B", "adapter": str(folder)})
    assert (config.prompt, config.thinking_tokens) == ("rank_r1", 2048)
    assert config.method.startswith("setwise,size=20")


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        ("openai:liuwenhan/reasonrank-7B", "reasonrank"),
        ("openai:jhu-clsp/rank1-7b", "auto"),  # its score comes after thoughts, and servers score the first token
        ("openai:castorini/rank_vicuna_7b_v1", "auto"),  # its prompt has marks of turns, and servers add their own
    ],
)
def test_servers_get_the_recipes_that_they_can_run(model: str, prompt: str) -> None:
    assert complete_settings({"model": model}).prompt == prompt


THOUGHT = "<think>\n[1] is about cats, [2] is not.\n</think>\n"
#: Preset, reply, expected order of three documents, expected status.
REPLIES = [
    ("rank-zephyr-7b", "[3] > [1] > [2]", (2, 0, 1), "ok"),
    ("rank-zephyr-7b", "[3] > [1", (2, 0, 1), "partial"),
    ("rank-zephyr-7b", "I think [9]", (0, 1, 2), "empty"),
    ("rank-mistral-100", "[2] > [3] > [1]", (1, 2, 0), "ok"),
    ("rankgpt-llama3.1-8b", "Sure: [2] > [2] > [3] > [1]", (1, 2, 0), "repaired"),
    ("reasonrank-7b", THOUGHT + "<answer> [3] > [1] > [2] </answer>", (2, 0, 1), "ok"),
    ("reasonrank-7b", THOUGHT + "<answer> [3] > [1] >", (2, 0, 1), "partial"),
    ("reasonrank-8b", "<answer> [3] > [1] > [2] </answer>", (2, 0, 1), "ok"),
    ("reasonrank-7b", "<think>\n[2] is better than [1]", (0, 1, 2), "empty"),
    ("rearank-7b", THOUGHT + "<answer> [2] > [1] > [3] </answer>", (1, 0, 2), "ok"),
    ("rank-k-32b", THOUGHT + "\n[3] > [2] = [1]", (2, 1, 0), "repaired"),
    ("rank-r1-7b", THOUGHT + "<answer>[3]</answer>", (2, 0, 1), "ok"),
    ("rank-r1-32b-v0.2", THOUGHT + "<answer>[2]</answer>", (1, 0, 2), "ok"),
    ("rank-r1-7b", THOUGHT + "<answer>the second</answer>", (0, 1, 2), "empty"),
    ("setwise-sft-3b", "<answer>[2]</answer>", (1, 0, 2), "ok"),
]


@pytest.mark.parametrize(("name", "text", "order", "status"), REPLIES)
def test_replies_are_read_in_the_form_in_which_the_model_writes_them(
    name: str, text: str, order: tuple[int, ...], status: str
) -> None:
    recipe = reranker_presets()[name].recipe
    prompt = load_prompt(recipe["prompt"])
    backend = Scripted(always(Reply(text=text)), GenerationTask, context_size=40_000)
    limits = Limits(thinking_tokens=recipe.get("thinking_tokens", 0))
    judge = open_judge(open_method(recipe["method"]).judge, backend, prompt, limits)
    (verdict,) = judge_windows(judge, [window("cats", "dogs", "fleas")])
    assert (verdict.order, verdict.status) == (order, status)
    assert backend.asked[0].sampling.thinking == recipe.get("thinking_tokens", 0)


TEXTS = ("Fleas live long.", "A castle has [2] towers.", "", "Fleas: a host, an egg.", "cats")
#: Preset -> class of the tiny model.
TINY = {
    "rank-zephyr-7b": "Mistral",
    "rank-vicuna-7b": "Llama",
    "first-mistral-7b": "Mistral",
    "rank-mistral-100": "Mistral",
    "rank1-7b": "Qwen2",
    "rank1-mistral-24b": "Mistral",
    "rank1-llama3-8b": "Llama",
    "limrank-7b": "Qwen2",
    "rank-r1-7b": "Qwen2",
    "rank-r1-32b-v0.2": "Qwen3",
    "setwise-sft-7b": "Qwen2",
    "reasonrank-7b": "Qwen2",
    "reasonrank-8b": "Qwen3",
    "rearank-7b": "Qwen2",
    "rank-k-32b": "Qwen2",
    "grouprank-7b": "Qwen2",
    "rankgpt-qwen2.5-7b": "Qwen2",
    "rankgpt-llama3.1-8b": "Llama",
}


def tiny(kind: str) -> Any:
    """A backend with a model of a class that has random weights."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.backends.conftest import in_memory, make_model, make_tokenizer

    tokenizer = make_tokenizer()
    tokenizer.add_tokens([" true", " false"])  # single tokens, as in the tokenizers of the real models
    return in_memory(make_model(kind, max_position_embeddings=8192, vocab_size=264), tokenizer)


@pytest.mark.parametrize(("name", "kind"), TINY.items())
def test_a_random_model_of_the_class_ranks_every_document(name: str, kind: str) -> None:
    from rerank.reranker import Reranker

    recipe = {**reranker_presets()[name].recipe, "context_size": None}
    if "thinking_tokens" in recipe:
        recipe["thinking_tokens"] = 6
    hits = Reranker.from_backend(tiny(kind), **recipe).rank(
        "how long do fleas live", [Document(id=f"d{at}", text=text) for at, text in enumerate(TEXTS)]
    )
    assert sorted(hit.document.id for hit in hits) == ["d0", "d1", "d2", "d3", "d4"]


def ask(backend: Any, name: str, count: int, thinking: int = 0) -> tuple[Request, Reply]:
    """The first request of a preset's judge about a window, and the model's reply."""
    recipe = reranker_presets()[name].recipe
    limits = Limits(thinking_tokens=thinking)
    judge = open_judge(open_method(recipe["method"]).judge, backend, load_prompt(recipe["prompt"]), limits)
    request = judge.make_requests(window(*TEXTS[:count]))[0]
    return request, backend.generate([request])[0]


def test_first_reads_the_logits_of_the_letters_after_the_bracket() -> None:
    torch = pytest.importorskip("torch")
    backend = tiny("Mistral")
    request, reply = ask(backend, "first-mistral-7b", 5)
    turns = [{"role": turn.role, "content": turn.content} for turn in request.prompt[:-1]]
    tokenizer = backend.tokens.tokenizer
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) + "["
    with torch.inference_mode():
        logits = backend.model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0, -1].log_softmax(-1)
    letters = tokenizer.convert_tokens_to_ids(list("ABCDE"))
    assert reply.scores == pytest.approx(logits[letters].tolist(), abs=1e-4)


@pytest.mark.parametrize("name", ["rank1-7b", "limrank-7b"])
@pytest.mark.parametrize(("thought", "closed"), [(" it is about fleas.</think>", True), (" it is about", False)])
def test_rank1_and_limrank_compare_true_and_false_after_the_thoughts(
    monkeypatch: pytest.MonkeyPatch, name: str, thought: str, closed: bool
) -> None:
    torch = pytest.importorskip("torch")
    from rerank.lm import local_tasks

    backend = tiny("Qwen2")
    tokens = backend.tokens
    monkeypatch.setattr(
        local_tasks,
        "decode_continuations",
        lambda model, prompts, *_, **__: [list(tokens.plain(thought))] * len(prompts),
    )
    request, reply = ask(backend, name, 1, thinking=64)
    assert request.task == ContinuationTask(continuations=(" true", " false"))
    assert reply.thoughts == thought.strip().removesuffix("</think>")
    (turn,) = request.prompt
    asked = "Determine if the following passage is relevant to the query. Answer only with 'true' or 'false'."
    assert turn.content == f"{asked}\nQuery: a question\nPassage: {TEXTS[0]}\n<think>"
    text = turn.content + thought + ("" if closed else "</think>")
    expected = []
    for word in request.task.continuations:
        ids, start = list(tokens.plain(text + word)), len(tokens.plain(text))
        with torch.inference_mode():
            logs = backend.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected.append(sum(float(logs[at - 1, ids[at]]) for at in range(start, len(ids))))
    assert reply.scores == pytest.approx(expected, abs=1e-3)
