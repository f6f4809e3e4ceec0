"""Suites that run several rerankers, and leaderboards that compare the results of runs on a static site."""
