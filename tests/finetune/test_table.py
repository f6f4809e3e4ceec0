"""The table of training methods, the pages that say more of each, and the tests that the formulas name. No torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from rerank.errors import UsageError
from rerank.finetune import component_registry as table
from rerank.finetune.component_registry import (
    KEYS,
    KIND_REGISTRIES,
    STABILITIES,
    STATUSES,
    describe_training_methods,
    make_training_components,
    training_components_of_kind,
)
from rerank.finetune.recipe import Recipe
from tests.raising import raises

DOCS = Path(__file__).resolve().parents[2] / "docs" / "training"
#: The page of each kind.
PAGES = {
    "adapter": "adapters.md",
    "optimizer": "optimizers.md",
    "layers": "layers.md",
    "callback": "layers.md",
    "objective": "losses.md",
    "analysis": "layers.md",
}
#: The rows that answer for the 49 papers that were looked at.
PAPERS = (
    *("importance", "randlora", "fira", "tlora", "salt", "galore", "sltrain", "owlore", "sst"),
    *("update-sparsity", "refactor", "natural-galore", "fed-sb", "inquire", "intruder-dimensions", "combiner"),
    *("t2ranking", "osf", "bipft", "lora-sb", "lr-qat", "loldu", "triadaptlora", "lora-pro", "lora-ga", "lift"),
    *("r-sparse", "dct", "contribution", "gradnormlorp", "reclora", "lora-limits", "sara", "welore", "lq-lora"),
    *("mora", "icr", "transfer", "global-mmlu", "ppo", "bnn-surrogates", "lisa", "iaa", "soka", "my3dgen"),
    *("qrels-agreement", "mmteb", "motiondirector", "soft"),
)
#: Methods that have no publication to name.
COMMON = {"full", "lm", "reciprocal"}


def rows() -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in describe_training_methods()}


def names(kind: str) -> list[str]:
    return [name.replace("_", "-") for room in KIND_REGISTRIES[kind] for name in room.names()]


def test_what_is_written_meanwhile_is_there() -> None:
    assert (rows()["grpo"]["kind"], rows()["grpo"]["status"]) == ("objective", "available")
    assert (rows()["transfer"]["kind"], rows()["transfer"]["status"]) == ("analysis", "available")


def test_all_papers_have_a_row() -> None:
    assert len(set(PAPERS)) == 49
    assert set(PAPERS) - set(rows()) == set()


def test_every_part_has_a_row_of_its_kind() -> None:
    found = {(row["kind"], row["name"]): row["status"] for row in describe_training_methods()}
    parts = [(kind, name) for kind in KIND_REGISTRIES for name in names(kind)]
    assert len(parts) > 40
    assert {found[part] for part in parts} == {"available"}


def test_rows_say_all_that_they_have_to() -> None:
    found = describe_training_methods()
    assert len({(row["kind"], row["name"]) for row in found}) == len(found)
    assert {frozenset(row) for row in found} == {frozenset(KEYS)}
    assert set(KEYS) == {"name", "kind", "status", "stability", "summary", "paper", "differs", "reason"}
    for row in found:
        assert row["status"] in STATUSES
        assert row["kind"] in KIND_REGISTRIES
        assert row["stability"] in (STABILITIES if row["status"] == "available" else ("",)), row
        assert row["summary"], row
        assert row["paper"] or row["name"] in COMMON, row
        assert (row["reason"] != "") == (row["status"] == "out-of-scope"), row
        assert row["reason"] == "" or row["reason"].endswith("."), row
        assert len(row["reason"]) < 200, row


def test_what_is_simpler_than_its_paper_says_so() -> None:
    simpler = "salt dct qlora lift lr-qat contribution transfer sara loldu shadow welore"
    found = rows()
    assert [name for name in simpler.split() if not found[name]["differs"]] == []
    assert not any(row["differs"].endswith(".") or "\n" in row["differs"] for row in found.values())
    assert not found["lora"]["differs"]


def test_methods_of_the_package_extra_are_experimental() -> None:
    stability = {(row["kind"], row["name"]): row["stability"] for row in describe_training_methods()}
    experimental = {
        (kind, name)
        for kind in KIND_REGISTRIES
        for name, component in training_components_of_kind(kind).items()
        if component.__module__.startswith("rerank.finetune.extra.")
    }
    assert {key for key, value in stability.items() if value == "experimental"} == experimental
    assert len(experimental) > 15
    assert stability["adapter", "lora"] == stability["optimizer", "adamw"] == "stable"


def test_available_and_stable_come_first_within_a_kind() -> None:
    kinds = list(KIND_REGISTRIES)
    found = describe_training_methods()
    order = [(kinds.index(row["kind"]), row["status"], row["stability"] == "experimental") for row in found]
    assert order == sorted(order)
    adapters = [row for row in found if row["kind"] == "adapter"]
    assert [row["status"] for row in adapters].index("out-of-scope") > 15
    assert [row["name"] for row in adapters[:5]] == list(table.USUAL_ADAPTERS)


def test_the_five_usual_adapters_and_peft_are_the_package_of_adapters() -> None:
    stable = {r["name"] for r in describe_training_methods() if (r["kind"], r["stability"]) == ("adapter", "stable")}
    assert stable == {*table.USUAL_ADAPTERS, "peft"}


def test_a_name_that_is_called_a_part_is_one() -> None:
    """What a row of papers calls an adapter, an optimizer, layers or a callback, a recipe can name."""
    kinds = ("adapter", "optimizer", "layers", "callback")
    found = {
        kind: {r["name"] for r in describe_training_methods() if (r["kind"], r["status"]) == (kind, "available")}
        for kind in kinds
    }
    assert found == {kind: set(names(kind)) for kind in kinds}


def test_an_adapter_says_what_it_trains() -> None:
    assert rows()["lora"]["summary"].endswith("(trains: lora)")
    assert rows()["full"]["summary"].endswith("(trains: full)")
    assert rows()["vera"]["summary"].endswith("(trains: other)")
    assert "trains:" not in rows()["adamw"]["summary"]


def test_a_new_part_takes_the_place_of_its_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    class Soka:
        summary = "Kronecker"
        paper = "somebody"
        shape = "other"

    class Room:
        def usable(self) -> dict[str, Any]:
            return {"soka": Soka, "brand_new": Soka}

        def is_experimental(self, name: str) -> bool:
            return False

    monkeypatch.setattr(table, "KIND_REGISTRIES", {**KIND_REGISTRIES, "adapter": (Room(),)})
    found = [row for row in describe_training_methods() if row["name"] == "soka"]
    (row,) = found
    assert (row["status"], row["reason"], row["summary"]) == ("available", "", "Kronecker (trains: other)")
    assert rows()["brand-new"]["kind"] == "adapter"
    assert rows()["iaa"]["status"] == "out-of-scope"


def test_the_table_needs_nothing_heavy() -> None:
    code = (
        "import sys; from rerank.finetune.component_registry import describe_training_methods as f; f();"
        "print([name for name in ('torch', 'transformers', 'peft', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def sections(page: str) -> dict[str, str]:
    """Name of a part -> what the page says of it."""
    parts = re.split(r"^## `([\w-]+)`$", (DOCS / page).read_text("utf-8"), flags=re.M)
    return {name: text.partition("\n## ")[0] for name, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("page", sorted(set(PAGES.values())))
def test_every_part_is_on_its_page_and_nothing_else_is(page: str) -> None:
    assert set(sections(page)) == {name for kind in KIND_REGISTRIES if PAGES[kind] == page for name in names(kind)}


@pytest.mark.parametrize("page", sorted(set(PAGES.values())))
def test_every_section_says_the_same_things(page: str) -> None:
    for name, text in sections(page).items():
        # Losses have no state, which their page says once.
        own = ("Reads",) if page == "losses.md" else ("Trains", "State")
        for word in ("Formula", *own, "Use it", "Caveats", "Source"):
            assert f"- **{word}:**" in text, (name, word)
        assert len(re.findall(r"^```toml$", text, flags=re.M)) >= 1, name
        paper = rows()[name]["paper"]
        assert set(re.findall(r"\d{4}\.\d{5}", paper)) <= set(re.findall(r"\d{4}\.\d{5}", text)), name


@pytest.mark.parametrize("page", sorted(set(PAGES.values())))
def test_the_pages_mark_experimental_methods(page: str) -> None:
    for name, text in sections(page).items():
        introduction = text.partition("- **Formula:**")[0]
        assert ("Experimental." in introduction) == (rows()[name]["stability"] == "experimental"), name


@pytest.mark.parametrize("page", sorted(set(PAGES.values())))
def test_what_the_pages_write_is_a_recipe_that_fits(page: str) -> None:
    if page == "adapters.md":
        pytest.importorskip("peft")
    for name, text in sections(page).items():
        for block in re.findall(r"^```toml\n(.*?)^```$", text, flags=re.M | re.S):
            recipe = Recipe.make({"data": {"lists": ["lists.jsonl"]}} | tomllib.loads(block))
            parts = make_training_components(recipe)
            named = [recipe.adapter.name, recipe.optimizer.name, *(loss.name for loss in recipe.losses)]
            named += [one.name for one in (recipe.layers, recipe.ranks, recipe.objective, *recipe.callbacks) if one]
            assert name in named, block
            assert parts.adapter is not None


def test_a_pair_that_does_not_fit_is_refused() -> None:
    given = {"data": {"lists": ["lists.jsonl"]}, "optimizer": {"name": "galore"}}
    with raises(UsageError, "methods --training"):
        make_training_components(Recipe.make(given))


ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(
    r"^\| `(?P<name>[\w-]+)` \| .+ \| .+ \| `(?P<path>[\w/.]+)::(?P<test>\w+)` \| (?P<differs>.+) \|$", re.M
)
ROWS = [row.groupdict() for row in _ROW.finditer((ROOT / "docs/training/formulas.md").read_text(encoding="utf-8"))]


def test_every_component_has_one_row() -> None:
    components = [name for kind in KIND_REGISTRIES for name in training_components_of_kind(kind)]
    assert sorted(row["name"] for row in ROWS) == sorted(components)


def test_every_named_test_exists() -> None:
    for row in ROWS:
        tree = ast.parse((ROOT / row["path"]).read_text(encoding="utf-8"))
        assert row["test"] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row


def test_a_difference_that_the_table_of_methods_states_is_not_denied() -> None:
    differing = {row["name"] for row in describe_training_methods() if row["differs"]}
    assert [row["name"] for row in ROWS if row["name"] in differing and row["differs"].startswith("none")] == []
