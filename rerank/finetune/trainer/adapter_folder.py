"""Functions that write an adapter folder (weights, method, prompt, heads and model card) and upload it to the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rerank.errors import BackendError, MissingResourceError
from rerank.finetune.inspection.checkpoint_reader import CheckpointReader
from rerank.finetune.inspection.weight_changes import is_plain_lora
from rerank.finetune.trainer.adapter_card import AdapterDescription, base_model_name_for_card, render_adapter_card
from rerank.io.atomic_folder import fill_folder
from rerank.io.model_base import ModelBinding
from rerank.judges.attention.heads import BESIDE, HeadList, model_identity
from rerank.models.adapters import HEADS, PROMPT, SETTINGS, AdapterSettings
from rerank.prompts import prompt_text

#: File with the attention heads and their current weights; the judge reads it during a validation.
_CURRENT_HEADS = "heads.now.json"


def _trained_readout_head_list(readout: Any, model: dict[str, str]) -> HeadList:
    pairs = sorted(zip(readout.heads, readout.weights.tolist(), strict=True), key=lambda pair: -pair[1])
    weights = tuple(round(weight, 6) for _, weight in pairs) if len({weight for _, weight in pairs}) > 1 else ()
    return HeadList(
        heads=tuple(head for head, _ in pairs),
        model=model,
        method="trained",
        weights=weights,
        length_power=round(float(readout.power.detach()), 4),
    )


def write_current_head_list(folder: Path, readout: Any, identity: Any) -> Path:
    """Write the current head weights to a file that the judge reads during a validation, and return its path."""
    path = folder / _CURRENT_HEADS
    _trained_readout_head_list(readout, model_identity(identity)).write(path)
    return path


def write_adapter(description: AdapterDescription, model: Any, folder: Path) -> None:
    """Write all files of an adapter; the settings are written last, so a folder that contains them is complete.

    Args:
        description: All information except the weights.
        model: The trained model.
        folder: Output folder of the training.
    """
    with fill_folder(folder, last=SETTINGS) as draft:
        _write_adapter_files(description, model, draft)
    (folder / _CURRENT_HEADS).unlink(missing_ok=True)


def _write_adapter_files(description: AdapterDescription, model: Any, draft: Path) -> None:
    description.adapter.save(model, draft)
    config = draft / "adapter_config.json"
    if config.is_file():
        adapter = description.adapter
        if adapter.shape == "lora" and not adapter.moves_base and description.identity["dtype"] == "bfloat16":
            _round_plain_lora(draft)
        content = json.loads(config.read_text(encoding="utf-8"))
        content["base_model_name_or_path"] = base_model_name_for_card(description.recipe.model)
        config.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    else:
        description.tokenizer.save_pretrained(draft)
    (draft / PROMPT).write_text(prompt_text(description.setup.prompt), encoding="utf-8")
    (draft / "README.md").write_text(render_adapter_card(description), encoding="utf-8")
    if config.is_file() and description.base:
        weights = description.identity.get("weights") or description.identity["revision"]
        ModelBinding(base=description.base, weights={weights: "the weights of the training"}).write(draft)
    table = description.recipe.method
    method, kind = table.method, "adapter" if description.adapter.saves == "adapter" else "weights"
    if description.readout is not None and description.setup.method.judge.name == "attention":
        model = model_identity(description.identity)
        if kind == "weights":  # a complete model is not a revision of its base model
            model.pop("revision", None)
        _trained_readout_head_list(description.readout, model | {kind: BESIDE}).write(draft / HEADS)
        method = f"{method},heads={HEADS}"
    AdapterSettings(
        model=description.recipe.model,
        method=method,
        revision=description.recipe.revision,
        min_passage_tokens=table.min_passage_tokens,
        max_passage_tokens=table.max_passage_tokens,
        context_size=table.context_size,
    ).write(draft)


def _round_plain_lora(folder: Path) -> None:
    """Convert the factors of a plain LoRA to bfloat16, which halves the file.

    A model in bfloat16 converts them anyway when it loads them. Variants that compute more than the product of the
    factors, such as the norms of DoRA, need float32 and are left as they are.
    """
    from peft import PeftConfig
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    if is_plain_lora(CheckpointReader(path), PeftConfig.from_pretrained(str(folder))):
        tensors = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})


def push_adapter_to_hub(folder: Path, repository: str, *, private: bool = True) -> str:
    """Upload an adapter folder without checkpoints and logs, with the hub token from the environment.

    Args:
        folder: A folder written by `write_adapter`.
        repository: ``owner/name``; created if it does not exist.
        private: Whether a new repository is private; an existing repository keeps its visibility.

    Returns:
        URL of the repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not (folder / SETTINGS).is_file():
        raise MissingResourceError(
            f"{str(folder)!r} contains no trained adapter",
            expected=f"the folder of a completed training, with {SETTINGS}",
        )
    api = HfApi()
    try:
        address = str(api.create_repo(repository, private=private, exist_ok=True))
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=["*.json", "*.safetensors", "*.yaml", "*.md", "*.jinja", "*.txt"],
            ignore_patterns=["checkpoints/*", "best/*", "tensorboard/*"],
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise BackendError(
            f"The upload to {repository!r} failed: {error}", remedy="Check HF_TOKEN and the name of the repository"
        ) from error
    return address
