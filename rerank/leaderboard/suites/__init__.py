"""Suites: run rerankers over first-stage candidates, and compare the results."""
