"""Training rerankers of one's own: labels, losses, adapters, optimizers, the trainer, and what came of it.

Importing this package imports no torch.
"""
