"""Seconds per 1,000 pairs of a cross-encoder on the CPU: torch against ONNX Runtime, its int8 weights, and OpenVINO.

    python benchmarks/runtimes.py [--pairs 32] [--tokens 64] [--rounds 5] [--batch 16] [--folder FILES]

``torch bfloat16`` is what ``--dtype auto`` selects where the processor multiplies it in hardware. The model has the
size of MiniLM-L6 (6 layers, 384 wide) and random weights. It is exported with torch's own exporter
(``torch.onnx.export(dynamo=True)``), since optimum excludes the transformers of this project; int8 weights are those of
``quantize_dynamic``, as in the files ``onnx/model_qint8_*.onnx`` of the hub. With ``--folder``, exported files are kept
and used again. All runtimes have one thread and take turns within each round; the figures are seconds of CPU time, the
median over the rounds, since other processes disturb wall-clock time. ``difference`` is the largest difference of a
logit from torch's, divided by the standard deviation of torch's logits, and ``order`` is Kendall's tau with its order.
``times_torch`` and ``times_bfloat16`` are the ratios of the seconds of torch to those of the runtime in the same round:
the median, and its 95 % bootstrap interval.

Needs onnxruntime, onnx, onnxscript and openvino, which no extra installs.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from scipy.stats import kendalltau

Batch = dict[str, Any]
NAMES = ("input_ids", "attention_mask", "token_type_ids")


class Logits(torch.nn.Module):
    """The model with positional inputs and the logits as its only output."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits


def make_batch(rng: np.random.Generator, rows: int, width: int) -> Batch:
    """Pairs of half to all of ``width`` tokens, padded on the right."""
    lengths = rng.integers(width // 2, width + 1, rows)
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    ids = rng.integers(1000, 30_000, (rows, width)) * mask
    segments = (np.arange(width) >= 12) * mask  # the first twelve tokens are the query
    return dict(zip(NAMES, (ids, mask, segments), strict=True))


def export(model: Any, folder: Path) -> None:
    """Write model.onnx with free sizes of batch and text, and model_qint8.onnx, unless they are there."""
    example = tuple(map(torch.as_tensor, make_batch(np.random.default_rng(0), 2, 16).values()))
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        Logits(model),
        example,
        dynamo=True,
        input_names=list(NAMES),
        output_names=["logits"],
        dynamic_shapes=tuple(free for _ in NAMES),
        verbose=False,
    )
    if program is None:
        raise SystemExit("The export returned no program")
    program.save(folder / "model.onnx")
    quantization = import_module("onnxruntime.quantization")
    quantization.quantize_dynamic(
        folder / "model.onnx", folder / "model_qint8.onnx", weight_type=quantization.QuantType.QInt8
    )


def open_runtimes(model: Any, folder: Path) -> dict[str, Callable[[Batch], Any]]:
    """Functions from a batch to its logits, of shape (rows, 1), each with one thread."""
    onnx, openvino = import_module("onnxruntime"), import_module("openvino")

    def open_torch(model: Any) -> Callable[[Batch], Any]:
        def run(batch: Batch) -> Any:
            with torch.inference_mode():
                inputs = {name: torch.as_tensor(value) for name, value in batch.items()}
                return model(**inputs).logits.float().numpy()

        return run

    def open_onnx(name: str) -> Callable[[Batch], Any]:
        options = onnx.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnx.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
        return lambda batch: session.run(None, batch)[0]

    def open_vino(precision: str) -> Callable[[Batch], Any]:
        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
        compiled = core.compile_model(core.read_model(folder / "model.onnx"), "CPU", settings)
        return lambda batch: compiled(batch)[0]

    return {
        "torch": open_torch(model),
        "torch bfloat16": open_torch(copy.deepcopy(model).to(torch.bfloat16)),
        "onnx": open_onnx("model.onnx"),
        "onnx int8": open_onnx("model_qint8.onnx"),
        "openvino float32": open_vino("f32"),
        "openvino bfloat16": open_vino("bf16"),
    }


def times(base: list[float], own: list[float]) -> list[float]:
    """How many times as fast as ``base``: the median over the rounds, and its 95 % bootstrap interval."""
    ratios = np.array(base) / np.array(own)
    drawn = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    return [round(float(value), 2) for value in (np.median(ratios), *np.quantile(drawn, (0.025, 0.975)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes: Any = {
        "num_labels": 1,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    }
    config = transformers.BertConfig(initializer_range=0.05, **sizes)
    model: Any = transformers.BertForSequenceClassification(config)
    model.eval()
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path = options.folder or Path(scratch)
        if not (folder / "model_qint8.onnx").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            export(model, folder)
        runtimes = open_runtimes(model, folder)
    rng = np.random.default_rng(1)
    batches = [make_batch(rng, options.batch, options.tokens) for _ in range(options.pairs // options.batch)]
    logits = {name: np.concatenate([run(batch) for batch in batches])[:, 0] for name, run in runtimes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(options.rounds):
        for name, run in runtimes.items():
            started = time.process_time()
            for batch in batches:
                run(batch)
            seconds[name].append((time.process_time() - started) / options.pairs * 1000)
    rows = {}
    for name, values in logits.items():
        rows[name] = {
            "seconds_per_1000": round(median(seconds[name]), 1),
            "times_torch": times(seconds["torch"], seconds[name]),
            "times_bfloat16": times(seconds["torch bfloat16"], seconds[name]),
            "difference": float(f"{np.abs(values - logits['torch']).max() / logits['torch'].std():.1g}"),
            "order": round(float(kendalltau(values, logits["torch"]).statistic), 3),
        }
        sys.stdout.write(f"{name:18} {rows[name]}\n")
    sys.stdout.write(json.dumps({"benchmark": "runtimes", **vars(options) | {"folder": ""}, "runtimes": rows}) + "\n")


if __name__ == "__main__":
    main()
