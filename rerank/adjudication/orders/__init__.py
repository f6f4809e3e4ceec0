"""Judging orders, which decide the next document of a pool to judge; one per module."""
