"""The fullrank paper's ablation in small: losses, labels and ways of ranking, on SmolLM2-135M, three seeds each.

    python training/ablation/ablation.py --collection C --validation V --out DIR [--lists 300]

Teacher: all-MiniLM-L6-v2, which puts the documents of a window in the order of their cosine to the query. A *complete*
label orders all 20 documents; a *sliding* label is what one pass of windows of 8, 4 at a time, makes of the first
stage's order, so that only its head is the teacher's. Students write orders of 20 documents, trained on the same lists
under the same seeds; they rank the validation queries with the whole list at once and with windows of 10, 5 at a time.
`scores.csv` has a row a query and a column a way of training and ranking, nDCG@10 as the mean over the seeds:

    rerank compare --matrix DIR/scores.csv

What is done is not done again: a second call goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping
from pathlib import Path

from rerank.collections import open_collection
from rerank.evaluation import evaluate_run
from rerank.experiment import run_experiment
from rerank.experiment.spec import Execution, RunSpec
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import train_adapter
from rerank.judges.base import rank_window_by_score
from rerank.models.adapters import PROMPT
from rerank.retrieval import open_first_stage
from rerank.store import RunFolder
from rerank.strategies.sliding import Sliding
from rerank.types import Ranking

#: The whole list at once, and windows over it.
METHODS = ("fullrank", "sliding,size=10,stride=5")
#: Loss and label of each student.
STUDENTS = (("lm", "complete"), ("importance", "complete"), ("importance", "sliding"))


def slide(ranking: Ranking, scores: Mapping[str, float]) -> Ranking:
    """Return what one pass of sliding windows, each sorted by the scores, makes of a list."""
    plan = Sliding(size=8, stride=4)(ranking)
    windows = next(plan)
    while True:
        orders = [rank_window_by_score([scores[doc.id] for doc in w.docs], len(w)).order for w in windows]
        try:
            windows = plan.send(orders)
        except StopIteration as end:
            slid: Ranking = end.value
            return slid


def label(folder: Path, selector: str, count: int) -> None:
    """Write both label files, of the same lists."""
    if (folder / "sliding.jsonl").exists():
        return
    from sentence_transformers import SentenceTransformer

    from rerank.models import resolve_model_name

    collection = open_collection(selector)
    found = open_first_stage("bm25", collection).search(collection.queries(), 20)
    lists = [ranking for ranking in found.values() if len(ranking) == 20][:count]
    encoder = SentenceTransformer(str(resolve_model_name("all-minilm-l6-v2")))
    scores: dict[str, dict[str, float]] = {}
    for ranking in lists:
        vectors = encoder.encode([ranking.query.text, *(doc.text for doc in ranking.docs)], normalize_embeddings=True)
        scores[ranking.query.id] = dict(zip(ranking.doc_ids, (vectors[1:] @ vectors[0]).tolist(), strict=True))
    slid = [slide(one, scores[one.query.id]) for one in lists]
    whole = [
        Ranking.from_order(one.query, sorted(one.docs, key=lambda doc: -scores[one.query.id][doc.id])) for one in lists
    ]
    for name, labels in (("complete", whole), ("sliding", slid)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for given, made in zip(lists, labels, strict=True):
                row = {"qid": given.query.id, "initial_list": given.doc_ids, "final_list": made.doc_ids}
                file.write(json.dumps(row) + "\n")


def trained(given: argparse.Namespace, loss: str, kind: str, seed: int) -> Path:
    """The folder of one student."""
    folder: Path = given.out / f"{loss}-{kind}-{seed}"
    recipe = Recipe.make(
        {
            "model": "smollm2-135m",
            "seed": seed,
            "data": {
                "lists": [str((given.out / f"{kind}.jsonl").resolve())],
                "collection": given.collection,
                "documents": 20,
            },
            "method": {"method": "fullrank", "prompt": "listwise", "max_passage_tokens": 40},
            "losses": [{"name": loss}],
            "adapter": {"name": "lora", "r": 16},
            "optimizer": {"name": "adamw", "lr": 5e-4},
            "training": {"epochs": 1, "accumulation": 4, "warmup": 0.1, "save_every": 25},
        }
    )
    result = train_adapter(recipe, folder, resume=True)
    print(folder.name, "loss", result.loss, f"{result.seconds} s", flush=True)
    return folder


def scored(given: argparse.Namespace, adapter: Path, method: str) -> tuple[dict[str, float], dict[str, float]]:
    """nDCG@10 of each validation query, ranked by a student and as the first stage had it."""
    spec = RunSpec(
        collection=given.validation,
        depth=20,
        max_queries=given.queries,
        model="smollm2-135m",
        adapter=str(adapter),
        method=method,
        prompt=str(adapter / PROMPT),
        max_passage_tokens=40,
    )
    out = given.out / "runs" / f"{adapter.name}-{method.partition(',')[0]}"
    run_experiment(spec, Execution(out=out, resume=out.exists()))
    folder = RunFolder(out)
    qrels = folder.read_qrels()
    runs = (folder.read_run("run.trec"), folder.read_candidates())
    found, before = ({q: v["nDCG@10"] for q, v in evaluate_run(qrels, r, ["nDCG@10"]).by_query().items()} for r in runs)
    return found, before


def main() -> None:
    """Train and rank whatever is missing, and write the scores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--collection", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--lists", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    label(given.out, given.collection, given.lists)
    columns: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, given.seeds + 1):
        for loss, kind in STUDENTS:
            folder = trained(given, loss, kind, seed)
            for method in METHODS:
                found, before = scored(given, folder, method)
                columns.setdefault(f"{loss}, {kind} label, {method.partition(',')[0]}", []).append(found)
                columns["bm25"] = [before]
    with (given.out / "scores.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["query", *columns])
        for query in sorted(columns["bm25"][0]):
            writer.writerow([query, *(sum(seed[query] for seed in seeds) / len(seeds) for seeds in columns.values())])
    for name, seeds in columns.items():
        print(f"{name}: {', '.join(f'{sum(one.values()) / len(one):.4f}' for one in seeds)}")


if __name__ == "__main__":
    main()
