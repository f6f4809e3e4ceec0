"""The local files of a model: a folder of the user, or one commit of a repository in the cache of the hub's client.

A model on the hub is resolved to a commit first, and the folder of that commit is loaded. So the name of a branch,
which moves, is read only once, and the identity of a model always names the weights that were used.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rerank.errors import DataError, MissingResourceError, RerankError, UsageError, error_repr
from rerank.io.model_base import (
    MODULES,
    ModelBase,
    hash_encoder_folder,
    hash_file_contents_of_model,
    listed_module_classes,
    listed_modules,
    module_folders,
)
from rerank.io.settings_files import read_json_object, try_read_json_object
from rerank.lm.hub_snapshots import fetch_snapshot

#: File that is written last into a folder that this package downloaded, and states the source.
MARKER = "rerank-source.json"
#: Files that describe a model: configuration, tokenizer and its chat templates, settings of an adapter or of ColBERT.
_DESCRIPTION = (
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.codes",
    "*.tokenizer",
    "*.spm",
    "*.yaml",
    "*.metadata",
)
#: Files with a vocabulary, one of which every tokenizer has, except for those of models that read bytes.
_VOCABULARIES = ("tokenizer.json", "*vocab*", "*.model", "*.tiktoken", "*.codes", "*.tokenizer", "spm.*")
_WITHOUT_VOCABULARY = ("byt5", "canine", "perceiver")
_TEMPLATES = "additional_chat_templates/*"
_CODE = "*.py"
_WEIGHTS = "*.safetensors"
#: Names under which sentence-transformers and PyLate save multi-vector models.
_MULTI_VECTOR_TYPES = {"MultiVectorEncoder", "ColBERT"}
_MODULE_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
#: Weights at the top of a repository that its model does not use.
_IGNORED = ("consolidated*", "*.fp16.safetensors")
#: Folder names in the cache of huggingface_hub: ``models--OWNER--NAME/snapshots/COMMIT``.
_CACHE_PREFIX, _SNAPSHOTS = "models--", "snapshots"

#: Commits that were resolved inside `one_commit_per_model`, or why this failed, by hub id and revision; None outside.
_resolved: ContextVar[dict[tuple[str, str], str | RerankError] | None] = ContextVar("resolved", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """The files of a model on this machine."""

    folder: Path  # the folder that is loaded
    hub_id: str = ""  # id of the model on the hub; empty if the origin of the folder is not known
    commit: str = ""  # the commit if the folder is in the cache of the hub's client; empty for other folders

    @property
    def name(self) -> str | Path:
        """The name by which `locate_model` finds the model again: its id on the hub, or the folder."""
        return self.hub_id if self.commit else self.folder

    @property
    def base(self) -> ModelBase | None:
        """The published model whose weights these are; None if its id on the hub is not known."""
        return ModelBase.read(self.folder, self.hub_id)

    @property
    def config(self) -> dict[str, Any]:
        """The content of ``config.json``; empty if it cannot be read, which the loader reports."""
        return try_read_json_object(self.folder / "config.json")

    @property
    def classes(self) -> list[str]:
        """The names of the classes that the configuration states, which saved the weights; often empty or one."""
        stated = self.config.get("architectures")
        return [str(name) for name in stated] if isinstance(stated, list) else []

    def check_generates(self) -> None:
        """Check that the stated class is not one that generates no text, such as an encoder or a classifier.

        Transformers opens many of these as language models, with an output head that is random or was not
        trained.
        """
        if not (self.folder / "config.json").is_file() and (self.folder / "adapter_config.json").is_file():
            adapter = try_read_json_object(self.folder / "adapter_config.json")
            raise UsageError(
                f"Model {str(self)!r} contains only an adapter",
                expected="a model",
                remedy=f"Use --model {adapter.get('base_model_name_or_path') or 'BASE_MODEL'} --adapter {self}",
            )
        has_own_code = "AutoModelForCausalLM" in (self.config.get("auto_map") or ())
        # The names of encoders, decoders without a head, and classifiers.
        others = r".*(ForMaskedLM|Classification|ForRanking|ForRetrieval|ColBERT|(?<!Head)(?<!Heads)Model)"
        if self.classes and not has_own_code and all(re.fullmatch(others, name) for name in self.classes):
            raise UsageError(
                f"Model {str(self)!r} has the class {' or '.join(self.classes)}, which generates no text",
                expected="a language model for this method",
                remedy="It is a multi-vector model: omit --method and --adapter"
                if self.is_multi_vector
                else remedy_for_class(self.classes),
            )

    def check_class(self, name: str, example: str) -> None:
        if name not in self.classes:
            raise UsageError(
                f"Model {str(self)!r} is a {' or '.join(self.classes) or 'model of unknown class'}",
                expected=f"a model of the class {name}, such as {example}",
                remedy="Use --method auto, or another method",
            )

    def check_tokenizer(self) -> None:
        """Check that the folder has a tokenizer; without one, transformers may make one that makes all texts equal."""
        if self.config.get("model_type") in _WITHOUT_VOCABULARY:
            return
        names = {path.name for path in self.folder.rglob("*")}
        if not any(fnmatch(name, pattern) for name in names for pattern in _VOCABULARIES):
            raise MissingResourceError(
                f"Model {str(self)!r} has no tokenizer",
                expected="tokenizer.json, or the vocabulary of a tokenizer, beside config.json",
                remedy="Copy all files of the model, or save its tokenizer into the folder",
            )

    def check_formats(self, listed: Collection[str] = ()) -> None:
        """Check that this is a model with weights in safetensors, of which no file is missing.

        ``listed`` are the names of all files of a repository on the hub, of which the folder may have only a part.
        """
        names = set(listed) or {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")}
        places = set(listed_modules(self.folder))  # "" is the folder itself
        weights = {name for name in names if name.endswith(".safetensors") and name.rpartition("/")[0] in places}
        if not weights or all(fnmatch(name, pattern) for name in weights for pattern in _IGNORED[:1]):
            raise self._no_weights(names, is_complete=bool(listed) or not self.commit)
        if not names & {"config.json", "adapter_config.json", MODULES}:
            raise MissingResourceError(
                f"{str(self)!r} is not a model of transformers: it has no config.json",
                expected="config.json, safetensors weights and a tokenizer",
                remedy="Check the name; models for other programs have to be served by them",
            )
        for index in self.folder.glob("*.safetensors.index.json"):
            parts = try_read_json_object(index).get("weight_map")
            split = set(map(str, parts.values())) if isinstance(parts, dict) else set[str]()
            there = names | {path.name for path in self.folder.glob(_WEIGHTS)}
            if missing := sorted(split - there):
                raise DataError(
                    f"Model {str(self)!r} lacks {len(missing)} of the {len(split)} files of its weights: {missing[0]}",
                    expected=f"the files that {index.name} lists",
                    remedy="Use another --revision: the repository is incomplete" if listed else "Copy them, too",
                )

    def _no_weights(self, names: Collection[str], *, is_complete: bool) -> RerankError:
        def first(*patterns: str) -> str:
            return next((name for name in sorted(names) if any(fnmatch(name, pattern) for pattern in patterns)), "")

        if name := first("*.bin", "*.pt", "*.pth"):
            return DataError(
                f"Model {str(self)!r} has only pickled weights ({name})",
                expected="safetensors, because loading a pickle can run code",
                remedy="Use a revision or a copy with safetensors; if you trust the file, save_pretrained of "
                "transformers converts it",
            )
        if name := first("*.gguf"):
            return DataError(
                f"Model {str(self)!r} has only GGUF files ({name})",
                expected="weights in safetensors",
                remedy="Use the model from which they were made, or serve them with llama.cpp or Ollama and pass "
                "--model openai:NAME --base-url URL",
            )
        return MissingResourceError(
            f"Model {str(self)!r} has no weights",
            expected="at least one .safetensors file beside config.json",
            remedy="Check the name, and whether all files were copied"
            if is_complete
            else f"Download all files: rerank models pull {self.hub_id}, with a network and without HF_HUB_OFFLINE",
        )

    @property
    def is_library_cross_encoder(self) -> bool:
        """Whether sentence-transformers saved the model as a cross-encoder made of modules."""
        saved = try_read_json_object(self.folder / "config_sentence_transformers.json")
        return saved.get("model_type") == "CrossEncoder" and (self.folder / MODULES).is_file()

    @property
    def is_multi_vector(self) -> bool:
        """Whether the model was trained to represent a text by one vector per token.

        Such models are those saved by sentence-transformers or PyLate, the ColBERT models of Stanford, and the
        retrieval classes of transformers, as in ``MultiVectorEncoder._load_default_modules``.
        """
        saved = try_read_json_object(self.folder / "config_sentence_transformers.json")
        return saved.get("model_type") in _MULTI_VECTOR_TYPES or any(
            kind == "HF_ColBERT" or kind.endswith("ForRetrieval") for kind in self.classes
        )

    def check_modules(self, *, code: bool) -> None:
        """Check the modules that the folder lists, and their files: classes of the library unless ``code`` may run."""
        foreign = [name for name in listed_module_classes(self.folder) if not name.startswith("sentence_transformers.")]
        if foreign and not code:
            raise UsageError(
                f"Model {str(self)!r} has a module of the class {foreign[0]}, which is code outside this library",
                expected="modules of sentence-transformers",
                remedy="If you have read this code and trust it, pass --trust-remote-code",
            )
        self.check_module_files(code=code)

    def check_module_files(self, *, code: bool) -> None:
        """Check the files of all modules: objects as settings, no pickles, and activation functions of torch.

        Sentence-transformers reads an empty value as its defaults, and replaces other activation functions by Tanh,
        unless ``code`` may run.
        """
        for name in module_folders(self.folder):
            for path in sorted((self.folder / name).glob("*config*.json")):
                settings = read_json_object(path, "settings of a module")
                activation = settings.get("activation_function", "torch.")
                if "in_features" in settings and not (code or str(activation).startswith("torch.")):  # a dense layer
                    raise UsageError(
                        f"{str(path)!r} has the activation function {error_repr(activation)}",
                        expected="a class of torch",
                        remedy="If the model has code that you have read and trust, pass --trust-remote-code",
                    )
            files = [path for path in sorted((self.folder / name).iterdir()) if path.suffix in _MODULE_WEIGHTS]
            if files and all(path.suffix != ".safetensors" for path in files):
                raise DataError(
                    f"Model {str(self)!r} has only pickled weights in {Path(name, files[0].name).as_posix()}",
                    expected="safetensors, because loading a pickle can run code",
                    remedy="If you trust the file, save the model again with sentence-transformers",
                )

    @property
    def identity(self) -> dict[str, str]:
        """Name and exact weights: ``model``, and ``revision`` (commit on the hub) or ``weights`` (hash of a folder)."""
        if self.commit:
            return {"model": self.hub_id, "revision": self.commit}
        has_folders = self.is_library_cross_encoder and module_folders(self.folder) != [""]  # such as that of a head
        digest = hash_encoder_folder if has_folders else hash_file_contents_of_model
        return {"model": self.folder.name, "weights": digest(self.folder)}

    def __str__(self) -> str:
        return str(self.name)


def remedy_for_class(classes: Sequence[str]) -> str:
    """Return how a model of these classes can be used, for messages about a model that was opened as another class."""
    if any(name.endswith("ForSequenceClassification") for name in classes):
        return "Use --method cross-encoder"
    if any(name.endswith("ForConditionalGeneration") for name in classes):
        return "If the model was trained like monoT5, use --method monot5"
    return "Use an embedding model in a first stage, --first-stage dense:NAME, and a SPLADE model as sparse:NAME"


def cached_snapshot(folder: Path) -> ModelFiles:
    """Return the files in a folder, with hub id and commit if the path is that of a commit in the hub's cache."""
    parts = folder.absolute().parts
    if len(parts) >= 3 and parts[-3].startswith(_CACHE_PREFIX) and parts[-2] == _SNAPSHOTS:
        name = parts[-3].removeprefix(_CACHE_PREFIX).replace("--", "/")
        return ModelFiles(folder=folder, hub_id=name, commit=parts[-1])
    return ModelFiles(folder=folder)


