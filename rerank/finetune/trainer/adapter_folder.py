"""The folder of a trained adapter: weights, method, prompt, heads and model card; and its upload to the hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.errors import BackendError, MissingResourceError, UsageError, ensure, error_repr
from rerank.evaluation import Comparison
from rerank.evaluation.scores import format_p_value
from rerank.finetune.inspection.checkpoints import ADAPTER_WEIGHTS, CheckpointReader
from rerank.finetune.inspection.weight_changes import is_plain_lora
from rerank.finetune.recipe import ComponentTable, Recipe
from rerank.io.atomic_folder import fill_folder
from rerank.io.model_base import ModelBase, ModelBinding
from rerank.judges.attention.heads import BESIDE, HeadList, model_identity
from rerank.models import MODELS
from rerank.models.adapters import HEADS, PROMPT, SETTINGS, AdapterSettings
from rerank.prompts import prompt_text

#: File with the attention heads and their current weights; the judge reads it during a validation.
_CURRENT_HEADS = "heads.now.json"


@dataclass(frozen=True, kw_only=True)
class AdapterDescription:
    """All information from which the files of an adapter folder are written, except the weights."""

    recipe: Recipe
    setup: Any  #: The `rerank.assemble.RankerSetup` for the method named in the recipe.
    adapter: Any  #: The adapter component.
    readout: Any  #: The weights of attention heads, an `AttentionScorer`; None if no loss uses attention.
    identity: dict[str, str]  #: Identity of the base model, as its backend reports it.
    base: ModelBase | None  #: The base model if its id on the hub is known.
    tokenizer: Any  #: Also saved if the folder contains a complete model.
    lists: int  #: Number of training lists.
    outcome: dict[str, Any]  #: Results of the training, with the fields of ``result.json``.
    #: Comparison of first stage, untrained and trained model on the validation queries; None without validation.
    comparison: Comparison | None


def write_adapter(description: AdapterDescription, model: Any, folder: Path) -> None:
    """Write all files of an adapter; the settings are written last, so a folder that contains them is complete."""
    recipe, adapter = description.recipe, description.adapter
    with fill_folder(folder, last=SETTINGS) as draft:
        adapter.save(model, draft)
        config = draft / "adapter_config.json"
        if config.is_file():
            if adapter.shape == "lora" and not adapter.moves_base and description.identity["dtype"] == "bfloat16":
                _round_plain_lora(draft)
            content = json.loads(config.read_text(encoding="utf-8"))
            content["base_model_name_or_path"] = hub_id(recipe.model)
            config.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8", newline="\n")
        else:
            description.tokenizer.save_pretrained(draft)
        (draft / PROMPT).write_text(prompt_text(description.setup.prompt), encoding="utf-8", newline="\n")
        (draft / "README.md").write_text(render_card(description), encoding="utf-8", newline="\n")
        if config.is_file() and description.base:
            weights = description.identity.get("weights") or description.identity["revision"]
            ModelBinding(base=description.base, weights={weights: "the weights of the training"}).write(draft)
        table = recipe.method
        method, kind = table.method, "adapter" if adapter.saves == "adapter" else "weights"
        if description.readout is not None and description.setup.method.judge.name == "attention":
            identity = model_identity(description.identity)
            if kind == "weights":  # a complete model is not a revision of its base model
                identity.pop("revision", None)
            _head_list(description.readout, identity | {kind: BESIDE}).write(draft / HEADS)
            method = f"{method},heads={HEADS}"
        AdapterSettings(
            model=recipe.model,
            method=method,
            revision=recipe.revision,
            min_passage_tokens=table.min_passage_tokens,
            max_passage_tokens=table.max_passage_tokens,
            context_size=table.context_size,
        ).write(draft)
    (folder / _CURRENT_HEADS).unlink(missing_ok=True)


def write_current_heads(folder: Path, readout: Any, identity: Any) -> Path:
    """Write the current head weights to a file that the judge reads during a validation, and return its path."""
    path = folder / _CURRENT_HEADS
    _head_list(readout, model_identity(identity)).write(path)
    return path


def _head_list(readout: Any, model: dict[str, str]) -> HeadList:
    pairs = sorted(zip(readout.heads, readout.weights.tolist(), strict=True), key=lambda pair: -pair[1])
    return HeadList(
        heads=tuple(head for head, _ in pairs),
        model=model,
        method="trained",
        weights=tuple(round(weight, 6) for _, weight in pairs) if len({weight for _, weight in pairs}) > 1 else (),
        length_power=round(float(readout.power.detach()), 4),
    )


def _round_plain_lora(folder: Path) -> None:
    """Convert the factors of a plain LoRA to bfloat16, which halves the file.

    A model in bfloat16 converts them anyway. Variants that compute more than the product, such as DoRA, need float32.
    """
    from peft import PeftConfig
    from safetensors.torch import load_file, save_file

    path = folder / ADAPTER_WEIGHTS
    if is_plain_lora(CheckpointReader(path), PeftConfig.from_pretrained(str(folder))):
        tensors = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})


def check_hub_repository(repository: str) -> None:
    """Check before a training that its adapter can be uploaded: the name is valid, and there is a token."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        expected = "OWNER/NAME, of letters, digits, '-', '_' and '.'"
        raise UsageError(f"{error_repr(repository)} is no name of a repository", expected=expected) from error
    ensure(get_token(), f"No token allows the upload to {repository!r}", remedy="Set HF_TOKEN, or omit --push")


