"""The dependencies: tested ranges, the lock, their licences, and the private parts of libraries that we rely on."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LICENCES = tomllib.loads((ROOT / "licences.toml").read_text(encoding="utf-8"))

#: Which build of torch fits is chosen at installation.
_UNPINNED = {"torch", "torchvision"}
#: The extras whose packages a lock of their own has; requirements.lock has those of all others.
SEPARATE = {
    "locks/integrations.lock": {"langchain", "llama-index", "haystack", "pyterrier", "dspy"},
    "locks/lucene.lock": {"lucene"},
    "locks/vllm.lock": {"vllm"},
}
LOCKS = ["requirements.lock", *SEPARATE]

#: Private parts of libraries that the library code uses: distribution -> owner -> names.
PRIVATE = {
    "transformers": {
        "transformers:PreTrainedConfig()": ["_attn_implementation"],
        "transformers:PreTrainedModel": ["_tp_size"],
        "transformers:Trainer": [
            "_get_grad_norm", "_get_output_dir", "_load_from_checkpoint", "_load_optimizer_and_scheduler", "_save",
            "_save_checkpoint", "_save_optimizer_and_scheduler",
        ],
    },
    "peft": {"peft:LoraConfig()": ["_register_custom_module"]},
    "torch": {"torch:Tensor": ["_backward_hooks", "_version"]},
    "trl": {"trl.trainer.grpo_trainer:GRPOTrainer": ["_send_telemetry", "_tokenize_prompts"]},
}  # fmt: skip
#: Our classes that derive from trainers of libraries.
TRAINERS = [
    "rerank.finetune.trainer.sharding:ShardedListTrainer",
    "rerank.finetune.trainer.cross_encoder_training:CrossEncoderListTrainer",
    "rerank.finetune.kernels.grpo:GrpoListTrainer",
]
#: Public functions of the standard library, and an attribute with a default, since transformers no longer sets it.
_OTHER = {"_asdict", "_replace", "_exit", "_commit_hash"}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [re.match(r"([\w.-]+)==([^\s;]+)", line) for line in lines]
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def direct(extras: Iterable[str]) -> list[Requirement]:
    texts = [*PROJECT["dependencies"], *(text for name in extras for text in EXTRAS[name])]
    return [requirement for text in texts if (requirement := Requirement(text)).name != PROJECT["name"]]


def extras_of(lock: str) -> set[str]:
    return SEPARATE.get(lock) or EXTRAS.keys() - set().union(*SEPARATE.values())


def installed() -> Iterator[Distribution]:
    """Yield the installed packages that the base package and its extras need, directly or not."""
    waiting, seen = direct(EXTRAS), set()
    while waiting:
        requirement = waiting.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        yield found
        for needed in map(Requirement, found.requires or ()):
            extras = ("", *requirement.extras)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)


def is_unpinned(name: str) -> bool:
    return name in _UNPINNED or name.startswith(("nvidia-", "cuda-"))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_dependency_has_a_lower_bound_and_a_pinned_version_within_its_range(lock: str) -> None:
    pinned = pins(lock)
    stubs = {"types-pyyaml", "scipy-stubs"}
    for requirement in direct(extras_of(lock)):
        name = canonicalize_name(requirement.name)
        assert name in stubs or any(part.operator == ">=" for part in requirement.specifier), requirement
        assert is_unpinned(name) or requirement.specifier.contains(pinned[name], prereleases=True), requirement


def test_every_package_that_is_needed_is_pinned() -> None:
    needed = {canonicalize_name(found.name) for found in installed()}
    assert not {name for name in needed - set().union(*map(pins, LOCKS)) if not is_unpinned(name)}


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_have_hashes_and_no_addresses(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\w)", text.strip())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


def test_the_locks_have_the_pinned_versions() -> None:
    pinned = pins("constraints.txt")
    assert pins("requirements.lock") == pinned, "run: make lock"
    for lock in ("locks/integrations.lock", "locks/lucene.lock"):
        assert {name: found for name, found in pins(lock).items() if pinned.get(name, found) != found} == {}, lock


def test_the_list_of_licences_is_complete_and_says_what_those_that_are_not_permissive_ask_for() -> None:
    listed, notes = LICENCES["packages"], LICENCES["notes"]
    assert listed.keys() == set().union(*map(pins, LOCKS))
    used = {part for expression in listed.values() for part in re.split(r" AND | OR |[()]", expression) if part}
    assert used - set(LICENCES["allowed"]) == notes.keys()


def test_the_metadata_of_installed_packages_agree_with_the_list_of_licences() -> None:
    for found in installed():
        name = canonicalize_name(found.name)
        if name in LICENCES["packages"]:
            listed = LICENCES["metadata"].get(name, LICENCES["packages"][name])
            assert agrees(found.metadata, listed), name


def agrees(metadata: Any, listed: str) -> bool:
    """Return whether metadata state an SPDX expression, or at least name the same family of licences in their words."""
    if expression := metadata.get("License-Expression"):
        return str(expression) == listed
    words = {
        "Apache": "apache", "BSD": "bsd", "CC0": "cc0", "ISC": "isc", "MIT": "mit", "MPL": "mpl|mozilla",
        "NVIDIA": "nvidia|proprietary", "PSF": "psf|python software", "Unlicense": "unlicense",
    }  # fmt: skip
    classifiers = [text for text in metadata.get_all("Classifier") or () if text.startswith("License")]
    stated = "\n".join([(metadata.get("License") or "").partition("\n")[0], *classifiers])
    families = {family for family, pattern in words.items() if re.search(rf"\b({pattern})\b", stated, re.I)}
    return not stated.strip() or any(family in listed for family in families)


@pytest.mark.parametrize("library", PRIVATE)
def test_private_parts_that_are_used_exist_and_the_library_has_an_upper_bound(library: str) -> None:
    bounds = [part.operator for needed in direct(EXTRAS) if needed.name == library for part in needed.specifier]
    assert "<" in bounds, f"an upper bound of {library} in pyproject.toml"
    if not find_spec(library):
        pytest.skip(f"{library} is not installed")
    for owner, names in PRIVATE[library].items():
        module, _, name = owner.partition(":")
        found = getattr(import_module(module), name.removesuffix("()"))
        found = found() if name.endswith("()") else found
        assert [name for name in names if not hasattr(found, name)] == [], owner


def test_no_other_private_part_is_used() -> None:
    """A private attribute that this package does not define itself belongs to a library, and must be listed above."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "rerank").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    for node in nodes:  # getattr(config, "_commit_hash", None)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr") and len(node.args) > 1:
            read |= {str(node.args[1].value)} if isinstance(node.args[1], ast.Constant) else set()
    defined = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    defined |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    defined |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    listed = {name for owners in PRIVATE.values() for names in owners.values() for name in names}
    private = {name for name in read if re.match(r"_[^_]", name)}
    assert private - defined <= listed | _OTHER


@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_other_private_method_is_replaced(trainer: str) -> None:
    """A method of ours with the name of a library's private method would no longer be called if that is renamed."""
    pytest.importorskip("transformers")
    pytest.importorskip("trl")
    pytest.importorskip("sentence_transformers")
    module, _, name = trainer.partition(":")
    classes = getattr(import_module(module), name).__mro__
    ours, theirs = ([c for c in classes if c.__module__.startswith("rerank.") is own] for own in (True, False))
    methods = {key for c in ours for key, value in vars(c).items() if re.match(r"_[^_]", key) and callable(value)}
    replaced = {key for key in methods if any(key in vars(c) for c in theirs)}
    assert replaced <= {name for owners in PRIVATE.values() for names in owners.values() for name in names}
