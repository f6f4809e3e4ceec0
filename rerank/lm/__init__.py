"""Torch machinery that backends and training share: loading, tokenization, decoding, scoring and caches."""
