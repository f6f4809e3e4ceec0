"""Numbers that a model gives and a label wants, turned into one to be made small: one a file, opened by name."""
