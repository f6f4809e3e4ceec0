"""Suites of runs and leaderboards of their results; `site` builds the leaderboard site."""
