"""Suites: run several rerankers on first-stage candidates, and compare the results."""
