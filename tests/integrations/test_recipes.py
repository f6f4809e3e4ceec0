"""The examples of docs/integrations.md run with the frameworks; the default suite runs those without one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.test_docs import Block, blocks, run_block, text_of

RECIPES = [block for block in blocks(text_of("docs/integrations.md")) if block.kind == "python"]


@pytest.mark.integrations
@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_the_recipe_runs(recipe: Block) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    run_block(Block(recipe.kind, recipe.body, recipe.title, not_run=False), names)
    assert len(recipe.body.strip().splitlines()) <= 8


def test_every_framework_has_a_recipe() -> None:
    assert len(RECIPES) == 6
