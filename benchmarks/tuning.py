"""Every adapter and every optimizer side by side: quality, seconds, peak memory, what trains, what the optimizer keeps.

    python benchmarks/tuning.py --lists labels.jsonl --collection C --validation V [--steps 40] [--rows FILE]

One seed, the same lists in the same order, the same loss, learning rates of their own kind (full training and sparse
ones a tenth of low-rank ones). Each row is a process of its own; rows are kept in --rows as they come, and a second
call measures only those that are not there. What cannot run has a row with the reason and no figures. Quality is
nDCG@10 on the validation collection after the last step, not the best of several looks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: Optimizers are measured with what they are made for.
FULL, LOW_RANK = {"name": "full"}, {"name": "lora"}
SMALL_RATE = ("full", "osf", "lift")
#: What a row says of a training.
FIGURES = ("nDCG@10", "first_stage", "loss", "seconds", "peak_mb", "trainable", "state_mb")


def main() -> None:
    """Measure what is missing; print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--lists", type=Path, required=True)
    parser.add_argument("--collection", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--documents", type=int, default=10)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--layers", default="8-12")
    parser.add_argument("--rows", type=Path, default=Path("tuning.jsonl"))
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.exists() else []
    rows = [row for row in rows if not row["reason"]]
    done = {(row["adapter"], row["optimizer"]) for row in rows}
    for adapter, optimizer, extra in pairs():
        name = (shown(adapter), shown({**optimizer, **extra}))
        if name in done:
            continue
        row = {"adapter": name[0], "optimizer": name[1], **measured(options, adapter, optimizer, extra)}
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        with options.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    print(json.dumps({"rows": rows}))


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


def measured(options: Any, adapter: dict[str, Any], optimizer: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Train in a process of its own."""
    small = adapter["name"] in SMALL_RATE
    recipe = {
        "model": options.model,
        "seed": 1,
        "data": {
            "lists": [str(options.lists.resolve())],
            "collection": options.collection,
            "documents": options.documents,
            "shuffle": True,
        },
        "method": {"method": "full:attention,calibrate=false", "prompt": "icr_ie", "max_passage_tokens": 48},
        "losses": [{"name": "distill", "on": "log-attention", "teacher_temperature": 0.5}],
        "readout": {"layers": options.layers},
        "adapter": adapter,
        "optimizer": {**optimizer, "lr": options.lr / (10 if small else 1)},
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
        return {"reason": said.partition(": ")[2] or said, **dict.fromkeys(FIGURES)}
    result = json.loads(done.stdout.splitlines()[-1])
    return {
        "reason": "",
        "nDCG@10": round(next(iter(result["validation"].values())), 4),
        "first_stage": round(next(iter(result["first_stage"].values())), 4),
        "loss": result["loss"],
        "seconds": result["seconds"],
        "peak_mb": result["peak_mb"],
        "trainable": result["trainable"],
        "state_mb": result["state_mb"],
    }


if __name__ == "__main__":
    main()
