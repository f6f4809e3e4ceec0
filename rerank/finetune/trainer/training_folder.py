"""The folder of a training: recipe, checkpoints, result, and the trained adapter with its model card; its upload."""

import errno
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank.errors import (
    BackendError,
    DataError,
    MissingResourceError,
    RerankError,
    StorageError,
    UsageError,
    ensure,
    error_repr,
)
from rerank.evaluation import Comparison
from rerank.evaluation.scores import format_p_value
from rerank.finetune.inspection.checkpoints import ADAPTER_WEIGHTS, CheckpointReader, is_plain_lora
from rerank.finetune.labels.hub import pin_hub_datasets
from rerank.finetune.recipe import ComponentTable, Recipe
from rerank.finetune.trainer import processes
from rerank.installation import check_modules
from rerank.io.atomic_folder import fill_folder
from rerank.io.file_hashes import file_hash
from rerank.io.file_systems import check_only_files
from rerank.io.model_base import ModelBase, ModelBinding
from rerank.io.settings_files import read_json_object
from rerank.io.text_files import replace_text_file
from rerank.judges.attention.heads import BESIDE, HeadList, model_identity
from rerank.models import MODELS
from rerank.models.adapters import HEADS, PROMPT, SETTINGS, AdapterSettings
from rerank.prompts import prompt_text

#: Names of files and folders in the training folder.
METRICS, CHECKPOINTS = "metrics.jsonl", "checkpoints"
_RECIPE, _RESULT, _DATASETS = "recipe.json", "result.json", "datasets.json"
_CHECKSUMS = "checksums.json"
#: Parts of the messages by which torch and safetensors report a full or failing disk.
_DISK = ("write", "No space", "I/O", os.strerror(errno.ENOSPC))


@dataclass(frozen=True, slots=True)
class TrainingFolder:
    """The folder in which a training stores its recipe and its result; only the main process writes."""

    path: Path
    recipe: Recipe

    def is_complete(self, *, resume: bool) -> bool:
        """Return whether the folder contains the result of this training, so that nothing remains to be done."""
        path, result = self.path / _RECIPE, self.path / _RESULT
        check_only_files(self.path)  # torch and transformers would write through links
        if not processes.is_main():
            return result.is_file()
        if not path.is_file():
            others = [entry for entry in self.path.iterdir() if entry.name[0] != "."] if self.path.is_dir() else []
            ensure(
                {entry.name for entry in others} <= {_DATASETS},
                f"{str(self.path)!r} exists and is not the folder of a training",
                expected="a new or empty folder",
                remedy="Choose another --out",
            )
            return False
        # Both are parsed as recipes, so that a file written before a field was added compares equal.
        before = Recipe.make(read_json_object(path, "recipe"))
        now = Recipe.make(json.loads(self.recipe.model_dump_json()))
        if changed := [name for name in Recipe.model_fields if getattr(before, name) != getattr(now, name)]:
            raise UsageError(
                f"{str(self.path)!r} contains a training with another recipe, which differs in {', '.join(changed)}",
                expected="an empty folder, or the folder of a training with the same recipe",
                remedy="Choose another --out",
            )
        ensure(
            resume,
            f"{str(self.path)!r} already contains this training",
            expected="an empty folder",
            remedy="Continue it with --resume, or choose another --out",
        )
        if result.is_file() and (damage := find_damage(self.path)):
            raise DataError(
                f"The training in {str(self.path)!r} has finished, but {damage}",
                expected="the files that it wrote",
                remedy=f"Restore the file, or remove {_RESULT} and {_CHECKSUMS}, and pass --resume to finish again",
            )
        return result.is_file()

    def write_recipe(self, datasets: Mapping[str, str]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        if processes.is_main() and not (self.path / _RECIPE).is_file():
            if datasets:
                self._write(_DATASETS, json.dumps(datasets, indent=1))
            self._write(_RECIPE, self.recipe.model_dump_json(indent=1))

    def _write(self, name: str, text: str) -> None:
        with replace_text_file(self.path / name) as file:
            file.write(text + "\n")

    def pin_datasets(self) -> dict[str, str]:
        """Map the selector of each hub data set in the recipe to the same selector with a fixed commit.

        A resumed training keeps the commits with which it started.
        """
        if (path := self.path / _DATASETS).is_file():
            return read_json_object(path, "data sets of the training")
        table = self.recipe.validation
        return pin_hub_datasets([*self.recipe.data.lists, *(table.lists if table else ())])

    def read_result(self) -> dict[str, Any]:
        return read_json_object(self.path / _RESULT, "result of the training")

    def write_result(self, outcome: Mapping[str, Any]) -> None:
        """Store the result, which marks the training as complete."""
        self._write(_RESULT, json.dumps(outcome, indent=1))
        write_checksums(self.path)


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of all files in a folder, except of its model card, which users edit."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    hashes = {name: file_hash(folder / name) for name in names if name not in (_CHECKSUMS, "README.md")}
    with replace_text_file(folder / _CHECKSUMS) as file:
        file.write(json.dumps({"sha256": hashes}, indent=1) + "\n")


def find_damage(folder: Path) -> str:
    """Describe a file that differs from its checksum; empty if none does, or if an older version wrote the folder."""
    if not (folder / _CHECKSUMS).is_file():
        return ""
    try:
        hashes = read_json_object(folder / _CHECKSUMS, "list of checksums")["sha256"]
        changed = [name for name, sha in hashes.items() if file_hash(folder / name) != sha]
    except (RerankError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"a file cannot be read: {error}"
    return f"{changed[0]} was changed after it was written" if changed else ""


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a training, the oldest first."""
    paths = (folder / CHECKPOINTS).glob("checkpoint-*") if folder.is_dir() else ()
    return sorted((path for path in paths if path.name[11:].isdecimal()), key=lambda path: int(path.name[11:]))


def find_last_checkpoint(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint, and warn of damaged ones; None if there are no checkpoints.

    Raises:
        DataError: All checkpoints are damaged.
    """
    damaged: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        if not (damage := find_damage(path)):
            if damaged:
                warnings.warn(f"{damaged[0]}; the earlier {path.name} is used", stacklevel=2)
            return path
        damaged.append(f"{path} is damaged: {damage}")
    if damaged:
        raise DataError(
            f"No checkpoint is intact: {damaged[0]}",
            expected="at least one undamaged checkpoint",
            remedy="Restore one, or remove the folder checkpoints and pass --resume to start from the beginning",
        )
    return None


@contextmanager
def storage_errors() -> Iterator[None]:
    """Convert errors of a full or failing disk into a `StorageError`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a failing disk with their own error classes, so the message is examined.
        if not isinstance(error, OSError) and not any(word in str(error) for word in _DISK):
            raise
        raise StorageError(
            f"Files of the training cannot be written: {error}",
            remedy="Free disk space, then continue with --resume; earlier checkpoints are intact",
        ) from error


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
    check_modules("--push", ("huggingface_hub",), "train")
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
