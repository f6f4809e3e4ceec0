"""Training methods of the research literature that few people use; marked experimental in listings."""
