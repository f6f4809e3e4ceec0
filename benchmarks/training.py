"""A training step against a plain one with logits of every place: memory of the logits, tokens a second.

    python benchmarks/training.py [--model smollm2-135m] [--steps 3]

Lists come from the embedded collection. Each measurement is a process of its own; memory is the rise of its peak over
the step before. "Memory for logits" is that rise less the rise of a step whose loss needs no logits at all (the mean of
the last hidden states), which is measured twice: what differs between both times is noise, and no difference below it
counts as less than it (`noise_mb`). Ratios: `logits_memory_ratio` plain / ours, `tokens_per_second_ratio` ours / plain,
both large when we are good; all from one run of this script, variants in turn.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VARIANTS = ("ours", "plain", "none", "again")


def main() -> None:
    """Measure everything, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs=2, default=(20, 100), help="numbers of documents of the two lists")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--documents", type=int, default=20, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(options)))
        return
    found: dict[tuple[str, int], dict[str, float]] = {}
    small, large = options.sizes
    for documents in (small, large):
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--child", variant, "--documents", str(documents)]
            command += ["--model", options.model, "--steps", str(options.steps)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[variant, documents] = json.loads(done.stdout.splitlines()[-1])
            print(documents, variant, found[variant, documents], file=sys.stderr)
    twice = {n: (found["none", n]["rise_mb"], found["again", n]["rise_mb"]) for n in (small, large)}
    noise = {n: max(1.0, max(pair) - min(pair)) for n, pair in twice.items()}
    logits = {
        (variant, n): max(noise[n], found[variant, n]["rise_mb"] - statistics.mean(twice[n]))
        for variant in ("ours", "plain")
        for n in (small, large)
    }
    speed = {n: found["ours", n]["tokens_per_second"] / found["plain", n]["tokens_per_second"] for n in (small, large)}
    result = {
        "logits_memory_ratio": round(logits["plain", small] / logits["ours", small], 2),
        f"logits_memory_ratio_{large}_documents": round(logits["plain", large] / logits["ours", large], 2),
        "tokens_per_second_ratio": round(speed[small], 3),
        f"tokens_per_second_ratio_{large}_documents": round(speed[large], 3),
        f"peak_mb_{small}_documents": found["ours", small]["peak_mb"],
        f"peak_mb_{large}_documents": found["ours", large]["peak_mb"],
        "noise_mb": round(max(noise.values()), 1),
        f"plain_peak_mb_{large}_documents": found["plain", large]["peak_mb"],
    }
    print(json.dumps(result))


def measured(options: Any) -> dict[str, float]:
    """One variant: its peak, its rise, its speed."""
    from rerank.finetune.trainer.processes import peak_memory_mb
    from rerank.lm.loading import quiet_transformers

    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        module, batches, tokens = prepared(options, Path(folder))
        parameters = [p for p in module.parameters() if p.requires_grad]
        step(options.child, module, batches[0], parameters)  # everything is loaded, and small things are allocated
        before = peak_memory_mb()
        seconds = []
        for batch in batches[1:]:
            began = time.perf_counter()
            step(options.child, module, batch, parameters)
            seconds.append(time.perf_counter() - began)
    peak = peak_memory_mb()
    return {"peak_mb": peak, "rise_mb": peak - before, "tokens_per_second": tokens / statistics.median(seconds)}


def prepared(options: Any, folder: Path) -> tuple[Any, list[Any], int]:
    """A LoRA under the importance loss; a short batch, then as many of one full list."""
    from rerank.collections import open_collection
    from rerank.finetune.component_registry import make_training_components
    from rerank.finetune.recipe import Recipe
    from rerank.finetune.trainer.listwise_module import collate_examples
    from rerank.finetune.trainer.schedule import read_lists
    from rerank.finetune.trainer.training_run import TrainingRun

    docs = list(open_collection("pydoc").docs())[: options.documents]
    rows = [{"_id": doc.id, "title": doc.title, "text": doc.text} for doc in docs]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "how do I open a file"}) + "\n")
    ids = [doc.id for doc in docs]
    label = {"qid": "q", "initial_list": ids, "final_list": random.Random(1).sample(ids, len(ids))}
    (folder / "labels.jsonl").write_text(json.dumps(label) + "\n")
    recipe = Recipe.make(
        {
            "model": options.model,
            "data": {
                "lists": [str(folder / "labels.jsonl")],
                "collection": f"beir:{folder}",
                "documents": options.documents,
            },
            "method": {"max_passage_tokens": 60, "prompt": "listwise"},
            "losses": [{"name": "importance"}],
            "adapter": {"name": "lora", "r": 16},
            "training": {"steps": 1, "accumulation": 1},
        }
    )
    run = TrainingRun(recipe, make_training_components(recipe), folder / "out", device="cpu")
    module = run._attach_adapter()
    module.train()
    (given,), _ = read_lists(recipe)
    short, full = (run._places.examples.make(given.take(range(n))) for n in (2, len(given)))
    return module, [collate_examples([short]), *[collate_examples([full])] * options.steps], len(full)


def step(variant: str, module: Any, batch: Any, parameters: list[Any]) -> None:
    """Forward and backward of one batch, as the trainer does it."""
    import torch

    for parameter in parameters:
        parameter.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=module.model.dtype == torch.bfloat16):
        if variant == "ours":
            loss = module(**batch)["loss"]
        elif variant == "plain":
            example = batch["examples"][0]
            labels = batch["ids"].clone()
            labels[:, : example.target[0][0] + 1] = -100  # the output at this position predicts the first target token
            loss = module.model(input_ids=batch["ids"], labels=labels, use_cache=False).loss
        else:
            hidden = module.model.get_base_model().get_decoder()(input_ids=batch["ids"], use_cache=False)
            loss = hidden.last_hidden_state.float().mean()
    loss.backward()


if __name__ == "__main__":
    main()
