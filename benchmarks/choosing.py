"""What goes into a prompt: the first passages, diverse ones, or a selected set. The last line is JSON.

    python benchmarks/choosing.py --data ../shared/data --model smollm2-135m

A case is a question with two parts, the texts of two queries of one year of TREC Deep Learning joined by "and"; every
query is in at most one case. The candidates are BM25's best 100 of all passages in the lists of both years. A passage
covers a part if its grade for that query is at least 2; cases whose candidates do not cover both parts are left out. A
second table is about the queries themselves, with their own lists.

``coverage`` is subtopic recall: the share of the parts that a chosen passage covers (Zhai, Cohen and Lafferty, SIGIR
2003). ``repeats`` is redundancy: of the chosen passages that cover a part, the share that covers no further one.
``ndcg`` is nDCG@10 with the larger of both grades, over the judged passages of both queries. Tokens are words and
punctuation marks. Intervals are 95 percentile intervals of a bootstrap over cases.

``gpt-4 grades`` is a stand-in for a model that selects well: in every window, it selects the first of the best passages
for each part, by the grades that GPT-4 gave to these passages (UMBRELA, for DL 2019 only). It knows the two parts, so
it shows what a selection can save, not how well GPT-4 selects. It is compared with the list ranked by the same grades,
for the better of both parts.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from evidence import Pool

from rerank import Reranker
from rerank.prompts.word_tokens import WordTokens
from rerank.reranker import Hit, Hits
from rerank.retrieval import open_first_stage
from rerank.retrieval.base.given_documents import InMemoryCorpus
from rerank.tasks import GenerationTask, Reply, Request
from rerank.types import Document, Query, Ranking

GPT4 = "llm_judgments/umbrella_gpt-4_zeroshot_dl19.txt.gz"
TOKENS = WordTokens(10**9)
#: Name -> what is chosen. The budget of 300 tokens is that of about five passages.
CHOICES: Mapping[str, Callable[[Hits], Hits]] = {
    "first 5": lambda hits: hits.top_k(5),
    "unique 5": lambda hits: hits.unique().top_k(5),
    **{f"mmr {weight} 5": lambda hits, w=weight: hits.diverse(5, w) for weight in (0.9, 0.7, 0.5, 0.3)},  # type: ignore[misc]
    "first, 300 tokens": lambda hits: hits.fit(300),
    "unique, 300 tokens": lambda hits: hits.unique().fit(300),
    **{
        f"mmr {weight}, 300 tokens": lambda hits, w=weight: hits.diverse(20, w).fit(300)  # type: ignore[misc]
        for weight in (0.9, 0.7, 0.5, 0.3)
    },
}
#: Differences with intervals: a choice, and what it is compared with.
COMPARED = {
    **{name: "first 5" for name in CHOICES if name.endswith(" 5")},
    **{name: "first, 300 tokens" for name in CHOICES if name.endswith("tokens")},
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A question, its candidates, and the grades of each part by document."""

    hits: Hits
    query: str
    parts: tuple[Mapping[str, int], ...]
    part_ids: tuple[str, ...]

    def covered(self, doc: str) -> set[int]:
        """Return the parts that a document covers."""
        return {index for index, grades in enumerate(self.parts) if grades.get(doc, 0) >= 2}

    def grade(self, doc: str) -> int:
        """Return the larger grade of a document."""
        return max(grades.get(doc, 0) for grades in self.parts)

    def measure(self, chosen: Hits) -> dict[str, float]:
        """Return the measures of the chosen documents."""
        seen: set[int] = set()
        covering = repeating = 0
        for hit in chosen:
            covers = self.covered(hit.document.id)
            covering += bool(covers)
            repeating += bool(covers) and covers <= seen
            seen |= covers
        ideal = sorted((self.grade(doc) for doc in {doc for grades in self.parts for doc in grades}), reverse=True)
        return {
            "documents": len(chosen),
            "tokens": sum(TOKENS.lengths([hit.text for hit in chosen])),
            "coverage": len(seen) / len(self.parts),
            "repeats": repeating / covering if covering else 0.0,
            "ndcg": _dcg([self.grade(hit.document.id) for hit in chosen]) / (_dcg(ideal) or 1.0),
        }


def _dcg(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades[:10], start=1))