@contextmanager
def one_commit_per_model() -> Iterator[None]:
    """Resolve the name of each model on the hub only once inside the block, even if its branch moves meanwhile."""
    if _resolved.get() is not None:
        yield
        return
    token = _resolved.set({})
    try:
        yield
    finally:
        _resolved.reset(token)


def locate_model(name: str | Path, revision: str = "", *, weights: bool = True, code: bool = False) -> ModelFiles:
    """Return the local files of a model, after downloading those that are missing if it is on the hub.

    ``revision`` is a branch, tag or commit on the hub; it is ignored for a folder. Without ``weights``, only the
    files that describe the model are needed.
    """
    if Path(name).is_dir():
        source = try_read_json_object(Path(name) / MARKER)
        hub_id = source.get("hub_id") or (source.get("id") if source.get("source") == "hub" else "")
        return ModelFiles(folder=Path(name), hub_id=str(hub_id or ""))
    resolved, asked = _resolved.get(), (str(name), revision)
    resolved = {} if resolved is None else resolved
    known = resolved.get(asked, revision)
    if isinstance(known, RerankError):
        raise known
    described = [*_DESCRIPTION, *([_CODE] if code else [])]
    try:
        # Sub-folders hold copies in other formats and checkpoints, except for those of modules.
        ignored = [*_IGNORED, "[!a]*/*", "a[!d]*/*"]
        snapshot = fetch_snapshot(str(name), known, [*described, _TEMPLATES], ignored)
        files = ModelFiles(folder=snapshot.folder, hub_id=str(name), commit=snapshot.commit)
        resolved[asked] = files.commit
        if snapshot.listed:
            files.check_formats(snapshot.listed)
        suffixes = [*described, *([_WEIGHTS] if weights else [])]
        if modules := [path for path in listed_modules(files.folder) if path]:
            wanted = [f"{path}/{suffix}" for path in modules for suffix in suffixes]
            fetch_snapshot(str(name), files.commit, wanted)
        if weights:
            fetch_snapshot(str(name), files.commit, [_WEIGHTS], ignored)
    except RerankError as error:
        resolved.setdefault(asked, error)
        raise
    if weights:
        files.check_formats()
    return files
