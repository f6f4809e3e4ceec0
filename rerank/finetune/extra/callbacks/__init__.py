"""What is done to a model between steps: one a file, opened by name."""
