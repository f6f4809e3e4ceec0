"""Adapters and optimizers side by side: quality, seconds, peak memory, what trains, what the optimizer keeps.

    python benchmarks/tuning.py --lists labels.jsonl --collection C --validation V [--rates 0.3 1 3] [--only lora full]

Each row is trained once per learning rate, with the same lists in the same order and the same loss; the rates are
multiples of `--lr` (a tenth of it if weights of the model are trained). Every other judged query of the validation
collection chooses the rate, by nDCG@10 after the last step; the remaining queries compare the trained with the
untrained model (paired t, Holm over the rows). `moved` is false for a row whose difference is not significant: such
rows say nothing about quality.

Each training is a process of its own; its line is kept in --rows, and a second call trains only what is not there. What
cannot run has a line with the reason. One seed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rerank.collections import open_collection_qrels
from rerank.evaluation import compare_runs
from rerank.evaluation.significance import correct_p_values
from rerank.io.run_files import read_run
from rerank.types import Qrels, Run

#: Optimizers are measured with what they are made for.
FULL, LOW_RANK = {"name": "full"}, {"name": "lora"}
SMALL_RATE = ("full", "osf", "lift")
MEASURE = "nDCG@10"


def main() -> None:
    """Train what is missing; print one line with a row per method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--lists", type=Path, required=True)
    parser.add_argument("--collection", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--documents", type=int, default=10)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 1.0, 3.0], help="multiples of --lr")
    parser.add_argument("--only", nargs="*", default=(), help="names of adapters, optimizers, layers or callbacks")
    parser.add_argument("--layers", default="8-12")
    parser.add_argument("--rows", type=Path, default=Path("tuning.jsonl"))
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    lines = [line for line in lines if not line["reason"]]
    done = {(line["adapter"], line["optimizer"], line["rate"]) for line in lines}
    for adapter, optimizer, extra in pairs():
        name = (shown(adapter), shown({**optimizer, **extra}))
        varied = name[1].rpartition("=")[2] if extra else name[0] if optimizer["name"] == "adamw" else name[1]
        if options.only and varied not in options.only:
            continue
        for rate in options.rates:
            if (*name, rate) in done:
                continue
            figures = measured(options, adapter, optimizer, extra, rate)
            line = {"adapter": name[0], "optimizer": name[1], "rate": rate, **figures}
            lines.append(line)
            print(line, file=sys.stderr, flush=True)
            with options.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    print(json.dumps({"rows": chosen_rows(lines)}))


def chosen_rows(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per method: the line of its best rate, with the test's p-value corrected over the rows."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        key = (line["adapter"], line["optimizer"])
        if not line["reason"] and line["chosen_by"] > best.get(key, {"chosen_by": float("-inf")})["chosen_by"]:
            best[key] = line
    rows = list(best.values())
    if not rows:
        return []
    adjusted = correct_p_values(np.array([row["p"] for row in rows]), "holm")
    return [{**row, "holm": float(p), "moved": bool(p <= 0.05)} for row, p in zip(rows, adjusted, strict=True)]


def pairs() -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Adapter, optimizer and further tables of every row."""
    from rerank.finetune.component_registry import ADAPTERS, CALLBACKS, LAYERS, OPTIMIZERS

    found: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
        ({"name": name}, {"name": "adamw"}, {}) for name in ADAPTERS.names() if name != "peft"
    ]
    for name in OPTIMIZERS.names():
        if name == "adamw":
            continue
        fits = OPTIMIZERS.get(name)().fits
        suits = {"name": "dora"} if name == "gradnormlorp" else LOW_RANK if "lora" in fits else FULL
        found.append((suits, {"name": name}, {}))
    found += [(FULL, {"name": "adamw"}, {"layers": {"name": name}}) for name in LAYERS.names()]
    found += [(LOW_RANK, {"name": "adamw"}, {"callbacks": [{"name": name}]}) for name in CALLBACKS.names()]
    return found


def shown(table: dict[str, Any]) -> str:
    """A table's name, with whatever else it says."""
    named = {
        key: ",".join(one["name"] for one in ([value] if isinstance(value, dict) else value))
        if isinstance(value, (dict, list))
        else value
        for key, value in table.items()
        if key != "name"
    }
    more = [f"{key}={value}" for key, value in named.items()]
    return " ".join([table["name"].replace("_", "-"), *more])


def measured(
    options: Any, adapter: dict[str, Any], optimizer: dict[str, Any], extra: dict[str, Any], rate: float
) -> dict[str, Any]:
    """Train in a process of its own."""
    small = adapter["name"] in SMALL_RATE
    recipe = {
        "model": options.model,
        "seed": 1,
        "data": {
            "lists": [str(options.lists.resolve())],
            "collection": options.collection,
            "documents": options.documents,
            "best": 2,
            "shuffle": True,
        },
        "method": {"method": "full:attention,calibrate=false", "prompt": "icr_ie", "max_passage_tokens": 48},
        "losses": [{"name": "distill", "on": "log-attention", "teacher_temperature": 0.5}],
        "readout": {"layers": options.layers},
        "adapter": adapter,
        "optimizer": {**optimizer, "lr": rate * options.lr / (10 if small else 1)},
        "training": {"steps": options.steps, "accumulation": 2, "save_every": options.steps, "warmup": 0.1},
        "validation": {
            "collection": options.validation,
            "depth": 20,
            "max_queries": options.queries,
            "every": options.steps,
        },
        **extra,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.json"
        file.write_text(json.dumps(recipe))
        code = (
            "import dataclasses, json, sys; from pathlib import Path; from rerank.finetune.recipe import Recipe; "
            "from rerank.finetune.trainer.training import train_adapter; "
            f"recipe = Recipe.make(json.loads(Path({str(file)!r}).read_text())); "
            f"print(json.dumps(dataclasses.asdict(train_adapter(recipe, Path({folder!r}) / 'out', device='cpu'))))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return {"reason": said.partition(": ")[2] or said}
        result = json.loads(done.stdout.splitlines()[-1])
        quality = compared(Path(folder) / "out", options.validation)
    figures = {key: result[key] for key in ("loss", "seconds", "peak_mb", "trainable", "state_mb")}
    return {"reason": "", **quality, **figures}


def compared(folder: Path, validation: str) -> dict[str, Any]:
    """Return the trained model's mean on the queries that choose, and its comparison on the others."""
    qrels, relevant = open_collection_qrels(validation)
    runs = {name: read_run(folder / f"{name}.trec") for name in ("trained", "untrained", "first_stage")}
    halves = [list(runs["untrained"])[start::2] for start in (0, 1)]

    def part(name: str, queries: list[str]) -> Run:
        return Run([runs[name][query] for query in queries if query in runs[name]], name=name)

    means = []
    for queries in halves:
        judged = Qrels({query: qrels[query] for query in queries}, name=validation)
        names = ("trained", "untrained", "first_stage")
        means.append(compare_runs(judged, [part(name, queries) for name in names], MEASURE, relevant=relevant or 1))
    pair = means[1].pairs[0]
    trained, untrained, first = (run.mean for run in means[1].runs)
    return {
        "chosen_by": round(means[0].runs[0].mean, 4),
        MEASURE: round(trained, 4),
        "untrained": round(untrained, 4),
        "first_stage": round(first, 4),
        "difference": round(pair.difference, 4),
        "interval": [round(pair.low, 4), round(pair.high, 4)],
        "p": pair.p if pair.p is not None else 1.0,
    }


if __name__ == "__main__":
    main()
