"""Adapters that vLLM would die of are refused from their settings alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rerank.backends.vllm.engine import required_rank
from rerank.errors import DataError, MissingResourceError, UsageError
from tests.raising import raises

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}


def folder(tmp_path: Path, **settings: Any) -> Path:
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
    assert required_rank(folder(tmp_path, **settings)) == rank


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
        required_rank(folder(tmp_path, **settings))
    assert "--model hf:" in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"r": null}', '{"r": 8, "rank_pattern": 3}'])
def test_a_file_that_describes_no_adapter(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with raises(DataError, "adapter_config"):
        required_rank(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with raises(MissingResourceError, "adapter_config"):
        required_rank(tmp_path)
