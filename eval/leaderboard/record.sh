#!/bin/sh
# Make our runs over BM25's lists of DL19 and DL21, and record the scores of all runs of both boards:
#     eval/leaderboard/record.sh DATA RUNS
# DATA is the folder that dl19-runs.toml describes; RUNS gets our runs, of which finished ones are kept. About 12 minutes of
# CPU time in one thread. PYTHON names the interpreter of an environment with the extra `all`.
set -eu
data=$1 runs=$2 home=$(dirname "$0") python=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

for year in 19 21; do
    lists="$data/msmarco_candidates/BM25/retrieve_results_dl$year.json.gz"
    qrels="$data/qrels/qrels.dl$year-passage.txt"
    test -f "$qrels" || qrels="$qrels.gz"
    out="$runs/dl$year"
    test -f "$out/minilm-rrf.toml" || "$python" "$home/minilm_runs.py" --lists "$lists" --out "$out"
    "$python" -m rerank run --collection "requests:$lists" --first-stage candidates --depth 20 \
        --model smollm2-135m --qrels "$qrels" --relevant 2 -m nDCG@10 --resume --out "$out/auto"
    "$python" "$home/fill_lists.py" "$out/auto" --lists "$lists" --out "$out/default"
    "$python" "$home/record_scores.py" --board "$home/dl$year-runs.toml" --data "$data" \
        --out "$home/dl$year.scores.json" "$out/minilm.run.gz" "$out/minilm-rrf.run.gz" "$out/default.run.gz"
done
