"""Inspection of trained adapters and models: changed weights, merging, and forgetting."""
