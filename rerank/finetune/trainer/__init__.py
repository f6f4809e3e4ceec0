"""The training itself: data, model, loss, checkpoints, validation and the adapter folder that results."""
