"""Train the configurations, and measure each on DL21 and on Cranfield's odd-numbered queries.

    python search.py --work work --data FOLDER

For each configuration, `work/results.jsonl` gets one row per collection and first-stage weight (nDCG@10, its difference
to BM25's with a 95 % interval and the p of a two-sided paired t-test), and one row per weight with the mean difference
of both collections, by which a configuration is chosen. The weights are varied over the likelihoods that one run of the
judge stored. `untrained` is the base model. TREC DL 2019 and Cranfield's even-numbered queries are not used.

Everything that was finished is skipped, and a training continues from its last checkpoint. `--deep NAME` measures a
configuration at a depth of 100. `listwise` is the recipe listwise.toml.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank.evaluation import compare_runs
from rerank.experiment import run_experiment
from rerank.experiment.spec import Execution, RunSpec
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import train_adapter
from rerank.io.settings_files import read_toml_file
from rerank.judges.base import window_z_scores
from rerank.store import RunFolder
from rerank.store.judge_scores import read_judge_scores
from rerank.types import Ranking, Run

HERE = Path(__file__).parent
WEIGHTS = (0.0, 0.25, 0.5, 1.0)
MEASURE = "nDCG@10"


def collections_of(data: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of the two collections on which configurations are chosen."""
    lists = data / "msmarco_candidates" / "BM25" / "retrieve_results_dl21.json.gz"
    return {
        "dl21": {
            "collection": f"requests:{lists}",
            "first_stage": "candidates",
            "qrels": str(data / "qrels" / "qrels.dl21-passage.txt.gz"),
            "relevant": 2,
        },
        "cranfield-odd": {
            "collection": f"cranfield:{data / 'cranfield'}",
            "queries": tuple(str(number) for number in range(1, 226, 2)),
        },
    }