def make_case(ranking: Ranking, *parts: tuple[str, Mapping[str, int]]) -> Case:
    """Return the case of a ranked list."""
    pairs = enumerate(zip(ranking.docs, ranking.scores, strict=True))
    hits = Hits(
        Hit(corpus_id=at, rank=at + 1, document=document, score=score, unit_score=1 / (at + 1))
        for at, (document, score) in pairs
    )
    hits.count_tokens = TOKENS.lengths
    ids, grades = zip(*parts, strict=True)
    return Case(hits=hits, query=ranking.query.text, parts=grades, part_ids=ids)


def two_part_cases(pool: Pool, years: Sequence[Sequence[str]], seed: int) -> list[Case]:
    """Pair the queries of each year at random, and search for both texts at once."""
    rng = random.Random(seed)
    pairs = []
    for queries in years:
        shuffled = rng.sample(queries, len(queries))
        pairs += [*zip(shuffled[::2], shuffled[1::2], strict=False)]
    texts = {doc: text for passages in pool.passages.values() for doc, text in passages.items()}
    corpus = InMemoryCorpus([Document(id=doc, text=text) for doc, text in sorted(texts.items())], name="pool")
    questions = [Query(id=f"{a}+{b}", text=f"{pool.queries[a]} and {pool.queries[b]}") for a, b in pairs]
    run = open_first_stage("bm25", corpus).search(questions, k=100)
    cases = [
        make_case(run[question.id], (a, pool.grades[a]), (b, pool.grades[b]))
        for question, (a, b) in zip(questions, pairs, strict=True)
    ]
    return [case for case in cases if len(set().union(*(case.covered(hit.document.id) for hit in case.hits))) == 2]


@dataclass
class GradesModel:
    """A backend that selects by grades; see the module's docstring."""

    grades: Mapping[str, Mapping[str, int]]
    ids: Mapping[str, str]  # text -> document
    parts: tuple[str, ...] = ()
    batch_size: int = 1
    costs_money: bool = False
    tasks: frozenset[type[Any]] = frozenset({GenerationTask})
    identity: Mapping[str, str] = field(default_factory=lambda: {"model": "gpt-4 grades"})
    tokens: WordTokens = field(default_factory=lambda: WordTokens(10**6))

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """Write the selection of each window."""
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        docs = [self.ids[doc.text] for doc in request.window.docs]
        best: dict[int, None] = {}
        for part in self.parts:
            grades = [self.grades.get(part, {}).get(doc, 0) for doc in docs]
            if max(grades) >= 2:
                best[grades.index(max(grades)) + 1] = None
        text = "Selection: " + (" > ".join(f"[{number}]" for number in best) or "none")
        tokens_in, (tokens_out,) = self.tokens.count(request.prompt), self.tokens.lengths([text])
        return Reply(text=text, tokens_in=tokens_in, tokens_out=tokens_out)


def select(case: Case, reranker: Reranker, depth: int) -> tuple[Hits, Hits]:
    """Return the whole list and the selected documents of a case, with the documents of its own hits."""
    ranked = reranker.rank(case.query, [hit.document for hit in case.hits[:depth]])
    return ranked, ranked.selected()


