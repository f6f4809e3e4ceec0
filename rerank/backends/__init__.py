"""Backends, which run language models and rerankers, locally or on servers. Each is one module or package.

Torch and other heavy packages are imported when a model is loaded, not when the module of its backend is imported.
"""

from rerank.registry import Registry

__all__ = ["BACKENDS"]

BACKENDS = Registry(
    "backends", "backend", shared={"backends.fake": "fake fake_server", "backends.encoder_decoder": "seq2seq fusion"}
)
