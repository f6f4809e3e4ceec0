"""What a training may be after in place of losses: one objective a file, found by its name."""
