"""Training data of listwise rerankers: teachers, label files, filters, splits, augmentation and checks.

A label is a ranking of the documents that a first stage retrieved for a query. Label files contain only ids; the texts
stay in the collection. Importing this package does not import torch.
"""

from rerank.finetune.labels.files import read_label_lists_of_file, read_labels, write_labels
from rerank.finetune.labels.lists import LabelList, attach_label_texts

__all__ = ["LabelList", "attach_label_texts", "read_label_lists_of_file", "read_labels", "write_labels"]
