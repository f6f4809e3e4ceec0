"""Training of rerankers: labels, losses, adapters, optimizers, the trainer, and inspection of trained models.

Importing this package does not import torch.
"""
