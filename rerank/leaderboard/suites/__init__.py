"""Suites, which run several rerankers on the same first-stage candidates and compare the results."""
