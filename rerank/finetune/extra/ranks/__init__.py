"""Experimental methods that choose a rank per matrix, one plug-in per file."""