def recipe_of(name: str, work: Path, overrides: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a configuration: a table of changes to recipe.toml, or a file of its own."""
    own = HERE / f"{name}.toml"
    values = dict(read_toml_file(own if own.is_file() else HERE / "recipe.toml", "recipe"))
    tables = tomllib.loads((HERE / "configurations.toml").read_text(encoding="utf-8"))
    changes = {} if own.is_file() else dict(tables[name])
    losses = changes.pop("losses", {})
    values["losses"] = [{**loss, **losses.get(loss["name"], {})} for loss in values["losses"]]
    for table in (changes, overrides):
        for key, value in table.items():
            values[key] = {**values.get(key, {}), **value} if isinstance(value, Mapping) else value
    values["data"] |= {"lists": [str(work / "labels.jsonl")], "collection": f"jsonl:{work / 'queries'}"}
    return Recipe.make(values)


def judge_collection(name: str, settings: dict[str, Any], folder: Path, adapter: Path | None, depth: int) -> RunFolder:
    """Run the judge on a collection, and return the run folder with the stored likelihoods."""
    path = folder / f"{name}-{depth}"
    if not (path / "summary.json").is_file():
        method = read_toml_file(HERE / "recipe.toml", "recipe")["method"]
        model = {"adapter": str(adapter)} if adapter else {"model": "smollm2-135m", **method}
        run_experiment(
            RunSpec(**settings, **model, depth=depth, measures=(MEASURE,)), Execution(out=path, resume=path.exists())
        )
    return RunFolder.existing(path)


def reorder(first: Run, folders: Sequence[RunFolder], weight: float) -> Run:
    """Order each list by the mean of z(judge's score) over the judges + weight * z(first-stage score)."""
    judges = [read_judge_scores(folder.path / "judge_scores.jsonl") for folder in folders]
    rankings = []
    for ranking in first.values():
        own = [
            window_z_scores([judge[ranking.query.id].scores[doc_id] for doc_id in ranking.doc_ids]) for judge in judges
        ]
        pairs = zip(zip(*own, strict=True), window_z_scores(ranking.scores), strict=True)
        sums = [sum(scores) / len(scores) + weight * score for scores, score in pairs]
        order = sorted(range(len(sums)), key=lambda position: -sums[position])
        rankings.append(Ranking.from_order(ranking.query, [ranking.docs[position] for position in order]))
    return Run(rankings, name=f"{weight:g}")


def rows_of(folders: Sequence[RunFolder], relevant: int) -> Iterator[dict[str, Any]]:
    """Yield one row per weight."""
    first = folders[0].read_candidates()
    base = Run(list(first.values()), name="first stage")
    for weight in WEIGHTS:
        comparison = compare_runs(
            folders[0].read_qrels(), [reorder(first, folders, weight), base], MEASURE, relevant=relevant
        )
        (pair,) = comparison.pairs
        yield {
            "weight": weight,
            "queries": comparison.queries,
            MEASURE: round(comparison.runs[0].mean, 4),
            "first_stage": round(comparison.runs[1].mean, 4),
            "difference": round(pair.difference, 4),
            "low": round(pair.low, 4),
            "high": round(pair.high, 4),
            "p": pair.p,
        }


def measure(adapters: Mapping[str, Path | None], work: Path, data: Path, depth: int) -> None:
    """Measure a configuration, or several together, and append the rows to the results unless they are there."""
    name = "+".join(adapters)
    results = work / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    if any((row["configuration"], row["depth"]) == (name, depth) for row in map(json.loads, lines)):
        return
    rows: list[dict[str, Any]] = []
    for collection, settings in collections_of(data).items():
        folders = [
            judge_collection(collection, settings, work / "runs" / each, adapter, depth)
            for each, adapter in adapters.items()
        ]
        rows += [{"collection": collection, **row} for row in rows_of(folders, settings.get("relevant", 1))]
    for weight in WEIGHTS:
        differences = [row["difference"] for row in rows if row["weight"] == weight]
        mean = round(sum(differences) / len(differences), 4)
        rows.append({"collection": "mean", "weight": weight, "difference": mean})
    stamp = {"configuration": name, "depth": depth, "time": datetime.datetime.now().isoformat(timespec="seconds")}
    with results.open("a", encoding="utf-8") as file:  # in one call, so that a configuration is complete or absent
        file.write("".join(json.dumps({**stamp, **row}) + "\n" for row in rows))
    print(name, depth, *(f"{row['weight']:g}: {row['difference']:+.4f}" for row in rows[-len(WEIGHTS) :]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with msmarco_candidates, qrels and cranfield")
    parser.add_argument("--only", nargs="*", default=(), help="configurations or listwise; all six if omitted")
    parser.add_argument("--deep", nargs="*", default=(), help="trained configurations to measure at a depth of 100")
    parser.add_argument("--together", nargs="*", help="folders of adapters whose judges are measured together")
    parser.add_argument("--lists", type=int, help="another number of lists; the configuration is named by it")
    parser.add_argument("--seed", type=int, help="another seed; the configuration is named by it")
    given = parser.parse_args()
    work, data = given.work.resolve(), given.data.resolve()
    overrides = {
        **({"seed": given.seed} if given.seed is not None else {}),
        **({"data": {"max_lists": given.lists}} if given.lists else {}),
    }
    suffix = "".join(f"-{key}{value}" for key, value in (("n", given.lists), ("s", given.seed)) if value is not None)
    if given.together:
        both = {name: None if name == "untrained" else work / "adapters" / name for name in given.together}
        measure(both, work, data, 20)
        return
    names = given.only or list(tomllib.loads((HERE / "configurations.toml").read_text(encoding="utf-8")))
    if not given.deep:
        measure({"untrained": None}, work, data, 20)
    for name in given.deep or names:
        adapter = None if name == "untrained" else work / "adapters" / f"{name}{suffix}"
        began, cpu = time.monotonic(), time.process_time()
        if adapter and not (adapter / "result.json").is_file():
            result = train_adapter(recipe_of(name, work, overrides), adapter, resume=True, device="cpu")
            seconds = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} CPU s here"
            print(name, f"{result.steps} steps, loss {result.loss:.4f}, {seconds}", flush=True)
        measure({f"{name}{suffix}": adapter}, work, data, 100 if given.deep else 20)


if __name__ == "__main__":
    main()
