"""Torch code shared by backends and training: model loading, tokenization, decoding, scoring and KV caches."""
