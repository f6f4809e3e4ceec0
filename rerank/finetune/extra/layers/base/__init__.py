"""Code that layer sampling methods share."""
