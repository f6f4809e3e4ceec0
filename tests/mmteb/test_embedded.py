"""A real model over a task of mteb, from the first stage to mteb's file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mteb")

from rerank.mmteb import MtebFirstStage, MtebReranker, describe_mteb_candidates, evaluate_mteb_task
from tests.mmteb import tasks

pytestmark = pytest.mark.model


def test_the_embedded_model_ranks_a_task(tmp_path: Path) -> None:
    stage = MtebFirstStage("bm25")
    lists = describe_mteb_candidates(stage, 5)
    model = MtebReranker.create(out=tmp_path, model="smollm2-135m", method="icr", first_stage=lists)
    assert model.mteb_model_meta.name == "listrank/icr-smollm2-135m"
    assert model.mteb_model_meta.max_tokens == 8192
    found = evaluate_mteb_task(tasks.filled(tasks.LocalRetrieval()), model, out=tmp_path, first_stage=stage, depth=5)
    (row,) = found.rows
    assert row["windows"]["ok"] == 3
    assert 0 <= row["score"] <= 1
    assert row["first_stage_score"] == 1.0
