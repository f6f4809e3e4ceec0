"""Training data of listwise rerankers: who labels lists, how labels are kept, sifted, split, varied and looked through.

A label is an order of documents that a first stage found for a query. Ids are kept, texts stay in their collection.
Importing this package imports no torch.
"""

from __future__ import annotations

from rerank.finetune.labels.files import read_labels, write_labels
from rerank.finetune.labels.lists import LabelList
from rerank.finetune.labels.reading import read_lists
from rerank.finetune.labels.texts import with_texts

__all__ = ["LabelList", "read_labels", "read_lists", "with_texts", "write_labels"]
