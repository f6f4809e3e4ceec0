"""Ways of training some layers at a time: one a file, opened by name."""
