"""Counts what an accelerator would be asked to do: kernels, and transfers to the host, per list and per decoding step.

    python benchmarks/kernels.py

Nothing is computed. Tensors of torch's device ``meta`` have a shape and no data, and take every path that an
accelerator takes; a dispatch mode counts the operations on them, which are exact and the same on every machine. An
operation that only changes the view of a tensor is no kernel, and fused attention is one. A transfer copies results to
the host, which waits for the device; the copied values are zeros here, so the decoded permutations mean nothing. The
shapes are those of Llama-3.1-8B (32 layers, 32 heads that share 8 key-value heads, head size 128) in bfloat16; the
cross-encoder has the 6 layers of MiniLM-L6.

- `icr`: ``kernels`` of the attention weights of one tail, 9,400 keys, without prefill, and ``transfers`` per prompt;
  ``list`` has both for a list of 100 passages with the null query.
- `fullrank`: one list of 100 passages; `fullrank_step` is the mean of its decoding steps after the prefill.
- `fullrank_batch_step`: the same for 16 lists of different lengths in one batch, with ``clone_bytes``: bytes of keys
  and values that are copied; ``cache_bytes`` is the size of all keys and values.
- `likelihood`: 100 prompts on a common prefix, a query each, in batches of 16. `logits`: one window of 20.
- `cross_encoder`: 100 pairs in batches of 32.
- `prefill`: the calls of fused attention in prefills, by kind. `flash_possible`: whether all of one list are causal
  without a dense mask and with grouped heads, with and without a cached prefix.

Needs the extra cross-encoder. Kernels of different size count alike, so the counts show launches and round trips, and
say nothing about seconds. The last line is JSON.
"""

# transformers looks for a package named kernels and finds this file when a script beside it runs. The import must
# therefore do nothing and need nothing, so what it counts with is imported in `main`.

from __future__ import annotations

import argparse
import json


def main() -> None:
    """Count everything, and print one line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from kernel_counts import count_all, make_language_model

    from rerank.lm.loading import quiet_transformers

    with quiet_transformers():
        print(json.dumps(count_all(make_language_model())))


if __name__ == "__main__":
    main()
