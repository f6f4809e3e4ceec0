"""Suites of runs, and leaderboards of their results. The module `site` builds the leaderboard site."""
