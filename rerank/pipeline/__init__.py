"""The driver, which runs strategies with a judge, divides documents into passages, and splits oversized windows."""