def push_adapter_to_hub(folder: Path, repository: str, *, private: bool = True) -> str:
    """Upload an adapter folder without checkpoints and logs, with the hub token from the environment; return its URL.

    The ``repository`` is created if it does not exist, as ``private``; an existing one keeps its visibility.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    ensure(
        (folder / SETTINGS).is_file(),
        f"{str(folder)!r} contains no trained adapter",
        expected=f"the folder of a completed training, with {SETTINGS}",
        error=MissingResourceError,
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


def hub_id(model: str) -> str:
    """Return the hub id of a base model whose name `rerank models` lists; return any other name unchanged."""
    return MODELS[model].hub_id if model in MODELS else model


def render_card(description: AdapterDescription) -> str:
    """Return the model card in Markdown, with the metadata header that the Hugging Face hub reads."""
    recipe, outcome = description.recipe, description.outcome
    is_adapter, base = description.adapter.saves == "adapter", hub_id(recipe.model)
    library = "peft" if is_adapter else "transformers"
    if description.setup.method.backend == "cross_encoder":
        library = "sentence-transformers"
    header = {"base_model": base, "library_name": library, "tags": ["reranking", "information-retrieval", "listrank"]}
    losses = ", ".join(
        f"{loss.name} on {loss.on}" if "on" in loss.model_fields_set else loss.name for loss in recipe.losses
    )
    held_out = outcome["validation"].get("held-out loss")
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in header.items()),
        "---",
        "",
        f"# A reranker based on {base}",
        "",
        f"Trained with listrank for the method `{recipe.method.method}`. The folder contains the prompt, the method "
        "and the token budget of the training, so this command is sufficient to use it:",
        "",
        f"    rerank run --collection COLLECTION --{'adapter' if is_adapter else 'model'} FOLDER",
        "",
        "## Results",
        "",
        *_results(description.comparison, recipe),
        "",
        "## Training",
        "",
        f"- Adapter: {_with_options(recipe.adapter)}, {outcome['trainable']:,} trained parameters",
        f"- Optimizer: {_with_options(recipe.optimizer)}, learning rate {recipe.optimizer.lr:g}",
        f"- Objective: {_with_options(recipe.objective)}"
        if recipe.objective
        else f"- Loss: {losses}; mean over the last steps {outcome['loss']:.4f}",
        f"- Lists: {description.lists}, with at most {recipe.data.documents} documents each; {outcome['steps']} steps "
        f"of {recipe.training.batch_size * recipe.training.accumulation} lists; seed {recipe.seed}",
        *([] if held_out is None else [f"- Loss on held-out lists: {held_out:.4f}"]),
        *(f"- Data set: `{selector}`" for selector in outcome.get("datasets", {}).values()),
        "",
        "`recipe.json` holds the complete recipe.",
        "",
    ]
    return "\n".join(lines)


def _with_options(component: ComponentTable) -> str:
    options = ", ".join(f"{key}={value}" for key, value in component.options.items())
    return f"{component.name} ({options})" if options else component.name


def _results(comparison: Comparison | None, recipe: Recipe) -> list[str]:
    table = recipe.validation
    if comparison is None or table is None:
        return ["Not measured: the recipe has no validation collection."]
    note = (
        " The checkpoint was selected on these queries, so the values are optimistic; report results on other queries"
    )
    return [
        f"On {comparison.queries} queries of `{table.collection}`, with {table.depth} candidates of "
        f"{table.first_stage}.{'' if table.measure == 'loss' else f'{note}.'}",
        "",
        f"| run | {comparison.measure} |",
        "| --- | --- |",
        *(f"| {run.run} | {run.mean:.4f} [{run.low:.4f}, {run.high:.4f}] |" for run in comparison.runs),
        "",
        f"Paired t-test, Holm correction, significance level {comparison.alpha:g}:",
        "",
        *(
            f"- {pair.b} against {pair.a}: {-pair.difference:+.4f}, p = {format_p_value(pair.p_adjusted)}"
            + (" (significant)" if pair.significant else " (not significant)")
            for pair in comparison.pairs
        ),
    ]
