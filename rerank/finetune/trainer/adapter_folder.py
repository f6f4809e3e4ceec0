"""The folder that a training leaves: weights, method, prompt, heads, recipe and card; and sending it to the hub.

Knows files, not how anything was trained.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.errors import BackendError, MissingResourceError
from rerank.evaluation import Comparison
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.adapter_card import card_text
from rerank.judges.attention.heads import BESIDE, HeadList, of_model
from rerank.models import MODELS
from rerank.models.trained import HEADS, PROMPT, SETTINGS, Trained
from rerank.prompts import prompt_text

_DRAFT = ".unfinished"


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What is written.

    Attributes:
        recipe: The recipe.
        asked: The method, opened.
        adapter: The adapter that was trained.
        readout: How heads are read; None where they are not.
        identity: Of the base model.
        tokenizer: The tokenizer, for adapters that leave a whole model.
        lists: How many lists were learnt from.
        outcome: Numbers of the training.
        comparison: First stage, untrained and trained model on the validation queries; None without validation.
    """

    recipe: Recipe
    asked: Any
    adapter: Any
    readout: Any
    identity: dict[str, str]
    tokenizer: Any
    lists: int
    outcome: dict[str, Any]
    comparison: Comparison | None


def _heads(readout: Any, model: dict[str, str]) -> HeadList:
    pairs = sorted(zip(readout.heads, readout.weights.tolist(), strict=True), key=lambda pair: -pair[1])
    weights = tuple(round(weight, 6) for _, weight in pairs) if len({weight for _, weight in pairs}) > 1 else ()
    return HeadList(
        heads=tuple(head for head, _ in pairs),
        model=model,
        method="trained",
        weights=weights,
        length_power=round(float(readout.power.detach()), 4),
    )


def draft_heads(folder: Path, readout: Any, identity: Any) -> Path:
    """The heads as they are now, in a file for the judge of a validation."""
    path = folder / "heads.now.json"
    _heads(readout, of_model(identity)).write(path)
    return path


def base_name(model: str) -> str:
    """What a base model is called where others look for it: its id on the hub, if it has one."""
    return MODELS[model].hub_id if model in MODELS else model


def write_adapter(saved: Saved, model: Any, folder: Path) -> None:
    """Write everything beside its place first, so that nothing is ever half there; the settings come last."""
    draft = folder / _DRAFT / "adapter"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    saved.adapter.save(model, draft)
    config = draft / "adapter_config.json"
    if config.is_file():
        content = json.loads(config.read_text(encoding="utf-8"))
        content["base_model_name_or_path"] = base_name(saved.recipe.model)
        config.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    else:
        saved.tokenizer.save_pretrained(draft)
    (draft / PROMPT).write_text(prompt_text(saved.asked.prompt), encoding="utf-8")
    (draft / "README.md").write_text(card_text(saved), encoding="utf-8")
    table = saved.recipe.method
    method, kind = table.method, "adapter" if saved.adapter.saves == "adapter" else "weights"
    if saved.readout is not None and saved.asked.method.judge == "attention":
        model = of_model(saved.identity)
        if kind == "weights":  # a whole model is no commit of its base any more
            model.pop("revision", None)
        _heads(saved.readout, model | {kind: BESIDE}).write(draft / HEADS)
        method = f"{method},heads={HEADS}"
    Trained(
        model=saved.recipe.model,
        method=method,
        revision=saved.recipe.revision,
        min_passage_tokens=table.min_passage_tokens,
        max_passage_tokens=table.max_passage_tokens,
        context_size=table.context_size,
    ).write(draft)
    for path in sorted(draft.iterdir(), key=lambda path: path.name == SETTINGS):
        os.replace(path, folder / path.name)
    (folder / "heads.now.json").unlink(missing_ok=True)
    shutil.rmtree(folder / _DRAFT, ignore_errors=True)


def push_to_hub(folder: Path, repository: str, *, private: bool = True) -> str:
    """Send an adapter's folder to the hub, without checkpoints and logs; the token is the environment's.

    Args:
        folder: What `write_adapter` left.
        repository: ``owner/name``; made if it is not there.
        private: Whether a new one is private.

    Returns:
        Its address.

    Raises:
        MissingResourceError: The folder holds no trained adapter.
        BackendError: The hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not (folder / SETTINGS).is_file():
        raise MissingResourceError(
            f"{str(folder)!r} holds no trained adapter", expected=f"the folder of a finished training, with {SETTINGS}"
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
            f"The hub did not take {repository!r}: {error}", remedy="Check HF_TOKEN and the name"
        ) from error
    return address
