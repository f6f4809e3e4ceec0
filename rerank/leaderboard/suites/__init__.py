"""Suites: which rerankers run over which candidates, the missing runs made, and their results compared."""
