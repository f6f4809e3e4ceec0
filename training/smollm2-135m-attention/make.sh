#!/usr/bin/env bash
# From free texts to the shipped adapter: on two cores half an hour for the texts, half an hour for the labels and an hour
# for the training. Every step goes on where it stopped. Needs the extras train and dense and, of Debian's packages,
# wordnet-base and dict-foldoc; CRANFIELD and VASWANI name the folders of those collections.
set -euo pipefail
CRANFIELD=$(realpath "$CRANFIELD") VASWANI=$(realpath "$VASWANI")
cd "$(dirname "$0")"
work=work
mkdir -p "$work/labels"
ln -sfn "$CRANFIELD" "$work/cranfield"
rerank models pull smollm2-135m
rerank models pull all-minilm-l6-v2
python passages.py --wordnet /usr/share/wordnet --topics "${TOPICS:-408}" --out "$work/passages.jsonl"
python gather.py --out "$work/collections" --passages "$work/passages.jsonl" --foldoc /usr/share/dictd \
    --wordnet /usr/share/wordnet --cranfield "$CRANFIELD" --vaswani "$VASWANI"
for folder in "$work"/collections/*; do
    name=$(basename "$folder")
    [ -s "$work/labels/$name.jsonl" ] ||
        rerank label make --collection "beir:$folder" --depth 30 --teacher dense:all-minilm-l6-v2 \
            -o "$work/labels/$name.jsonl"
done
rerank train recipe.toml --out "$work/adapter" --resume
