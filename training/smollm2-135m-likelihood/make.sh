#!/usr/bin/env bash
# From texts of Debian packages to the measured configurations. Every step continues where it stopped. Needs
# the extras train and dense and apt-get; DATA names the folder with msmarco_candidates, qrels and cranfield. COUNT is the number
# of passages for which a query is written; about seven of ten find their passage again and become lists.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
data=$(realpath "$DATA")
work=$(realpath -m "${WORK:-$here/work}")
mkdir -p "$work/packages"
rerank models pull smollm2-135m
rerank models pull all-minilm-l6-v2
if [ ! -s "$work/corpus/counts.json" ]; then
    # shellcheck disable=SC2046
    (cd "$work/packages" && apt-get download $(sed -n 's/^package = "\(.*\)"/\1/p' "$here/sources.toml"))
    python "$here/corpus.py" --packages "$work/packages" --out "$work/corpus"
fi
# Near-duplicates of test queries are left out, also of those that choose nothing here.
lists=$data/msmarco_candidates/BM25/retrieve_results
against=(--against "cranfield:$data/cranfield" --against "requests:${lists}_dl19.json.gz" --against "requests:${lists}_dl21.json.gz")
python "$here/write_queries.py" --corpus "$work/corpus" --out "$work/queries" --count "${COUNT:-1600}" "${against[@]}"
rerank label make --collection "jsonl:$work/queries" --depth 30 --teacher dense:all-minilm-l6-v2 --teacher bm25 \
    --fuse z-score -o "$work/labels.jsonl"
rerank label check "$work/labels.jsonl" --collection "jsonl:$work/queries" "${against[@]}" | tee "$work/check.txt"
python "$here/search.py" --work "$work" --data "$data" "$@"
