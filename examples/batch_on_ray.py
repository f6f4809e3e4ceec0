"""Rerank many lists with several workers of Ray, each with a model of its own.

python batch_on_ray.py                  six questions about Python's standard library
python batch_on_ray.py jsonl:FOLDER     all queries of a folder with docs.jsonl and queries.jsonl
"""

import sys
from pathlib import Path

from rerank import RunSpec
from rerank.experiment import run_experiment
from rerank.experiment.spec import Execution

spec = RunSpec(
    collection=sys.argv[1] if sys.argv[1:] else "pydoc",
    depth=100 if sys.argv[1:] else 5,
    max_queries=None if sys.argv[1:] else 6,
    model="smollm2-135m",
    measures=("nDCG@10",),
)

# "ray" starts Ray on this machine, and "ray:HOST:PORT" uses a cluster. This process alone writes the folder, so
# `resume` continues after whatever ended the run or a worker. Workers share the lists in blocks of 8 batches.
execution = Execution(out=Path("runs/ray"), resume=True, engine="ray", workers=2, batch_size=1)
summary = run_experiment(spec, execution)

print("windows:", summary["windows"])
print("scores:", summary["scores"])
print("folder:", summary["folder"])
