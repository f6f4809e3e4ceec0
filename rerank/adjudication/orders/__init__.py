"""Orders of judging: which document of a pool a person looks at next, one a file."""
