"""The driver, which runs strategies with a judge, splits long documents into passages, and splits oversized windows."""
