"""`rerank inspect` and `rerank merge`: output in all forms, and errors that say what to do."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("transformers")

from tests.finetune.inspected import lora, noisy, write_adapter, write_base

HEADS = ["matrix", "rows", "columns", "|d|/|W|", "rank", "entropy rank", "unmoved", "intruders"]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    write_base(tmp_path / "base")
    write_adapter(tmp_path / "adapter", tmp_path / "base", lora(), partial(noisy, std=0.3))
    return tmp_path / "adapter"


def test_inspect_in_all_formats(cli: Cli, adapter: Path) -> None:
    found = json.loads(cli("inspect", adapter, "--format", "json").stdout)
    assert (found["adapter"], found["kind"]) == (str(adapter), "LORA")
    assert found["options"] == {"top": 10, "epsilon": 0.5, "tolerance": 1e-5, "reduction": None}
    assert found["totals"]["matrices"] == len(found["matrices"]) == 6
    lines = cli("inspect", adapter, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == found["matrices"]
    done = cli("inspect", adapter)
    head, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert head == HEADS
    first = found["matrices"][0]
    assert rows[0] == [
        *(first["name"], str(first["rows"]), str(first["columns"]), f"{first['relative']:.4f}", str(first["rank"])),
        *(f"{first['entropy_rank']:.1f}", f"{first['sparsity']:.3f}", str(first["intruders"])),
    ]
    assert "6 matrices changed, 10 not, 0 vectors changed" in done.stderr
    assert f"intruders: {found['totals']['intruders']}, in 6 of 6 matrices" in done.stderr


def test_inspect_with_options(cli: Cli, adapter: Path) -> None:
    done = cli("inspect", adapter, "--rank-profile", "0.5", "--top", "0", "--tolerance", "10")
    head, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert head == [*HEADS, "profile"]
    assert {(row[6], row[7]) for row in rows} == {("1.000", "-")}
    assert all(1 <= int(row[8]) <= 64 for row in rows)
    assert "intruders" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("inspect", "none"), 4, "'none'"),
        (("inspect", "adapter/adapter_config.json"), 4, "is a file; expected the folder"),
        (("inspect", "base"), 2, "--model"),
        (("inspect", "adapter", "--model", "smolm2-135m"), 2, "Did you mean 'smollm2-135m'?"),
        (("inspect", "adapter", "--model", "deeper"), 5, "(64, 64)"),
        (("inspect", "adapter", "--epsilon", "2"), 2, "epsilon is 2.0"),
        (("merge", "adapter", "adapter", "--out", "new"), 2, "--average-core or --concatenate"),
        (("merge", "adapter", "--concatenate", "--out", "new"), 2, "expected two or more"),
        (("merge", "adapter", "--out", "base"), 2, "base"),
        (("merge", "adapter", "--out", "no/new"), 4, "no/new"),
        (("merge", "adapter", "--out", "new", "--reduce-intruders", "2"), 2, "--reduce-intruders is 2.0"),
        (("merge", "a", "b", "--out", "new", "--concatenate", "--average-core"), 2, "expected one of these options"),
        (("merge", "a", "b", "--out", "new", "--concatenate", "--reduce-intruders", "0"), 2, "--reduce-intruders"),
    ],
)
def test_what_does_not_fit_is_said(
    cli: Cli, adapter: Path, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    del adapter
    write_base(tmp_path / "deeper", head_dim=32)
    done = cli(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert not (tmp_path / "new").exists()


def test_merge_writes_a_model_that_a_run_takes(cli: Cli, adapter: Path, lists: tuple[str, ...]) -> None:
    done = cli("merge", adapter, "--out", "merged", "--reduce-intruders", "0.75")
    assert done.returncode == 0, done.stderr
    head, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert head == ["matrix", "intruders", "after"]
    assert len(rows) == 6
    assert "6 matrices and vectors changed; written in float32: merged" in done.stderr
    ran = cli("run", *lists[:-1], "merged", "--method", "pointwise", "--context-size", "2048", "--format", "json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["calls"] == 48


def test_merge_tells_of_rounding_and_of_what_was_trained_for(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    from rerank.models.adapters import AdapterSettings

    AdapterSettings(model=str(tmp_path / "base"), method="first").write(adapter)
    done = cli("merge", adapter, "--out", "half", "--dtype", "bfloat16", "--format", "json")
    found = json.loads(done.stdout)
    assert (found["dtype"], found["changed"], found["matrices"], found["intruders"]) == ("bfloat16", 6, [], 0)
    assert found["rounded"] > 0
    assert "rerank run --collection COLLECTION --model half (method first)" in done.stderr
    assert json.loads(Path("half/rerank.json").read_text())["method"] == "first"
    write_adapter(tmp_path / "small", tmp_path / "base", lora(), partial(noisy, std=0.01))
    told = cli("merge", "small", "--out", "half-small", "--dtype", "bfloat16")
    assert "Rounding to bfloat16" in told.stderr
    assert told.stdout == ""


def test_merge_of_several_is_an_adapter(cli: Cli, adapter: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "other", tmp_path / "base", lora(), partial(noisy, seed=2))
    done = cli("merge", adapter, "other", "--concatenate", "--out", "both", "--format", "json")
    assert json.loads(done.stdout) == {"out": "both", "adapters": 2, "matrices": 6}
    rows = json.loads(cli("inspect", "both", "--format", "json").stdout)["matrices"]
    assert {row["rank"] for row in rows} == {8}
    refused = cli("merge", adapter, "other", "--average-core", "--out", "core")
    assert (refused.returncode, refused.stdout) == (5, "")
    assert "--concatenate" in refused.stderr
    assert not (tmp_path / "core").exists()
