"""Code that several experimental adapters share."""
