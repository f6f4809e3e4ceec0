"""The driver that runs strategies with a judge, passages of long documents, and splitting of oversized windows."""
