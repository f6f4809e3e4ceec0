"""Experimental methods that train a few layers at a time, one plug-in per file."""
