"""The driver, which runs strategies with a judge, and divides long documents into passages and oversized windows."""
