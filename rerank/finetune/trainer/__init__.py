"""The training loop: examples, model and loss, checkpoints, validation, and the resulting adapter folder."""
