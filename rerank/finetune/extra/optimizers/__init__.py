"""Experimental optimizers, one plug-in per file."""
