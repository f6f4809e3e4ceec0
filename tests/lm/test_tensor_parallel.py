"""Models over several devices: placement, and a real run of two processes on loopback that must give the same order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from rerank.backends.hf import Hf
from rerank.errors import UsageError
from rerank.lm.loading import quiet_transformers
from rerank.prompts.base import Message
from rerank.tasks import BackendOptions, PermutationTask, Request, Sampling
from rerank.types import Document, Query, Window
from tests.backends.conftest import make_model, make_tokenizer
from tests.raising import raises

ASKED = [
    Request(
        prompt=(Message("user", f"Order these {word}."),),
        sampling=Sampling(max_tokens=20),
        window=Window(Query(id="q", text="q"), tuple(Document(id=str(at)) for at in range(5))),
        task=PermutationTask(items=("[1]", "[2]", "[3]", "[4]", "[5]"), count=5),
    )
    for word in ("stones", "stars")
]
PROGRAM = """
import sys
from rerank.tasks import BackendOptions
from rerank.backends.hf import Hf
from tests.lm.test_tensor_parallel import ASKED
hf = Hf.load(sys.argv[1], BackendOptions(dtype="float32", device_map="tp"))
for reply in hf.generate(ASKED):
    print("ORDER", reply.text, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with quiet_transformers():
        make_model().save_pretrained(tmp_path / "tiny")
        make_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize("device_map", ["auto", "balanced", "sequential"])
def test_layers_are_spread_and_answers_stay(folder: Path, device_map: Any) -> None:
    pytest.importorskip("accelerate")
    plain = Hf.load(folder, BackendOptions(dtype="float32", device="cpu")).generate(ASKED)
    spread = Hf.load(folder, BackendOptions(dtype="float32", device_map=device_map)).generate(ASKED)
    assert [reply.text for reply in spread] == [reply.text for reply in plain]


def test_contradicting_devices_are_refused(folder: Path) -> None:
    with raises(UsageError, "--device-map auto", "--device cpu"):
        Hf.load(folder, BackendOptions(device="cpu", device_map="auto"))
    with raises(UsageError, "torchrun"):
        Hf.load(folder, BackendOptions(device_map="tp"))


@pytest.mark.model
def test_two_processes_with_half_of_each_matrix_give_the_same_order(folder: Path, tmp_path: Path) -> None:
    plain = Hf.load(folder, BackendOptions(dtype="float32", device="cpu")).generate(ASKED)
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", str(tmp_path / "program.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    orders = [line.partition("ORDER ")[2] for line in done.stdout.splitlines() if "ORDER" in line]
    assert orders == [reply.text for reply in plain]
