# %% [markdown]
# # Compare two systems for a paper
#
# Two runs are evaluated on the same judgments, their difference is tested, and the table for the paper is printed.

# %%
from rerank import Run, compare_runs, open_collection, open_first_stage, read_qrels, read_run

# Your own files: RUNS = ("bm25.trec", "mine.trec") and QRELS = "qrels.txt"
RUNS: tuple[str, ...] = ()
QRELS = ""

# %% [markdown]
# Without files, the two systems are BM25 with and without normalisation of document lengths (b), on the documentation
# of Python's standard library. Its 91 questions and their judgments come with the package; a language model made them.

# %%
if RUNS:
    qrels, runs = read_qrels(QRELS), [read_run(path) for path in RUNS]
else:
    collection = open_collection("pydoc")
    queries, qrels = collection.queries(), collection.qrels()
    systems = {"BM25": "bm25,k1=0.9,b=0.4", "BM25 without lengths": "bm25,k1=0.9,b=0"}
    searches = [open_first_stage(selector, collection) % 100 for selector in systems.values()]
    runs = [Run(search(queries).values(), name=name) for search, name in zip(searches, systems, strict=True)]

# %% [markdown]
# A paired t-test over the queries. With more than two runs, p-values are corrected for the number of pairs (Holm).

# %%
comparison = compare_runs(qrels, runs, "nDCG@10")
for pair in comparison.pairs:
    verdict = "significant" if pair.significant else "not significant"
    interval = f"{pair.difference:+.4f} [{pair.low:.4f}, {pair.high:.4f}]"
    print(f"{pair.a} minus {pair.b}: {interval}, p = {pair.p_adjusted:.2g}, {verdict}")

# %% [markdown]
# The table for the paper. `to_markdown` and `to_html` write the other forms.

# %%
print(comparison.to_latex())
