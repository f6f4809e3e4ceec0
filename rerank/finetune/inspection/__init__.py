"""What is in a trained adapter, and what it did to the model."""
