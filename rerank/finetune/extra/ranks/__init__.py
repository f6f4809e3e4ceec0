"""Ways of giving each matrix a rank of its own: one a file, opened by name."""
