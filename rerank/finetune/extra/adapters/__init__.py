"""Experimental adapters, one plug-in per file."""
