"""Inspection of trained adapters and models: changed weights and merging."""
