"""Evidence spans: how often the attention judge finds a sentence planted in unrelated passages. The last line is JSON.

    python benchmarks/evidence.py --data ../shared/data

A case is a query, a sentence of a passage that is relevant to it (grade 2 or 3), and a document: the sentences of two
passages retrieved for two other queries, with the relevant sentence at a random place. Every sentence of the relevant
passage may be drawn, whatever words it shares with the query. Queries and passages are those of TREC DL 2019 and 2021.
Queries whose id is divisible by 5 were used for choosing how the scores of tokens are added up, and are left out;
``--development`` uses them instead, and compares sums, means and sums divided by the square root of the length.

``top`` is the share of cases in which the planted sentence has the highest score of its document, ``mrr`` the mean of
1/rank and ``rank`` the mean rank among all sentences; ties count with their expected value. Intervals are 95 percentile
intervals of a bootstrap over queries, since cases of one query are not independent.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import bm25s
import numpy as np
from numpy.typing import NDArray

from rerank.assemble import assemble_ranker
from rerank.indexing.text_analysis import make_analyzer
from rerank.judges.attention.evidence import EvidenceSpan, select_evidence, split_sentences
from rerank.models.presets import model_folder
from rerank.types import Document, Query, Window

#: Lists with passage texts, and their judgments.
LISTS = (
    ("msmarco_candidates/BM25/retrieve_results_dl19.json.gz", "qrels/qrels.dl19-passage.txt"),
    ("msmarco_candidates/SPLADE_P_P_ENSEMBLE_DISTIL/retrieve_results_dl19.json.gz", "qrels/qrels.dl19-passage.txt"),
    ("msmarco_candidates/BM25/retrieve_results_dl21.json.gz", "qrels/qrels.dl21-passage.txt.gz"),
)
#: Name -> settings of the ranker.
JUDGES: Mapping[str, dict[str, Any]] = {
    "icr": {"model": "smollm2-135m", "method": "icr"},
    "adapter": {"adapter": "smollm2-135m-attention"},
}
Scorer = Callable[["Case"], Sequence[float]]
_analyze = make_analyzer("en")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A planted sentence.

    Attributes:
        query: The query.
        other: The text of another query, to which no sentence of the document is relevant.
        text: The document.
        sentences: Its sentences, as start and end in characters.
        planted: Index of the relevant sentence.
        distractors: Documents for other queries, to fill a list.
    """

    query: Query
    other: str
    text: str
    sentences: Sequence[tuple[int, int]]
    planted: int
    distractors: Sequence[str]

    def texts(self) -> list[str]:
        """Return the sentences."""
        return [self.text[start:end] for start, end in self.sentences]


@dataclass
class Pool:
    """Queries, their passages and their judgments."""

    queries: dict[str, str] = field(default_factory=dict)
    passages: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    grades: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))

    @classmethod
    def read(cls, folder: Path) -> Pool:
        """Read all lists."""
        pool = cls()
        for lists, qrels in LISTS:
            for line in _read(folder / qrels).splitlines():
                query, _, doc, grade = line.split()
                pool.grades[query][doc] = int(grade)
            for row in json.loads(_read(folder / lists)):
                for hit in row["hits"]:
                    pool.queries[str(hit["qid"])] = row["query"]
                    pool.passages[str(hit["qid"])][hit["docid"]] = hit["content"]
        return pool

    def sentences(self, query: str, doc: str) -> list[str]:
        """Return the sentences of a passage, each on one line."""
        text = self.passages[query][doc]
        return [" ".join(text[start:end].split()) for start, end in split_sentences(text)]