def summarize(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each measure."""
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}


def difference(
    rows: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]], resamples: int
) -> dict[str, Any]:
    """Return mean differences with their 95 percent intervals."""
    draws = np.random.default_rng(1).integers(0, len(rows), (resamples, len(rows)))
    found = {}
    for name in ("coverage", "repeats", "ndcg"):
        values = np.array([row[name] - other[name] for row, other in zip(rows, base, strict=True)])
        low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
        found[name] = [round(float(number), 4) for number in (values.mean(), low, high)]
    return found


def compare(cases: Sequence[Case], resamples: int) -> dict[str, Any]:
    """Measure every choice on the cases, and the differences in `COMPARED`."""
    rows = {name: [case.measure(choose(case.hits)) for case in cases] for name, choose in CHOICES.items()}
    return {
        "cases": len(cases),
        "means": {name: summarize(measured) for name, measured in rows.items()},
        "differences": {
            name: difference(rows[name], rows[base], resamples) for name, base in COMPARED.items() if name != base
        },
    }


def compare_selection(
    cases: Sequence[Case], rerankers: Sequence[Reranker], bases: Sequence[Hits], depth: int, resamples: int
) -> dict[str, Any]:
    """Measure set selection, and the first and diverse passages of the ranked lists in ``bases``.

    These are five passages, or those that fit in as many tokens as the selection has.
    """
    rows: dict[str, list[dict[str, float]]] = {}
    ranked = []
    started = time.process_time()
    for case, reranker, base in zip(cases, rerankers, bases, strict=True):
        whole, selected = select(case, reranker, depth)
        ranked.append(whole)
        tokens = sum(TOKENS.lengths([hit.text for hit in selected]))
        chosen = {
            "selected": selected,
            "first, equal tokens": base.fit(tokens),
            "mmr 0.5, equal tokens": base.diverse(20).fit(tokens),
            "first 5": base.top_k(5),
            "mmr 0.5 5": base.diverse(5),
        }
        for name, hits in chosen.items():
            rows.setdefault(name, []).append(case.measure(hits))
    windows: dict[str, int] = {}
    for hits in ranked:
        for status, count in hits.windows.items():
            windows[status] = windows.get(status, 0) + count
    selection = rows["selected"]
    return {
        "cases": len(cases),
        "means": {name: summarize(measured) for name, measured in rows.items()},
        "differences": {
            f"selected - {name}": difference(selection, measured, resamples)
            for name, measured in rows.items()
            if measured is not selection
        },
        "windows": {status: count for status, count in windows.items() if count},
        "calls": sum(hits.usage.calls for hits in ranked) / len(cases),
        "prompt_tokens": round(sum(hits.usage.tokens_in for hits in ranked) / len(cases)),
        "completion_tokens": round(sum(hits.usage.tokens_out for hits in ranked) / len(cases), 1),
        "cpu_seconds": round((time.process_time() - started) / len(cases), 2),
    }


def rank_by_grades(case: Case, grades: Mapping[str, Mapping[str, int]]) -> Hits:
    """Return the hits of a case by decreasing grade for either part."""
    found = [max(grades.get(part, {}).get(hit.document.id, 0) for part in case.part_ids) for hit in case.hits]
    order = sorted(range(len(found)), key=lambda position: -found[position])
    pairs = enumerate(order, start=1)
    hits = Hits(replace(case.hits[position], rank=rank, score=float(found[position])) for rank, position in pairs)
    hits.count_tokens = TOKENS.lengths
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with lists and judgments.")
    parser.add_argument("--model", help="Model that selects sets, such as smollm2-135m; none if omitted.")
    parser.add_argument("--model-cases", type=int, default=12, help="Number of cases for the model.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of the pairs.")
    parser.add_argument("--resamples", type=int, default=10_000, help="Number of bootstrap resamples.")
    options = parser.parse_args()
    pool = Pool.read(options.data)
    lists = json.loads(
        gzip.decompress((options.data / "msmarco_candidates/BM25/retrieve_results_dl19.json.gz").read_bytes())
    )
    first_year = sorted({str(row["hits"][0]["qid"]) for row in lists})
    cases = two_part_cases(pool, [first_year, sorted(set(pool.queries) - set(first_year))], options.seed)
    result: dict[str, Any] = {"seed": options.seed, "two parts": compare(cases, options.resamples)}
    singles = []
    for row in lists:
        query = Query(id=str(row["hits"][0]["qid"]), text=row["query"])
        scored = [(Document(id=hit["docid"], text=hit["content"]), float(hit["score"])) for hit in row["hits"]]
        singles.append(make_case(Ranking.from_scores(query, scored), (query.id, pool.grades[query.id])))
    result["single"] = compare(singles, options.resamples)
    own = [case for case in cases if case.part_ids[0] in first_year]
    if (options.data / GPT4).exists():
        grades: dict[str, dict[str, int]] = {}
        for line in gzip.decompress((options.data / GPT4).read_bytes()).decode().splitlines():
            query_id, _, doc, grade = line.split()
            grades.setdefault(query_id, {})[doc] = int(grade)
        ids = {text: doc for passages in pool.passages.values() for doc, text in passages.items()}
        models = [GradesModel(grades, ids, case.part_ids) for case in own]
        rerankers = [Reranker.from_backend(model, method="setr") for model in models]
        bases = [rank_by_grades(case, grades) for case in own]
        result["gpt-4 grades"] = compare_selection(own, rerankers, bases, 100, options.resamples)
    if options.model:
        few = own[: options.model_cases]
        with Reranker.from_pretrained(options.model, method="setr") as reranker:
            bases = [case.hits for case in few]
            result[options.model] = compare_selection(few, [reranker] * len(few), bases, 20, options.resamples)
    for title, table in result.items():
        if isinstance(table, dict):
            print(f"{title}: {table['cases']} cases")
            for name, means in table["means"].items():
                print(f"  {name:21}", "  ".join(f"{measure} {value:8.3f}" for measure, value in means.items()))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
