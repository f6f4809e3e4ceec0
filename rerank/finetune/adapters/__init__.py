"""Ways of changing a model by training few numbers, or all of them: one a file, opened by name."""