def _read(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()


def make_cases(pool: Pool, count: int, seed: int, *, development: bool = False) -> list[Case]:
    """Draw cases, about the same number for every query."""
    rng = random.Random(seed)
    queries = sorted(query for query in pool.queries if (int(query) % 5 == 0) == development)
    cases: dict[tuple[str, str], Case] = {}
    while len(cases) < count:
        for query in rng.sample(queries, len(queries)):
            relevant = sorted(doc for doc in pool.passages[query] if pool.grades[query].get(doc, 0) >= 2)
            choices = [s for doc in rng.sample(relevant, len(relevant))[:1] for s in pool.sentences(query, doc)]
            choices = [sentence for sentence in choices if _is_plain(sentence)]
            if choices and len(cases) < count:
                planted = rng.choice(choices)
                case = _plant(pool, query, planted, rng)
                if case is not None:
                    cases.setdefault((query, planted), case)
    return list(cases.values())


def _is_plain(sentence: str) -> bool:
    return 5 <= len(sentence.split()) <= 60


def _plant(pool: Pool, query: str, planted: str, rng: random.Random) -> Case | None:
    """Return a case, or None if the text is divided at other places than its parts."""
    hosts = _draw_hosts(pool, query, rng, 2)
    parts = [sentence for host in hosts for sentence in host]
    position = rng.randrange(len(parts) + 1)
    parts.insert(position, planted)
    text = " ".join(parts)
    start = len(" ".join(parts[:position])) + bool(position)
    span = (start, start + len(planted))
    sentences = split_sentences(text)
    if span not in sentences:
        return None
    return Case(
        query=Query(id=query, text=pool.queries[query]),
        other=pool.queries[rng.choice([other for other in sorted(pool.queries) if other != query])],
        text=text,
        sentences=sentences,
        planted=sentences.index(span),
        distractors=[" ".join(host) for host in _draw_hosts(pool, query, rng, 9)],
    )


def _draw_hosts(pool: Pool, query: str, rng: random.Random, count: int) -> list[list[str]]:
    """Return the sentences of unjudged or irrelevant passages of other queries."""
    hosts: dict[str, list[str]] = {}
    while len(hosts) < count:
        other = rng.choice(sorted(pool.queries))
        doc = rng.choice(sorted(pool.passages[other]))
        sentences = pool.sentences(other, doc)
        is_unrelated = other != query and pool.grades[query].get(doc, 0) < 1
        if is_unrelated and 3 <= len(sentences) <= 6 and all(map(_is_plain, sentences)):
            hosts.setdefault(other, sentences)
    return list(hosts.values())


# Scores of the sentences of a case


def length_scores(case: Case) -> list[float]:
    """Number of characters."""
    return [float(end - start) for start, end in case.sentences]


def overlap_scores(case: Case) -> list[float]:
    """Number of different stems of the query, without stop words."""
    terms = set(_analyze(case.query.text))
    return [float(len(terms & set(_analyze(text)))) for text in case.texts()]


def bm25_scores(cases: Sequence[Case]) -> Scorer:
    """BM25 of the sentences, with the document frequencies of the sentences of all cases."""
    rows = [_analyze(text) for case in cases for text in case.texts()]
    index = bm25s.BM25()
    index.index(rows, show_progress=False)
    starts = dict(zip(map(id, cases), np.cumsum([0, *(len(case.sentences) for case in cases)]), strict=False))

    def score(case: Case) -> list[float]:
        terms = [term for term in _analyze(case.query.text) if term in index.vocab_dict]
        scores = index.get_scores(terms) if terms else np.zeros(len(rows))
        start = starts[id(case)]
        return [float(value) for value in scores[start : start + len(case.sentences)]]

    return score


def embedding_scores() -> Scorer:
    """Cosine of the embeddings of query and sentence by all-MiniLM-L6-v2."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(model_folder("all-minilm-l6-v2")), device="cpu")

    def score(case: Case) -> list[float]:
        vectors = model.encode([case.query.text, *case.texts()], normalize_embeddings=True, show_progress_bar=False)
        return [float(value) for value in vectors[1:] @ vectors[0]]

    return score


def attention_scores(judge: Any, backend: Any, *, other_query: bool = False, in_list: bool = False) -> Scorer:
    """Share of the attention that each sentence receives; 0 for sentences that were cut."""

    def score(case: Case) -> list[float]:
        query = replace(case.query, text=case.other) if other_query else case.query
        # The document is in the middle of the list.
        texts = [*case.distractors[:4], case.text, *case.distractors[4:]] if in_list else [case.text]
        docs = tuple(Document(id=str(index), text=text) for index, text in enumerate(texts))
        window = Window(query, docs)
        (reply,) = backend.generate([judge.evidence_request(window)])
        spans = judge.evidence(window, reply)[texts.index(case.text)]
        shares = {span.start: span.score for span in spans}
        return [shares.get(start, 0.0) for start, _ in case.sentences]

    return score


def weight_by_length(result: Result, cases: Sequence[Case], power: float) -> Scorer:
    """The scores of a result, multiplied by the number of words of the sentence to a power."""
    rows = dict(zip(map(id, cases), result.scores, strict=True))
    return lambda case: [
        score * len(text.split()) ** power for score, text in zip(rows[id(case)], case.texts(), strict=True)
    ]


# Figures


def rank_planted(scores: Sequence[float], planted: int) -> tuple[float, float, float]:
    """Return whether the planted sentence is at rank 1, its 1/rank and its rank; expected values over ties."""
    better = sum(score > scores[planted] for score in scores)
    ranks = [better + 1 + index for index in range(sum(score == scores[planted] for score in scores))]
    return (ranks[0] == 1) / len(ranks), float(np.mean([1 / rank for rank in ranks])), float(np.mean(ranks))


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures of one scorer.

    Attributes:
        scores: Scores of the sentences of each case.
        values: (cases, 3): whether the planted sentence is at rank 1, 1/rank and rank.
        seconds: CPU seconds.
    """

    scores: Sequence[Sequence[float]]
    values: NDArray[np.float64]
    seconds: float

    @classmethod
    def measure(cls, scorer: Scorer, cases: Sequence[Case]) -> Result:
        """Score all cases."""
        began = time.process_time()
        scores = [scorer(case) for case in cases]
        seconds = time.process_time() - began
        ranked = [rank_planted(row, case.planted) for row, case in zip(scores, cases, strict=True)]
        return cls(scores=scores, values=np.array(ranked), seconds=seconds)

    def figures(self, cases: Sequence[Case], resamples: int) -> dict[str, Any]:
        """Return means with intervals."""
        result: dict[str, Any] = {"cases": len(cases), "cpu_seconds": round(self.seconds, 2)}
        for column, name in enumerate(("top", "mrr", "rank")):
            values = self.values[:, column]
            result[name] = [round(float(value), 4) for value in (values.mean(), *interval(values, cases, resamples))]
        return result

    def spans(self, cases: Sequence[Case]) -> dict[str, float]:
        """Return what the spans at the default threshold cover."""
        covered, length, count = [], [], []
        for case, row in zip(cases, self.scores, strict=True):
            sentences = [
                EvidenceSpan(start=start, end=end, score=score)
                for (start, end), score in zip(case.sentences, row, strict=True)
            ]
            spans = select_evidence(sentences)
            start, end = case.sentences[case.planted]
            covered.append(any(span.start <= start and end <= span.end for span in spans))
            length.append(sum(span.end - span.start for span in spans) / len(case.text))
            count.append(len(spans))
        named = (("covered", covered), ("text_share", length), ("spans", count))
        return {name: round(float(np.mean(values)), 4) for name, values in named}


def interval(values: NDArray[np.float64], cases: Sequence[Case], resamples: int) -> list[float]:
    """Return the 95 % interval of the mean by a bootstrap over queries."""
    ids = np.array([case.query.id for case in cases])
    groups = [values[ids == name] for name in sorted(set(ids))]
    sums, counts = np.array([group.sum() for group in groups]), np.array([len(group) for group in groups])
    drawn = np.random.default_rng(0).integers(len(groups), size=(resamples, len(groups)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return [float(value) for value in np.quantile(means, (0.025, 0.975))]


def compare(result: Result, other: Result, cases: Sequence[Case], resamples: int) -> dict[str, list[float]]:
    """Return differences of means with intervals, paired by case."""
    compared = {}
    for column, name in enumerate(("top", "mrr")):
        values = result.values[:, column] - other.values[:, column]
        compared[name] = [round(float(value), 4) for value in (values.mean(), *interval(values, cases, resamples))]
    return compared


def run_judges(cases: Sequence[Case], list_cases: int) -> dict[str, Result]:
    """Score with the attention judges: alone, with the text of another query, and in a list of ten."""
    results = {}
    for name, settings in JUDGES.items():
        setup = assemble_ranker(settings)
        backend = setup.open_backend()
        judge = setup.open_judge(backend)
        results[name] = Result.measure(attention_scores(judge, backend), cases)
        other = attention_scores(judge, backend, other_query=True)
        results[f"{name}_other_query"] = Result.measure(other, cases)
        if name == "adapter" and list_cases:
            in_list = attention_scores(judge, backend, in_list=True)
            results["adapter_in_list"] = Result.measure(in_list, cases[:list_cases])
    return results


def main() -> None:
    """Measure everything, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with lists and judgments")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--list-cases", type=int, default=50, help="cases judged in lists of ten; 0 for none")
    parser.add_argument("--development", action="store_true", help="use the queries that the others leave out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resamples", type=int, default=10_000)
    options = parser.parse_args()
    cases = make_cases(Pool.read(options.data), options.cases, options.seed, development=options.development)
    scorers = {
        "random": lambda case: [0.0] * len(case.sentences),
        "longest": length_scores,
        "overlap": overlap_scores,
        "bm25": bm25_scores(cases),
        "minilm": embedding_scores(),
    }
    results = {name: Result.measure(scorer, cases) for name, scorer in scorers.items()}
    results |= run_judges(cases, options.list_cases)
    if options.development:
        for name, power in itertools.product(JUDGES, (-0.5, -1.0)):
            results[f"{name}_length^{power}"] = Result.measure(weight_by_length(results[name], cases, power), cases)
    # Cases that no count of words can solve: the planted sentence and the query share no stem.
    without = [index for index, case in enumerate(cases) if not overlap_scores(case)[case.planted]]
    figures: dict[str, Any] = {}
    for name, result in results.items():
        figures[name] = result.figures(cases[: len(result.scores)], options.resamples)
        if len(result.scores) == len(cases):
            figures[name]["top_without_overlap"] = (
                round(float(result.values[without, 0].mean()), 4) if without else None
            )
        if name in JUDGES or name == "adapter_in_list":
            figures[name]["at_threshold"] = result.spans(cases[: len(result.scores)])
    pairs = [("adapter", "bm25"), ("adapter", "overlap"), ("adapter", "minilm"), ("adapter", "icr"), ("icr", "bm25")]
    differences = {f"{a}-{b}": compare(results[a], results[b], cases, options.resamples) for a, b in pairs}
    for name, row in figures.items():
        print(f"{name:22}{row['top']!s:28}{row['mrr']!s:28}{row['rank']!s:28}{row['cpu_seconds']:8.1f} s")
    print(
        json.dumps(
            {
                "cases": len(cases),
                "queries": len({case.query.id for case in cases}),
                "sentences": float(np.mean([len(case.sentences) for case in cases])),
                "without_overlap": len(without),
                "figures": figures,
                "differences": differences,
            }
        )
    )


if __name__ == "__main__":
    main()
