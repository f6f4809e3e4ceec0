#!/usr/bin/env bash
# After make.sh: three seeds of the chosen configuration, the listwise adapter, both judges together, the agreement with
# the teacher, and the tables. A training takes a core for one to two hours on a CPU that multiplies bfloat16, three times
# as long on others; two run at a time. The tables also need vaswani and the lists of SPLADE++ in DATA.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
data=$(realpath "$DATA")
work=$(realpath -m "${WORK:-$here/work}")
chosen=all-linear weight=.25
run() { python "$here/$1.py" "${@:2}" --work "$work" --data "$data"; }
seed() { run search --only "$chosen" --lists 800 --seed "$1" --depth 100; }
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
seed 1 &
run search --only listwise --depth 20
wait $!
seed 2 &
seed 3
wait $!
best=${BEST:-$chosen-n800-s1} # BEST names the seed with the best mean of DL21 and Cranfield odd
run search --together "$best" listwise --depth 20
for part in .1 .25 .5; do run search --together "$best" listwise --parts 1 "$part" --depth 20; done
run agreement --system "$best@0/20" --system listwise@0/20 --system untrained@0/20 --system smollm2-135m-attention@0/20
run tables final --system "untrained@$weight" --system untrained@.5 --system "$best@$weight" \
    --system smollm2-135m-attention@.5 --system listwise@1/20 --system "$best+listwise@.5/20"
run tables lists --system untrained@.5
