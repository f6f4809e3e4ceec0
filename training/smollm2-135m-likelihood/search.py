"""Train the configurations, and measure each on DL21 and on Cranfield's odd-numbered queries.

    python search.py --work work --data FOLDER

For each configuration, `work/results.jsonl` gets one row per collection and first-stage weight (nDCG@10, its difference
to BM25's with a 95 % interval and the p of a two-sided paired t-test), and one row per weight with the mean difference
of both collections, by which a configuration is chosen. The weights are varied over stored scores. `untrained` is the
base model. TREC DL 2019 and Cranfield's even-numbered queries are not used.

Everything that was finished is skipped, and a training continues from its last checkpoint. `listwise` is the recipe
listwise.toml.
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

from lists import ODD, Lists, ListSource
from scores import Scores, compute_scores, order_by_scores

from rerank.evaluation import compare_runs
from rerank.finetune.recipe import Recipe
from rerank.finetune.trainer.training import train_adapter
from rerank.io.settings_files import read_toml_file

HERE = Path(__file__).parent
WEIGHTS = (0.0, 0.25, 0.5, 1.0)
MEASURE = "nDCG@10"
#: Name of the base model among the configurations, and the name of the adapter that comes with listrank.
UNTRAINED, SHIPPED = "untrained", "smollm2-135m-attention"


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


def adapter_of(name: str, work: Path) -> str:
    """Return the folder of a trained configuration, the name of the shipped adapter, or nothing for the base model."""
    return name if name == SHIPPED else "" if name == UNTRAINED else str(work / "adapters" / name)


def check_adapters(names: Sequence[str], work: Path) -> None:
    """End the script if the folder lacks an adapter."""
    known = {UNTRAINED, SHIPPED} | {path.name for path in (work / "adapters").glob("*")}
    if unknown := set(names) - known:
        available = ", ".join(sorted(known))
        raise SystemExit(f"{work / 'adapters'} has no adapter {min(unknown)!r}; available: {available}")


def rows_of(lists: Lists, judges: Sequence[Scores], parts: Sequence[float] = ()) -> Iterator[dict[str, Any]]:
    """Yield one row per weight."""
    for weight in WEIGHTS:
        own = order_by_scores(lists.run, judges, weight, parts)
        comparison = compare_runs(lists.qrels, [own, lists.run], MEASURE, relevant=lists.relevant)
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


def measure(names: Sequence[str], work: Path, data: Path, depth: int, parts: Sequence[float] = ()) -> None:
    """Measure a configuration, or several together, and append the rows to the results unless they are there."""
    name = "+".join(names) + "".join(f" {part:g}" for part in parts)
    results = work / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    if any((row["configuration"], row["depth"]) == (name, depth) for row in map(json.loads, lines)):
        return
    rows: list[dict[str, Any]] = []
    for collection, queries in (("DL21", frozenset[str]()), ("Cranfield", ODD)):
        lists = ListSource(data).lists(collection, "BM25", depth, queries)
        judges = [
            compute_scores(
                work / "scores" / each / f"{collection}.sqlite", f"BM25-{depth}", lists.run, adapter_of(each, work)
            )
            for each in names
        ]
        rows += [{"collection": collection, **row} for row in rows_of(lists, judges, parts)]
    for weight in WEIGHTS:
        differences = [row["difference"] for row in rows if row["weight"] == weight]
        mean = round(sum(differences) / len(differences), 4)
        rows.append({"collection": "mean", "weight": weight, "difference": mean})
    stamp = {"configuration": name, "depth": depth, "time": datetime.datetime.now().isoformat(timespec="seconds")}
    with results.open("a", encoding="utf-8") as file:  # in one call, so that a configuration is complete or absent
        file.write("".join(json.dumps({**stamp, **row}) + "\n" for row in rows))
    print(name, depth, *(f"{row['weight']:g}: {row['difference']:+.4f}" for row in rows[-len(WEIGHTS) :]), flush=True)


def train(name: str, folder: Path, work: Path, overrides: Mapping[str, Any]) -> None:
    """Train a configuration unless it is finished; a training continues from its last checkpoint."""
    if name == UNTRAINED or (folder / "result.json").is_file():
        return
    began, cpu = time.monotonic(), time.process_time()
    result = train_adapter(recipe_of(name, work, overrides), folder, resume=True, device="cpu")
    seconds = f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} CPU s here"
    print(folder.name, f"{result.steps} steps, loss {result.loss:.4f}, {seconds}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with msmarco_candidates, qrels and cranfield")
    parser.add_argument("--only", nargs="*", help="configurations, untrained or listwise; all but listwise if omitted")
    parser.add_argument("--depth", type=int, default=20, help="number of candidates to rank")
    parser.add_argument("--together", nargs="*", help="folders of adapters whose judges are measured together")
    parser.add_argument("--parts", nargs="*", type=float, default=(), help="weight of each judge; equal if omitted")
    parser.add_argument("--lists", type=int, help="another number of lists; the configuration is named by it")
    parser.add_argument("--seed", type=int, help="another seed; the configuration is named by it")
    given = parser.parse_args()
    work, data = given.work.resolve(), given.data.resolve()
    overrides = {
        **({"seed": given.seed} if given.seed is not None else {}),
        **({"data": {"max_lists": given.lists}} if given.lists else {}),
    }
    suffix = "".join(f"-{key}{value}" for key, value in (("n", given.lists), ("s", given.seed)) if value is not None)
    if given.parts and len(given.parts) != len(given.together or ()):
        parser.error(f"--together has {len(given.together or ())} names and --parts {len(given.parts)} weights")
    if given.parts and not (min(given.parts) >= 0 and 0 < sum(given.parts) < float("inf")):
        parser.error(f"--parts is {given.parts}; expected weights of 0 or more, at least one above 0")
    if given.together:
        check_adapters(given.together, work)
        measure(given.together, work, data, given.depth, given.parts)
        return
    all_names = [UNTRAINED, *tomllib.loads((HERE / "configurations.toml").read_text(encoding="utf-8"))]
    if unknown := set(given.only or ()) - {*all_names, "listwise"}:
        parser.error(f"--only has {min(unknown)!r}; expected some of {', '.join([*all_names, 'listwise'])}")
    for name in given.only or all_names:
        folder = name if name == UNTRAINED else f"{name}{suffix}"
        train(name, work / "adapters" / folder, work, overrides)
        measure([folder], work, data, given.depth)


if __name__ == "__main__":
    main()
